"""Read a BigQuery table as frames, with Beam's reader. Only Dataflow is supported, as it provides the credentials.

A job's `[logs]` section names a table as `bigquery:project.dataset.table`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.core.digests import FRAME_ROWS
from transforms.logs.ingest import NO_FILTER, Parse, Tagged, parse_frame, parsed_outputs
from transforms.logs.parsing import Parsed
from transforms.logs.privacy import PrivacyFilter
from transforms.logs.readers import BROKEN, LogTable, RawFrame, add_copies, names_in_file
from transforms.logs.schemas import BIGQUERY_PREFIX


@dataclass
class ReadBigQuery(beam.PTransform):
    """Read a BigQuery table and parse it as `ReadLogs` does.

    If the table has a `time` (TIMESTAMP), only rows with start <= time < end are read. Rows of a table have no numbers:
    rejected rows are numbered from 1 within their frame.
    """

    name: str  # bigquery:project.dataset.table
    table: LogTable
    renamed: dict[str, str]
    parse: Parse
    start: dt.datetime
    end: dt.datetime
    privacy: PrivacyFilter = NO_FILTER

    def expand(self, pipeline: beam.Pipeline) -> Tagged:
        from apache_beam.io.gcp.bigquery import ReadFromBigQuery  # the import takes a second

        project, _, table = self.name.removeprefix(BIGQUERY_PREFIX).partition(".")
        rows = pipeline | ReadFromBigQuery(
            table=f"{project}:{table}",
            method=ReadFromBigQuery.Method.DIRECT_READ,
            row_restriction=self.restriction(),
        )
        batches = rows | beam.BatchElements(min_batch_size=1_000, max_batch_size=FRAME_ROWS)
        return parsed_outputs(batches, self._parse, self.table)

    def restriction(self) -> str | None:
        """Return the condition on rows in BigQuery's SQL, or None to read all rows."""
        if "time" not in self.table.required:
            return None
        time = self.renamed.get("time", "time")
        return f"{time} >= TIMESTAMP('{self.start.isoformat()}') AND {time} < TIMESTAMP('{self.end.isoformat()}')"

    def _parse(self, rows: list[dict[str, Any]]) -> Iterator[Parsed]:
        raw = raw_frame(rows, self.name, self.table, self.renamed)
        yield parse_frame(raw, self.name, self.table, self.parse, self.privacy)


def raw_frame(rows: list[dict[str, Any]], name: str, table: LogTable, renamed: dict[str, str]) -> RawFrame:
    """Convert rows of Beam's reader to a raw frame of the table's columns. Raises LogError as `read_log` does."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    table.check(set(frame.columns), name, renamed)
    names = names_in_file(table, renamed)
    known = frame.select(pl.col(theirs).alias(ours[0]) for theirs, ours in names.items() if theirs in frame.columns)
    whole = add_copies(known, names.values(), {})
    return RawFrame(whole.with_columns(row=pl.int_range(1, pl.len() + 1)), pl.DataFrame(schema=BROKEN))
