"""The encoding of impressions' raw numbers for the ranker: one TFT graph, applied inside the ranker (paper, 4.1).

Each number becomes its position among the quantiles of the training impressions, in [0, 1) with linear interpolation,
and the square and the square root of that. An unknown number (NaN) is 0 in all three, with a flag.

TFT analyses one narrow table, a sample of the training impressions. Its quantiles are a sketch that depends on the
order of rows, so it gets one sorted batch on every runner. All numbers are analysed as one vector: an analyser per
number made the Beam graph several times as large and slow. Equal quantiles count once: otherwise the other values of a
number that is mostly 0 would all be just below 1.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core import files, progress
from transforms.core.days import local_dates
from transforms.core.digests import event_digests
from transforms.core.files import FileEntry
from transforms.core.tensorflow_import import import_tensorflow
from transforms.examples.encoding import ANALYSED_ROWS, write_tft_graph

QUANTILES = 100
BELOW_ONE = 1 - 2**-16
_ANALYSIS_SALT = 0x72616E6B696E67  # "ranking"


def draw_numbers(impressions: pl.DataFrame, *, numbers: Sequence[str], seed: int, zone: str) -> pl.DataFrame:
    """Return the numbers (Float32, NaN: unknown), `drawn`, a digest, and `day`, the date, of the `ANALYSED_ROWS`
    impressions with the lowest digests.

    impressions: user_id, video_id, time, and the raw numbers. zone: time zone of the dates.
    """
    columns = [pl.col(name).cast(pl.Float32).fill_null(float("nan")) for name in numbers]
    drawn = event_digests(impressions, seed, _ANALYSIS_SALT)
    rows = impressions.select(columns).with_columns(drawn=drawn, day=local_dates(impressions["time"], zone))
    return merge_drawn_numbers([rows], numbers=numbers)


def merge_drawn_numbers(parts: Iterable[pl.DataFrame], *, numbers: Sequence[str]) -> pl.DataFrame:
    """Return `draw_numbers` of all impressions from those of disjoint parts; the order of merges does not matter."""
    schema = dict.fromkeys(numbers, pl.Float32) | {"drawn": pl.UInt64, "day": pl.Date}
    rows = pl.concat([pl.DataFrame(schema=schema), *parts])
    if rows.height > ANALYSED_ROWS:
        # A video shown twice at one time has equal digests.
        rows = rows.sort("drawn", "day", *numbers)[:ANALYSED_ROWS]
    return rows


def add_earlier_numbers(
    drawn: pl.DataFrame, earlier: pl.DataFrame, *, numbers: Sequence[str], days: Collection[dt.date]
) -> pl.DataFrame:
    """Return the drawn numbers of a night's new impressions and of those of an earlier night, at most `ANALYSED_ROWS`.

    earlier: drawn numbers of an earlier night, which may lack some of `numbers`: they are unknown. Only its rows of
    `days` count.
    """
    rows = earlier.filter(pl.col("day").is_in(sorted(days)))
    unknown = [pl.lit(float("nan"), pl.Float32).alias(name) for name in numbers if name not in earlier.columns]
    return merge_drawn_numbers([drawn, rows.with_columns(unknown).select(drawn.columns)], numbers=numbers)


def graph_inputs(spec: RankingSpec) -> dict[str, list[str]]:
    """Return the graph's inputs and the numbers that form the columns of each; an input without numbers is omitted."""
    parts = {"query": spec.query_numbers, "impression": spec.impression_numbers}
    return {part: numbers for part, numbers in parts.items() if numbers}


def analysis_table(drawn: pl.DataFrame, *, parts: Mapping[str, Sequence[str]]) -> pa.RecordBatch:
    """Return the narrow table that TFT analyses, ordered by digest: for each part a list of its numbers per row.

    A number that is unknown in all rows gets one 0, because quantiles need at least one value.
    """
    numbers = drawn.drop("drawn", "day").columns
    rows = drawn.sort("drawn", "day", *numbers).select(numbers)
    rows = rows if rows.height else pl.DataFrame({name: [float("nan")] for name in rows.columns}, schema=rows.schema)
    matrix = rows.to_numpy(writable=True).astype(np.float32)
    matrix[0, np.isnan(matrix).all(axis=0)] = 0
    column = {name: i for i, name in enumerate(rows.columns)}
    return matrices_to_arrow({part: matrix[:, [column[name] for name in numbers]] for part, numbers in parts.items()})


def matrices_to_arrow(matrices: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    """Return float matrices [rows, columns] in the form that TFT takes: a large_list per row."""
    lists = []
    for matrix in matrices.values():
        offsets = pa.array(np.arange(len(matrix) + 1) * matrix.shape[1], pa.int64())
        lists.append(pa.LargeListArray.from_arrays(offsets, pa.array(matrix.astype(np.float32).ravel())))
    return pa.RecordBatch.from_arrays(lists, list(matrices))


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return PART_quantiles, PART_squares, PART_roots and PART_known of each part, float [rows, numbers].

    This is TFT's preprocessing function.
    """
    tf = import_tensorflow()
    import tensorflow_transform as tft

    outputs = {}
    for part, numbers in inputs.items():
        boundaries = tft.quantiles(numbers, num_buckets=QUANTILES, epsilon=0.001, reduce_instance_dims=False)
        quantiles, known = interpolate_quantiles(numbers, boundaries)
        outputs[f"{part}_quantiles"], outputs[f"{part}_known"] = quantiles, known
        outputs[f"{part}_squares"], outputs[f"{part}_roots"] = tf.square(quantiles), tf.sqrt(quantiles)
    return outputs


def interpolate_quantiles(numbers: Any, boundaries: Any) -> tuple[Any, Any]:
    """Return (quantiles, known), float [rows, numbers]: positions in [0, 1) among the distinct boundaries; 0 for NaN.

    boundaries: float [numbers, n], ascending. Positions are linear between boundaries, like np.interp's; 0 below the
    first and just under 1 from the last on.
    """
    tf = import_tensorflow()
    columns = tf.transpose(numbers)
    known = tf.math.logical_not(tf.math.is_nan(columns))
    lowest, highest = boundaries[:, :1], boundaries[:, -1:]
    columns = tf.clip_by_value(tf.where(known, columns, lowest), lowest, highest)
    ranks, gaps = _ranks_and_gaps(boundaries)
    # The last of coinciding boundaries is found, whose gap is the one to the next distinct boundary.
    column = tf.searchsorted(boundaries, columns, side="right") - 1
    index = column + tf.range(tf.shape(boundaries)[0])[:, tf.newaxis] * tf.shape(boundaries)[1]

    def gather(table: Any) -> Any:  # a gather from the flat table is faster than one with batch dimensions
        return tf.gather(tf.reshape(table, [-1]), index)

    position = gather(ranks) + (columns - gather(boundaries)) * gather(tf.math.divide_no_nan(1.0, gaps))
    quantiles = tf.minimum(tf.math.divide_no_nan(position, ranks[:, -1:]), BELOW_ONE)
    flags = tf.cast(known, tf.float32)
    return tf.transpose(quantiles * flags), tf.transpose(flags)


def _ranks_and_gaps(boundaries: Any) -> tuple[Any, Any]:
    """Return (ranks, gaps), float [numbers, n]: the rank of each boundary among the distinct ones of its row, from 0,
    and its distance to the next boundary, 0 for the last."""
    tf = import_tensorflow()
    gaps = boundaries[:, 1:] - boundaries[:, :-1]
    is_new = tf.cast(boundaries[:, 1:] > boundaries[:, :-1], tf.float32)
    return tf.cumsum(tf.pad(is_new, [[0, 0], [1, 0]]), axis=1), tf.pad(gaps, [[0, 0], [0, 1]])


@dataclass
class DrawNumbers(beam.PTransform):
    """Write `draw_numbers` of all training impressions (user_id, video_id, time, raw numbers of the spec) to
    `folder/name`, a Parquet file."""

    spec: RankingSpec
    seed: int
    folder: str
    name: str
    zone: str

    def expand(self, impressions: beam.PCollection[pl.DataFrame]) -> beam.PCollection:
        merge = partial(merge_drawn_numbers, numbers=self.spec.numbers)
        drawn = impressions | "Draw" >> beam.Map(self._drawn).with_output_types(pl.DataFrame)
        rows = drawn | beam.CombineGlobally(merge).with_output_types(pl.DataFrame)
        return rows | beam.Map(files.write_parquet, self.folder, self.name).with_output_types(Any)

    def _drawn(self, impressions: pl.DataFrame) -> pl.DataFrame:
        progress.advance()
        return draw_numbers(impressions, numbers=self.spec.numbers, seed=self.seed, zone=self.zone)


def write_numbers_graph(
    drawn: pl.DataFrame, folder: str, *, spec: RankingSpec, pipeline: beam.Pipeline
) -> list[FileEntry]:
    """Write TFT's graph of the spec's numbers to `folder`; return the entries of its files.

    drawn: `draw_numbers` of all training impressions. pipeline: as for `write_tft_graph`.
    """
    tf, parts = import_tensorflow(), graph_inputs(spec)
    features = {part: tf.io.FixedLenFeature([len(names)], tf.float32) for part, names in parts.items()}
    return write_tft_graph(analysis_table(drawn, parts=parts), features, preprocess, folder, pipeline=pipeline)
