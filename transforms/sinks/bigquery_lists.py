"""Write a night's lists to BigQuery: the schemas, the rows, and Beam's sink.

Rows are loaded from files (`FILE_LOADS`): a load is free of charge, replaces a table atomically, and its rows can be
counted immediately. Beam's Storage Write API for Python needs an additional Java service, and appends the rows of
failed attempts. The files are Avro, which BigQuery reads in parallel blocks and which keeps every bit of floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa

from transforms.sinks.list_rows import SLICE_ROWS, ReadListRows

Schema = dict[str, list[dict[str, str]]]


def _field(name: str, kind: str, mode: str, description: str) -> dict[str, str]:
    return {"name": name, "type": kind, "mode": mode, "description": description}


LISTS: Schema = {
    "fields": [
        _field("user_id", "STRING", "NULLABLE", "the user; null: a default list, for users without a list"),
        _field("country", "STRING", "NULLABLE", "the country of a default list; null: all countries"),
        _field("video_ids", "STRING", "REPEATED", "best first, without duplicates"),
        _field("scores", "FLOAT64", "REPEATED", "the score of each video, in the order of video_ids"),
        _field(
            "expected_seconds",
            "FLOAT64",
            "REPEATED",
            "the expected watch seconds of each video of a ranked list; NaN for videos behind the ranked ones",
        ),
        _field("vector", "FLOAT64", "REPEATED", "[u; 1], if vectors are configured"),
    ]
}
VIDEOS: Schema = {
    "fields": [
        _field("video_id", "STRING", "REQUIRED", "the video"),
        _field("vector", "FLOAT64", "REPEATED", "[v; b]: its dot product with a user's vector is a score"),
    ]
}


def to_dicts(frame: pl.DataFrame, schema: Schema) -> list[dict[str, Any]]:
    """Convert a frame to BigQuery's rows, by the names of the schema. Repeated fields must not be null."""
    return frame.select(field["name"] for field in schema["fields"]).to_dicts()


@dataclass
class LoadTable(beam.PTransform):
    """Write frames to a table (project:dataset.table), which is created or replaced atomically.

    temp: a folder on Cloud Storage for the files to load; None: that of the runner's options. The table is clustered by
    its first column, so that a query for one user reads one block.
    """

    table: str
    schema: Schema
    temp: str | None

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> Any:
        from apache_beam.io.gcp.bigquery import BigQueryDisposition, WriteToBigQuery  # the import takes a second

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
    """Write the lists of `ListPart`s to a table."""

    table: str
    temp: str | None

    def expand(self, parts: beam.PCollection) -> Any:
        return parts | ReadListRows() | LoadTable(self.table, LISTS, self.temp)


@dataclass
class LoadVideos(beam.PTransform):
    """Write a file of video vectors to a table, one row group at a time."""

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
