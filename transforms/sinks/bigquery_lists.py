"""A night's lists as a table of BigQuery: its schema, its rows, and Beam's own sink to write them.

Files are loaded (`FILE_LOADS`), not streamed: a load is free, replaces a table whole or not at all, and its rows are
counted at once. Beam's Storage Write API for Python needs a Java service beside the job, and appends what a failed
attempt left behind. The files are Avro: BigQuery reads blocks of it side by side, and floats keep every bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa

from transforms.sinks.list_rows import SLICE_ROWS, ReadRows

Schema = dict[str, list[dict[str, str]]]


def _field(name: str, kind: str, mode: str, description: str) -> dict[str, str]:
    return {"name": name, "type": kind, "mode": mode, "description": description}


LISTS: Schema = {
    "fields": [
        _field("user_id", "STRING", "NULLABLE", "the user; null: a default list, for users without one"),
        _field("country", "STRING", "NULLABLE", "of a default list: for whom; null: everywhere"),
        _field("video_ids", "STRING", "REPEATED", "best first, no repeats"),
        _field("scores", "FLOAT64", "REPEATED", "of each of them, falling"),
        _field("vector", "FLOAT64", "REPEATED", "[u; 1], where vectors are asked for"),
    ]
}
VIDEOS: Schema = {
    "fields": [
        _field("video_id", "STRING", "REQUIRED", "the video"),
        _field("vector", "FLOAT64", "REPEATED", "[v; b]: its dot product with a user's vector is a score"),
    ]
}


def to_dicts(frame: pl.DataFrame, schema: Schema) -> list[dict[str, Any]]:
    """Rows as BigQuery takes them, by the names of the schema; nothing repeated is null."""
    return frame.select(field["name"] for field in schema["fields"]).to_dicts()


@dataclass
class LoadTable(beam.PTransform):
    """Frames -> a table (project:dataset.table), made where it is missing, replaced whole where it is not.

    temp: folder on Cloud Storage for the files that are loaded; none: that of the runner's options. The table is
    clustered by its first column, so that reading one user costs one block.
    """

    table: str
    schema: Schema
    temp: str | None

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> Any:
        from apache_beam.io.gcp.bigquery import BigQueryDisposition, WriteToBigQuery  # a second to import

        rows = frames | beam.FlatMap(to_dicts, schema=self.schema).with_output_types(dict[str, Any])
        return rows | WriteToBigQuery(
            table=self.table,
            schema=self.schema,
            method=WriteToBigQuery.Method.FILE_LOADS,
            create_disposition=BigQueryDisposition.CREATE_IF_NEEDED,
            write_disposition=BigQueryDisposition.WRITE_TRUNCATE,
            additional_bq_parameters={"clustering": {"fields": [self.schema["fields"][0]["name"]]}},
            custom_gcs_temp_location=self.temp,
            temp_file_format="AVRO",
        )


@dataclass
class LoadLists(beam.PTransform):
    """`ListPart`s -> the table of a night's lists."""

    table: str
    temp: str | None

    def expand(self, parts: beam.PCollection) -> Any:
        return parts | ReadRows() | LoadTable(self.table, LISTS, self.temp)


@dataclass
class LoadVideos(beam.PTransform):
    """A file of video vectors -> the table of them, a row group at a time."""

    path: str
    table: str
    temp: str | None

    def expand(self, pipeline: beam.Pipeline) -> Any:
        columns = [field["name"] for field in VIDEOS["fields"]]
        groups = pipeline | beam.io.ReadFromParquetBatched(self.path, columns=columns)
        return groups | beam.FlatMap(_slices).with_output_types(pl.DataFrame) | LoadTable(self.table, VIDEOS, self.temp)


def _slices(rows: pa.Table) -> Iterator[pl.DataFrame]:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    yield from frame.iter_slices(SLICE_ROWS)
