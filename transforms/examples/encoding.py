"""Raw features to what the model reads: one TFT graph, applied when records are written and again when serving.

TFT analyses one narrow table, a sample of the window's completed watches: the quantiles of example age. They are a
sketch, which comes out differently in another order, so it is given one sorted batch, whatever the runner. The values
of the categories were counted with the vocabularies: TFT would take seconds for each. Its graph then turns the
pointers' raw columns into numbers, so training and serving cannot differ. TensorFlow is imported inside the functions:
workers that only parse and shuffle must not load it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.core import files, progress
from transforms.core.files import FileEntry
from transforms.core.frames import id_digests, mix
from transforms.core.tensorflow_import import import_tensorflow
from transforms.core.threads import process_cache
from transforms.examples.draw_examples import days_before
from transforms.examples.tft_graph import write_tft_graph
from transforms.logs.event_window import BucketFiles, Holdout, Window
from transforms.logs.schemas import TIME

EXAMPLE_AGE = "example_age"
ANALYSED_ROWS = 1 << 17  # of all users: a share of the rows below a quantile is right to 0.14 % (one in 700)
_QUANTILES = 100
_DRAW_OF_ANALYSED_ROWS = 0x616E616C797365  # "analyse"


def drawn_times(watches: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """time, drawn: of completed watches, at most `ANALYSED_ROWS`, those with the lowest digest of (seed, user, video,
    time). By the time alone, logs that have dates for times would give all watches of a few days.

    watches: user_id, video_id, time, completed.
    """
    completed = watches.filter("completed")
    drawn = mix(
        seed,
        _DRAW_OF_ANALYSED_ROWS,
        id_digests(completed["user_id"]).to_numpy(),
        id_digests(completed["video_id"]).to_numpy(),
        completed["time"].to_physical().to_numpy(),
    )
    rows = completed.select("time", drawn=pl.Series(drawn[: completed.height], dtype=pl.UInt64))
    return merge_drawn([rows])


def merge_drawn(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """`drawn_times` of all watches together, from those of parts of them, in any order and merged in any tree."""
    rows = pl.concat([pl.DataFrame(schema={"time": TIME, "drawn": pl.UInt64}), *parts])
    if rows.height > ANALYSED_ROWS:
        rows = rows[np.argpartition(rows["drawn"].to_numpy(), ANALYSED_ROWS)[:ANALYSED_ROWS]]
    return rows


def analysed_ages(times: pl.DataFrame, *, newest: dt.datetime) -> pl.DataFrame:
    """The narrow table TFT analyses: example_age (days), oldest first, of `drawn_times`."""
    return times.sort("time").select(days_before(newest))


def to_arrow(frame: pl.DataFrame) -> pa.RecordBatch:
    """A flat frame as TFT takes it: every column a large_list of one value a row, strings as bytes."""
    offsets = pa.array(np.arange(frame.height + 1), pa.int64())
    kinds = {pl.Float32: pa.float32(), pl.String: pa.large_binary()}
    columns = [frame[name].to_arrow().cast(kinds[type(frame.schema[name])]) for name in frame.columns]
    return pa.RecordBatch.from_arrays([pa.LargeListArray.from_arrays(offsets, c) for c in columns], frame.columns)


def preprocess(inputs: dict[str, Any], *, categories: dict[str, list[str]]) -> dict[str, Any]:
    """TFT's preprocessing function: example age by its quantiles to [0, 1], categories to 1 + index, 0 for the rest."""
    tf = import_tensorflow()
    import tensorflow_transform as tft

    age = inputs[EXAMPLE_AGE]
    boundaries = tft.quantiles(age, num_buckets=_QUANTILES, epsilon=0.001)
    outputs = {EXAMPLE_AGE: tft.apply_buckets_with_interpolation(age, boundaries)}
    for name, values in categories.items():
        with tf.init_scope():
            ids = tf.lookup.KeyValueTensorInitializer(values, range(1, len(values) + 1), tf.string, tf.int64)
            table = tf.lookup.StaticHashTable(ids, default_value=0)
        outputs[name] = table.lookup(inputs[name])
    return outputs


@dataclass
class DrawTimes(beam.PTransform):
    """Bucket files -> one Parquet file `folder/name`: `drawn_times` of all of them."""

    window: Window
    holdout: Holdout
    seed: int
    folder: str
    name: str

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> beam.PCollection:
        times = buckets | beam.Reshuffle() | beam.Map(self._times).with_output_types(pl.DataFrame)
        drawn = times | beam.CombineGlobally(merge_drawn).with_output_types(pl.DataFrame)
        return drawn | beam.Map(files.write_parquet, self.folder, self.name).with_output_types(Any)

    def _times(self, bucket: BucketFiles) -> pl.DataFrame:
        columns = ["user_id", "time", "video_id", "completed"]
        events = self.window.unordered_events(bucket, columns, ["user_id", "time"])
        progress.advance()
        return drawn_times(self.holdout.learnable(events.watches), seed=self.seed)


def write_graph(
    times: pl.DataFrame, folder: str, *, newest: dt.datetime, categories: dict[str, list[str]], pipeline: beam.Pipeline
) -> list[FileEntry]:
    """Write TFT's graph to `folder`, from `drawn_times` of all events.

    `pipeline`, and what is returned: as for `write_tft_graph`.
    """
    tf = import_tensorflow()
    features = {EXAMPLE_AGE: tf.io.FixedLenFeature([], tf.float32)}
    features |= {name: tf.io.FixedLenFeature([], tf.string) for name in categories}
    rows = to_arrow(analysed_ages(times, newest=newest).with_columns(pl.lit("").alias(name) for name in categories))
    return write_tft_graph(rows, features, partial(preprocess, categories=categories), folder, pipeline=pipeline)


class FeatureGraph:
    """TFT's graph, loaded, applied to pointers."""

    def __init__(self, folder: str) -> None:
        import_tensorflow()
        import tensorflow_transform as tft

        self._layer = tft.TFTransformOutput(files.local_copy(folder)).transform_features_layer()

    def encode(self, pointers: pl.DataFrame, *, categories: Sequence[str]) -> pl.DataFrame:
        """Pointers with raw example age and categories -> the same with those as the model reads them.

        The graph treats each feature by itself, so it sees each distinct value of a category once.
        """
        raw = {name: pointers[name].cast(pl.String).fill_null("") for name in categories}
        ages = self._apply({EXAMPLE_AGE: pointers[EXAMPLE_AGE].cast(pl.Float32)}, categories)[EXAMPLE_AGE]
        columns = [pl.Series(EXAMPLE_AGE, ages)]
        for name, values in raw.items():
            distinct = pl.concat([values, pl.Series([""])]).unique()
            ids = pl.Series(self._apply({name: distinct}, categories)[name])
            columns.append(values.replace_strict(distinct, ids, return_dtype=pl.Int64).alias(name))
        return pointers.with_columns(columns)

    def _apply(self, given: dict[str, pl.Series], categories: Sequence[str]) -> dict[str, np.ndarray]:
        """The graph's outputs for some of its inputs, [n] each; the others are filled in and their outputs ignored."""
        tf = import_tensorflow()
        rows = next(iter(given.values())).len()
        inputs = {name: tf.fill([rows], "") for name in categories} | {EXAMPLE_AGE: tf.zeros([rows])}
        for name, column in given.items():
            inputs[name] = tf.constant(column.to_list() if column.dtype == pl.String else column.to_numpy())
        return {name: value.numpy().ravel() for name, value in self._layer(inputs).items()}


@process_cache
def load_graph(folder: str) -> FeatureGraph:
    """The graph at `folder`, once a process."""
    return FeatureGraph(folder)
