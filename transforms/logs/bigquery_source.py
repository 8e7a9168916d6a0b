"""Rows of a BigQuery table as frames, read with Beam's own reader: on Dataflow alone, which brings its credentials.

`bigquery:project.dataset.table` in a job's `[logs]` names one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.core.frames import FRAME_ROWS
from transforms.logs.ingest import OPEN, Parse, Tagged, parsed_outputs, screened_frame
from transforms.logs.parsing import Parsed
from transforms.logs.privacy import PrivacyFilter
from transforms.logs.readers import BROKEN, LogTable, RawFrame, names_in_file, with_copies

PREFIX = "bigquery:"


@dataclass
class ReadBigQuery(beam.PTransform):
    """A table -> what `ReadLogs` gives. Of a table with a `time`, a TIMESTAMP, only rows of start <= time < end.

    Rows have no number in a table: those refused are numbered from 1 in the frame they came in.
    """

    name: str  # bigquery:project.dataset.table
    table: LogTable
    renamed: dict[str, str]
    parse: Parse
    start: dt.datetime
    end: dt.datetime
    screen: PrivacyFilter = OPEN

    def expand(self, pipeline: beam.Pipeline) -> Tagged:
        from apache_beam.io.gcp.bigquery import ReadFromBigQuery  # a second to import, needed nowhere else

        project, _, table = self.name.removeprefix(PREFIX).partition(".")
        rows = pipeline | ReadFromBigQuery(
            table=f"{project}:{table}",
            method=ReadFromBigQuery.Method.DIRECT_READ,
            row_restriction=self.restriction(),
        )
        batches = rows | beam.BatchElements(min_batch_size=1_000, max_batch_size=FRAME_ROWS)
        return parsed_outputs(batches, self._parse, self.table)

    def restriction(self) -> str | None:
        """The rows to read, in BigQuery's words."""
        if "time" not in self.table.required:
            return None
        time = self.renamed.get("time", "time")
        return f"{time} >= TIMESTAMP('{self.start.isoformat()}') AND {time} < TIMESTAMP('{self.end.isoformat()}')"

    def _parse(self, rows: list[dict[str, Any]]) -> Iterator[Parsed]:
        raw = raw_frame(rows, self.name, self.table, self.renamed)
        yield screened_frame(raw, self.name, self.table, self.parse, self.screen)


def raw_frame(rows: list[dict[str, Any]], name: str, table: LogTable, renamed: dict[str, str]) -> RawFrame:
    """Rows as Beam's reader gives them -> a raw frame of the columns the table knows. Raises LogError as `read_log`."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    table.check(set(frame.columns), name, renamed)
    names = names_in_file(table, renamed)
    known = frame.select(pl.col(theirs).alias(ours[0]) for theirs, ours in names.items() if theirs in frame.columns)
    whole = with_copies(known, names.values(), {})
    return RawFrame(whole.with_columns(row=pl.int_range(1, pl.len() + 1)), pl.DataFrame(schema=BROKEN))
