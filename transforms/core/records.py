"""What a pipeline's steps report to the program that started it: small records in one JSON file.

Metrics would count a retried bundle twice, and no runner returns a collection; a file works on all of them.

A record is a frozen dataclass, defined in the module whose step makes it. The file names the class of each record, and
the reader names the classes that it expects:

    (files, counts) | beam.Flatten() | WriteRecords(path)
    pop_records(path, FileEntry, RowsRead).of(RowsRead)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, TypeVar, overload

import apache_beam as beam
from pydantic import ConfigDict, TypeAdapter, ValidationError

from transforms.core import files

T = TypeVar("T")
Record = dict[str, Any]  # of the steps whose records have no class yet


class RecordError(ValueError):
    """A record of a kind that the reader does not expect, or one whose fields are not those of its kind.

    kind: the record's; fields: those that are unknown, missing or of another type, empty for an unknown kind.
    """

    def __init__(self, kind: str, reason: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(f"a record of kind {kind} {reason}")
        self.kind, self.fields = kind, fields


class Records:
    """Records of some kinds, as a pipeline left them."""

    def __init__(self, kinds: Iterable[type[Any]], records: Iterable[Any] = ()) -> None:
        self._of_kind: dict[type[Any], list[Any]] = {kind: [] for kind in kinds}
        for record in records:
            self._of_kind[type(record)].append(record)

    def of(self, kind: type[T]) -> list[T]:
        """Return the records of one kind. Raises KeyError for a kind that was not read."""
        return list(self._of_kind[kind])


def encode(record: Any) -> str:
    """Return a record, a dataclass of JSON values and such dataclasses, as JSON text that names its class."""
    fields = record if isinstance(record, dict) else asdict(record)
    return json.dumps([type(record).__name__, fields], sort_keys=True)


def write_records(lines: Iterable[str], path: str) -> None:
    """Write encoded records to one file, in an order that does not depend on the order of `lines`."""
    files.replace_file(path, ("[" + ",\n".join(sorted(lines)) + "]").encode())


@overload
def pop_records(path: str) -> list[Record]: ...
@overload
def pop_records(path: str, *kinds: type[Any]) -> Records: ...
def pop_records(path: str, *kinds: type[Any]) -> Records | list[Record]:
    """Read the records that a pipeline wrote to `path`, and remove the file; no file holds no records.

    Raises RecordError for a record of another kind, and for a field that is unknown, missing or of another type.
    """
    if not files.exists(path):
        return Records(kinds) if kinds else []
    if not kinds:
        dicts: list[Record] = [fields for _, fields in json.loads(files.read_bytes(path))]
        files.remove_files([path])
        return dicts
    expected = {kind.__name__: kind for kind in kinds}
    found = Records(kinds, (_decode(name, fields, expected) for name, fields in json.loads(files.read_bytes(path))))
    files.remove_files([path])
    return found


def _decode(name: str, fields: dict[str, Any], expected: dict[str, type[Any]]) -> Any:
    if name not in expected:
        raise RecordError(name, f"was found, but the kinds expected are {', '.join(expected)}")
    try:
        return _adapter(expected[name]).validate_json(json.dumps([fields]))[0]
    except ValidationError as error:
        messages = {".".join(map(str, fault["loc"][1:])): fault["msg"] for fault in error.errors()}
        reasons = "; ".join(f"{field}: {message}" for field, message in messages.items())
        raise RecordError(name, f"does not fit its class ({reasons})", tuple(messages)) from None


@cache
def _adapter(kind: type[T]) -> TypeAdapter[list[T]]:
    """Return the reader of a kind. A list, because its settings apply to dataclasses inside it, but not to one alone."""
    return TypeAdapter(list[kind], config=ConfigDict(extra="forbid", strict=True))  # type: ignore[valid-type]


@dataclass
class WriteRecords(beam.PTransform):
    """All records of a collection -> one JSON file; no file if there are no records."""

    path: str

    def expand(self, records: beam.PCollection[Any]) -> beam.PCollection[None]:
        return (
            records
            | beam.Map(lambda record: (0, encode(record))).with_output_types(tuple[int, str])
            | beam.GroupByKey()
            | beam.MapTuple(lambda _, lines: write_records(lines, self.path))
        )
