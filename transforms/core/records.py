"""What workers found out, back in the program that started them: small records through one JSON file.

Metrics would count a retried bundle twice, and no runner returns a collection; a file works on all of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.core import files

Record = dict[str, Any]


def write_records(records: list[Record], path: str) -> None:
    """JSON-able records, in an order that does not depend on who found them first."""
    lines = sorted(json.dumps(record, sort_keys=True) for record in records)
    files.replace_file(path, ("[" + ",\n".join(lines) + "]").encode())


def pop_records(path: str) -> list[Record]:
    """The records a pipeline left at `path`, which is removed; none where it left no file."""
    if not files.exists(path):
        return []
    records: list[Record] = json.loads(files.read_bytes(path))
    files.remove_files([path])
    return records


@dataclass
class WriteRecords(beam.PTransform):
    """All records of a collection -> one JSON file; nothing where there is no record."""

    path: str

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[None]:
        return (
            records
            | beam.Map(lambda record: (0, json.dumps(record))).with_output_types(tuple[int, str])
            | beam.GroupByKey()
            | beam.MapTuple(lambda _, lines: write_records([json.loads(line) for line in lines], self.path))
        )
