"""A night's lists as rows, users and default lists alike, for the sinks that Beam itself writes.

`ROWS`: user_id (null: a default list), country (of a default list; null: everywhere), video_ids, scores, vector.
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
        "vector": pl.List(pl.Float32()),
    }
)
SLICE_ROWS = 1_000  # as Python objects at a time: a list of 200 is some 20 kB of them


@dataclass(frozen=True, kw_only=True)
class ListPart:
    """A file of lists, of a bucket's users or of defaults, and the file of the users' vectors or ""."""

    lists: str
    vectors: str = ""
    start: float = 0.0  # which share of the rows comes last instead of first


def read_rows(part: ListPart) -> pl.DataFrame:
    """`ROWS` of a part, in its file's order but for `start`. Users without a vector have an empty one."""
    rows = files.read_parquet(part.lists)
    if part.vectors:
        rows = rows.join(files.read_parquet(part.vectors), on="user_id", how="left", maintain_order="left")
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in ROWS.items() if name not in rows.columns]
    rows = rows.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in ROWS.items())
    at = int(part.start * rows.height)
    return pl.concat([rows[at:], rows[:at]]).with_columns(pl.col("vector").fill_null([]))


@dataclass
class ReadRows(beam.PTransform):
    """`ListPart`s -> frames of `ROWS`, `SLICE_ROWS` at most each."""

    def expand(self, parts: beam.PCollection[ListPart]) -> beam.PCollection[pl.DataFrame]:
        return parts | beam.Reshuffle() | beam.FlatMap(self._slices).with_output_types(pl.DataFrame)

    def _slices(self, part: ListPart) -> Iterator[pl.DataFrame]:
        yield from read_rows(part).iter_slices(SLICE_ROWS)
        progress.advance()
