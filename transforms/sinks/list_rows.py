"""Read users' lists and default lists of a night as rows of one schema, for the sinks that Beam writes.

`ROWS`: user_id (null: a default list), country (of a default list; null: all countries), video_ids, scores,
expected_seconds (of a ranked list; NaN for videos that were not ranked), vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import polars as pl

from transforms.core import files, progress

ROWS = pl.Schema(
    {
        "user_id": pl.String(),
        "country": pl.String(),
        "video_ids": pl.List(pl.String()),
        "scores": pl.List(pl.Float32()),
        "expected_seconds": pl.List(pl.Float32()),
        "vector": pl.List(pl.Float32()),
    }
)
SLICE_ROWS = 1_000  # rows that become Python objects at the same time: a list of 200 takes about 20 kB


@dataclass(frozen=True, kw_only=True)
class ListPart:
    """The paths of a file of lists (of a bucket's users, or of default lists) and of the users' vectors, if any."""

    lists: str
    vectors: str = ""
    start: float = 0.0  # the share of rows at the start that is moved to the end


def read_list_rows(part: ListPart) -> pl.DataFrame:
    """Return `ROWS` of a part in the order of the file, rotated by `start`.

    Missing vectors and expected seconds are empty lists. Lists hold no nulls, which BigQuery's arrays do not allow.
    """
    rows = files.read_parquet(part.lists)
    if part.vectors:
        rows = rows.join(files.read_parquet(part.vectors), on="user_id", how="left", maintain_order="left")
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in ROWS.items() if name not in rows.columns]
    rows = rows.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in ROWS.items())
    first = int(part.start * rows.height)
    return pl.concat([rows[first:], rows[:first]]).with_columns(
        pl.col("vector").fill_null([]),
        pl.col("expected_seconds").fill_null([]).list.eval(pl.element().fill_null(float("nan"))),
    )


@dataclass
class ReadListRows(beam.PTransform):
    """Read `ListPart`s as frames of `ROWS`, at most `SLICE_ROWS` rows each."""

    def expand(self, parts: beam.PCollection[ListPart]) -> beam.PCollection[pl.DataFrame]:
        return parts | beam.Reshuffle() | beam.FlatMap(self._slices).with_output_types(pl.DataFrame)

    def _slices(self, part: ListPart) -> Iterator[pl.DataFrame]:
        yield from read_list_rows(part).iter_slices(SLICE_ROWS)
        progress.advance()
