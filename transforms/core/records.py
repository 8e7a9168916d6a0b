"""Return small records from a pipeline's workers to the program that started it, through one JSON file.

Beam metrics count a retried bundle twice, and runners do not return collections. A file works with every runner.

A record is a frozen dataclass or a `JsonModel`, defined in the module whose step makes it. The file names the class of
each record, and the reader names the classes that it expects:

    (files, counts) | beam.Flatten() | WriteRecords(path)
    pop_records(path, FileEntry, RowsRead).of(RowsRead)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import apache_beam as beam
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from transforms.core import files

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


class RecordError(ValueError):
    """A record of a kind that the reader does not expect, or one whose fields are not those of its kind.

    kind: the record's; fields: those that are unknown, missing or of another type, empty for an unknown kind.
    """

    def __init__(self, kind: str, reason: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(f"a record of kind {kind} {reason}")
        self.kind, self.fields = kind, fields


class Records:
    """Records by kind, as a pipeline wrote them."""

    def __init__(self, kinds: Iterable[type[Any]], records: Iterable[Any] = ()) -> None:
        self._of_kind: dict[type[Any], list[Any]] = {kind: [] for kind in kinds}
        for record in records:
            self._of_kind[type(record)].append(record)

    def of(self, kind: type[T]) -> list[T]:
        """Return the records of one kind. Raises KeyError for a kind that was not read."""
        return list(self._of_kind[kind])


@dataclass(frozen=True)
class Counts:
    """Numbers by name that a step counted in one part of its input; the numbers of all parts add up."""

    counts: dict[str, int]


def add_counts(parts: Iterable[Counts]) -> dict[str, int]:
    """Return the sums of the counts of all parts."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part.counts)
    return dict(total)


def encode(record: object) -> str:
    """Return a record as JSON text that names its class. The fields hold JSON values, dataclasses and `JsonModel`s."""
    return json.dumps([type(record).__name__, record], sort_keys=True, default=_fields)


def _fields(record: BaseModel | DataclassInstance) -> dict[str, object]:
    if isinstance(record, BaseModel):
        return record.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return asdict(record)


def write_records(lines: Iterable[str], path: str) -> None:
    """Write encoded records to one file, in an order that does not depend on the order of `lines`."""
    files.replace_file(path, ("[" + ",\n".join(sorted(lines)) + "]").encode())


def pop_records(path: str, *kinds: type[Any]) -> Records:
    """Read the records that a pipeline wrote to `path`, and remove the file. A missing file has no records.

    Raises RecordError for a record of another kind, and for a field that is unknown, missing or of another type.
    """
    if not files.exists(path):
        return Records(kinds)
    expected = {kind.__name__: kind for kind in kinds}
    found = Records(kinds, (_decode(name, fields, expected) for name, fields in json.loads(files.read_bytes(path))))
    files.remove_files([path])
    return found


def _decode(name: str, fields: dict[str, object], expected: dict[str, type[Any]]) -> object:
    kind: Any = expected.get(name)
    if kind is None:
        raise RecordError(name, f"was found, but the kinds expected are {', '.join(expected)}")
    try:
        return _adapter(kind).validate_json(json.dumps([fields]))[0]
    except ValidationError as error:
        messages = {".".join(map(str, fault["loc"][1:])): fault["msg"] for fault in error.errors()}
        reasons = "; ".join(f"{field}: {message}" for field, message in messages.items())
        raise RecordError(name, f"does not fit its class ({reasons})", tuple(messages)) from None


@cache
def _adapter(kind: type[T]) -> TypeAdapter[list[T]]:
    """Return the reader of a list of one kind. Settings apply to dataclasses in a list, but not to one alone."""
    return TypeAdapter(list[kind], config=ConfigDict(extra="forbid", strict=True))  # type: ignore[valid-type]


@dataclass
class WriteRecords(beam.PTransform):
    """Write all records of a collection to one JSON file, or no file if the collection is empty."""

    path: str

    def expand(self, records: beam.PCollection[Any]) -> beam.PCollection[None]:
        return (
            records
            | beam.Map(lambda record: (0, encode(record))).with_output_types(tuple[int, str])
            | beam.GroupByKey()
            | beam.MapTuple(lambda _, lines: write_records(lines, self.path))
        )
