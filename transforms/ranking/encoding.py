"""Raw numbers of impressions to what the ranker reads: one TFT graph, applied inside the ranker (paper, 4.1).

Each number becomes its place among quantiles of the training impressions, in [0, 1) with linear interpolation between
them, and the square and the root of that. A number that is not known (NaN) is 0 in all three, with a flag that says so.

TFT analyses one narrow table, a sample of the training impressions. Quantiles are a sketch, which comes out differently
in another order, so it is given one sorted batch, whatever the runner. All numbers are analysed as one vector: an
analyser each made the Beam graph several times as large and slow. Quantiles that coincide count once: a number that is
0 for most would else keep its other values in a sliver below 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core import files, progress
from transforms.core.files import FileEntry
from transforms.core.frames import id_digests, mix
from transforms.core.tensorflow_import import import_tensorflow
from transforms.examples.encoding import ANALYSED_ROWS
from transforms.examples.tft_graph import write_tft_graph

QUANTILES = 100
BELOW_ONE = 1 - 2**-16
_DRAW_OF_ANALYSED_ROWS = 0x72616E6B696E67  # "ranking"


def drawn_numbers(impressions: pl.DataFrame, *, numbers: Sequence[str], seed: int) -> pl.DataFrame:
    """numbers (Float32, NaN: not known), drawn: of at most `ANALYSED_ROWS` impressions, those with the lowest digest.

    impressions: user_id, video_id, time, and the numbers, raw.
    """
    drawn = mix(
        seed,
        _DRAW_OF_ANALYSED_ROWS,
        id_digests(impressions["user_id"]).to_numpy(),
        id_digests(impressions["video_id"]).to_numpy(),
        impressions["time"].to_physical().to_numpy(),
    )
    columns = [pl.col(name).cast(pl.Float32).fill_null(float("nan")) for name in numbers]
    rows = impressions.select(columns).with_columns(drawn=pl.Series(drawn[: impressions.height], dtype=pl.UInt64))
    return merge_drawn_numbers([rows], numbers=numbers)


def merge_drawn_numbers(parts: Iterable[pl.DataFrame], *, numbers: Sequence[str]) -> pl.DataFrame:
    """`drawn_numbers` of all impressions together, from those of parts of them, merged in any order and in any tree."""
    rows = pl.concat([pl.DataFrame(schema=dict.fromkeys(numbers, pl.Float32) | {"drawn": pl.UInt64}), *parts])
    if rows.height > ANALYSED_ROWS:
        rows = rows.sort("drawn", *numbers)[:ANALYSED_ROWS]  # a video shown twice at a time has one digest
    return rows


def parts_of(spec: RankingSpec) -> dict[str, list[str]]:
    """The graph's inputs, and of which numbers each is the matrix [rows, numbers]; a part without any is left out."""
    parts = {"query": spec.query_numbers, "impression": spec.impression_numbers}
    return {part: numbers for part, numbers in parts.items() if numbers}


def analysed_numbers(drawn: pl.DataFrame, *, parts: Mapping[str, Sequence[str]]) -> pa.RecordBatch:
    """The narrow table TFT analyses, in the order drawn: for each part a list of its numbers a row.

    A number that no row knows has one 0: there must be something to take quantiles of.
    """
    rows = drawn.sort("drawn", *drawn.drop("drawn").columns).drop("drawn")
    rows = rows if rows.height else pl.DataFrame({name: [float("nan")] for name in rows.columns}, schema=rows.schema)
    matrix = rows.to_numpy(writable=True).astype(np.float32)
    matrix[0, np.isnan(matrix).all(axis=0)] = 0
    place = {name: i for i, name in enumerate(rows.columns)}
    return to_matrices({part: matrix[:, [place[name] for name in numbers]] for part, numbers in parts.items()})


def to_matrices(matrices: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    """Matrices float [rows, columns] as TFT takes them: a large_list of the columns' values a row."""
    lists = []
    for matrix in matrices.values():
        offsets = pa.array(np.arange(len(matrix) + 1) * matrix.shape[1], pa.int64())
        lists.append(pa.LargeListArray.from_arrays(offsets, pa.array(matrix.astype(np.float32).ravel())))
    return pa.RecordBatch.from_arrays(lists, list(matrices))


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """TFT's preprocessing function: of each part PART_quantiles, _squares, _roots, _known, float [rows, numbers]."""
    tf = import_tensorflow()
    import tensorflow_transform as tft

    outputs = {}
    for part, numbers in inputs.items():
        boundaries = tft.quantiles(numbers, num_buckets=QUANTILES, epsilon=0.001, reduce_instance_dims=False)
        quantiles, known = interpolated(numbers, boundaries)
        outputs[f"{part}_quantiles"], outputs[f"{part}_known"] = quantiles, known
        outputs[f"{part}_squares"], outputs[f"{part}_roots"] = tf.square(quantiles), tf.sqrt(quantiles)
    return outputs


def interpolated(numbers: Any, boundaries: Any) -> tuple[Any, Any]:
    """(quantiles, known), float [rows, numbers]: places in [0, 1) among the distinct boundaries, 0 where NaN.

    boundaries: float [numbers, n], rising. As np.interp has it between them; 0 below the first, just under 1 from the
    last on.
    """
    tf = import_tensorflow()
    columns = tf.transpose(numbers)
    known = tf.math.logical_not(tf.math.is_nan(columns))
    lowest, highest = boundaries[:, :1], boundaries[:, -1:]
    columns = tf.clip_by_value(tf.where(known, columns, lowest), lowest, highest)
    is_new = tf.cast(boundaries[:, 1:] > boundaries[:, :-1], tf.float32)
    rank = tf.cumsum(tf.pad(is_new, [[0, 0], [1, 0]]), axis=1)
    gap = tf.pad(boundaries[:, 1:] - boundaries[:, :-1], [[0, 0], [0, 1]])
    # Of coinciding boundaries the last is found, whose gap is the one to the next distinct.
    below = tf.searchsorted(boundaries, columns, side="right") - 1
    place = below + tf.range(tf.shape(boundaries)[0])[:, tf.newaxis] * tf.shape(boundaries)[1]

    def at(table: Any) -> Any:  # flat: a gather with batch dimensions takes longer
        return tf.gather(tf.reshape(table, [-1]), place)

    within = at(rank) + (columns - at(boundaries)) * at(tf.math.divide_no_nan(1.0, gap))
    quantiles = tf.minimum(tf.math.divide_no_nan(within, rank[:, -1:]), BELOW_ONE)
    flags = tf.cast(known, tf.float32)
    return tf.transpose(quantiles * flags), tf.transpose(flags)


@dataclass
class DrawNumbers(beam.PTransform):
    """Training impressions (user_id, video_id, time, the spec's numbers raw) -> one Parquet file `folder/name`:
    `drawn_numbers` of all of them."""

    spec: RankingSpec
    seed: int
    folder: str
    name: str

    def expand(self, impressions: beam.PCollection[pl.DataFrame]) -> beam.PCollection:
        merge = partial(merge_drawn_numbers, numbers=self.spec.numbers)
        drawn = impressions | "Draw" >> beam.Map(self._drawn).with_output_types(pl.DataFrame)
        rows = drawn | beam.CombineGlobally(merge).with_output_types(pl.DataFrame)
        return rows | beam.Map(files.write_parquet, self.folder, self.name).with_output_types(Any)

    def _drawn(self, impressions: pl.DataFrame) -> pl.DataFrame:
        progress.advance()
        return drawn_numbers(impressions, numbers=self.spec.numbers, seed=self.seed)


def write_numbers_graph(
    drawn: pl.DataFrame, folder: str, *, spec: RankingSpec, pipeline: beam.Pipeline
) -> list[FileEntry]:
    """Write TFT's graph of the spec's numbers to `folder`, from `drawn_numbers` of all training impressions.

    `pipeline`, and what is returned: as for `write_tft_graph`.
    """
    tf, parts = import_tensorflow(), parts_of(spec)
    features = {part: tf.io.FixedLenFeature([len(names)], tf.float32) for part, names in parts.items()}
    return write_tft_graph(analysed_numbers(drawn, parts=parts), features, preprocess, folder, pipeline=pipeline)
