"""Return small records from a pipeline's workers to the program that started it, through one JSON file.

Beam metrics count a retried bundle twice, and runners do not return collections. A file works with every runner.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from transforms.core import files

Record = dict[str, Any]


def write_records(records: list[Record], path: str) -> None:
    """Write JSON-serialisable records as one JSON list, sorted, so that the order of the input does not matter."""
    lines = sorted(json.dumps(record, sort_keys=True) for record in records)
    files.replace_file(path, ("[" + ",\n".join(lines) + "]").encode())


def pop_records(path: str) -> list[Record]:
    """Return the records that a pipeline wrote to `path` and remove the file; empty if there is no file."""
    if not files.exists(path):
        return []
    records: list[Record] = json.loads(files.read_bytes(path))
    files.remove_files([path])
    return records


@dataclass
class WriteRecords(beam.PTransform):
    """Write all records of a collection to one JSON file, or no file if the collection is empty."""

    path: str

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[None]:
        return (
            records
            | beam.Map(lambda record: (0, json.dumps(record))).with_output_types(tuple[int, str])
            | beam.GroupByKey()
            | beam.MapTuple(lambda _, lines: write_records([json.loads(line) for line in lines], self.path))
        )
