"""Encode raw features with one TFT graph, which is applied when records are written and when they are served.

TFT analyses one narrow table, a sample of the completed watches in the window, for the quantiles of example age. Its
quantile sketch depends on the order of rows, so the table is one sorted batch on every runner. The values of categories
come from the vocabulary stage, because counting them in TFT takes seconds for each category. As the graph converts raw
columns to numbers, training and serving cannot differ. TensorFlow is imported within functions, because workers that
only parse and shuffle must not load it.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.core import files, progress
from transforms.core.digests import event_digests
from transforms.core.files import FileEntry
from transforms.core.process_cache import process_cache
from transforms.core.tensorflow_import import import_tensorflow
from transforms.examples.draw_examples import example_age
from transforms.logs.event_window import COMPLETED_COLUMNS, BucketFiles, Holdout, Window
from transforms.logs.schemas import TIME

EXAMPLE_AGE = "example_age"
ANALYSED_ROWS = 1 << 17  # the standard error of the share of rows below a quantile is at most 0.14 %
_QUANTILES = 100
_ANALYSIS_SEED = 0x616E616C797365  # "analyse"


def sample_times(watches: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Sample at most `ANALYSED_ROWS` completed watches: `time` and `drawn`, a digest of (seed, user, video, time).

    The watches with the smallest digests are sampled. A digest of the time alone would sample all watches of a few days
    if logs have dates instead of times.

    watches: user_id, video_id, time, completed.
    """
    completed = watches.filter("completed")
    return merge_samples([completed.select("time", drawn=event_digests(completed, seed, _ANALYSIS_SEED))])


def merge_samples(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Merge samples of disjoint watches to `sample_times` of all of them. The order of merges does not matter."""
    rows = pl.concat([pl.DataFrame(schema={"time": TIME, "drawn": pl.UInt64}), *parts])
    if rows.height > ANALYSED_ROWS:
        rows = rows[np.argpartition(rows["drawn"].to_numpy(), ANALYSED_ROWS)[:ANALYSED_ROWS]]
    return rows


def example_ages(times: pl.DataFrame, *, newest: dt.datetime) -> pl.DataFrame:
    """Return the table that TFT analyses: example_age (days) of sampled times, oldest first."""
    return times.sort("time").select(example_age(newest))


def to_arrow(frame: pl.DataFrame) -> pa.RecordBatch:
    """Convert a frame to TFT's input format: each column a large_list with one value per row, strings as bytes."""
    offsets = pa.array(np.arange(frame.height + 1), pa.int64())
    types = {pl.Float32: pa.float32(), pl.String: pa.large_binary()}
    columns = [frame[name].to_arrow().cast(types[type(frame.schema[name])]) for name in frame.columns]
    return pa.RecordBatch.from_arrays([pa.LargeListArray.from_arrays(offsets, c) for c in columns], frame.columns)


def preprocess(inputs: dict[str, Any], *, categories: dict[str, list[str]]) -> dict[str, Any]:
    """Encode features (TFT's preprocessing function): example age by its quantiles to [0, 1], categories to ids.

    The id of a category's value is its position from 1; other values get 0.
    """
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
class SampleTimes(beam.PTransform):
    """Write `sample_times` of the learnable watches of all bucket files to the Parquet file `folder/name`."""

    window: Window
    holdout: Holdout
    seed: int
    folder: str
    name: str

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> beam.PCollection:
        times = buckets | beam.Reshuffle() | beam.Map(self._times).with_output_types(pl.DataFrame)
        drawn = times | beam.CombineGlobally(merge_samples).with_output_types(pl.DataFrame)
        return drawn | beam.Map(files.write_parquet, self.folder, self.name).with_output_types(Any)

    def _times(self, bucket: BucketFiles) -> pl.DataFrame:
        events = self.window.unordered_events(bucket, COMPLETED_COLUMNS, ["user_id", "time"])
        progress.advance()
        return sample_times(self.holdout.learnable(events.watches), seed=self.seed)


def write_graph(
    times: pl.DataFrame, folder: str, *, newest: dt.datetime, categories: dict[str, list[str]], pipeline: beam.Pipeline
) -> list[FileEntry]:
    """Write TFT's graph to `folder`, from `sample_times` of all watches.

    `pipeline` and the result are those of `write_tft_graph`.
    """
    tf = import_tensorflow()
    features = {EXAMPLE_AGE: tf.io.FixedLenFeature([], tf.float32)}
    features |= {name: tf.io.FixedLenFeature([], tf.string) for name in categories}
    rows = to_arrow(example_ages(times, newest=newest).with_columns(pl.lit("").alias(name) for name in categories))
    return write_tft_graph(rows, features, partial(preprocess, categories=categories), folder, pipeline=pipeline)


def write_tft_graph(
    rows: pa.RecordBatch,
    features: Mapping[str, Any],
    preprocess: Callable[[Any], dict[str, Any]],
    folder: str,
    *,
    pipeline: beam.Pipeline,
) -> list[FileEntry]:
    """Analyse `rows` for TFT's preprocessing function, write its graph to `folder` and return its files' entries.

    features: TensorFlow's parsing spec of the columns. pipeline: an empty pipeline that runs in this process, as there
    are few rows. TensorFlow supports few object stores, so the graph is written to a local disk and then uploaded.
    """
    import_tensorflow()
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata.schema_utils import schema_from_feature_spec
    from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
    from tfx_bsl.tfxio.tensor_representation_util import InferTensorRepresentationsFromSchema

    representations = InferTensorRepresentationsFromSchema(schema_from_feature_spec(features))
    with tempfile.TemporaryDirectory(prefix="watchnext-") as scratch:
        local = Path(scratch) / "graph"
        path = f"{scratch}/rows.arrow"
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_batch(rows)
        with pipeline, tft_beam.Context(temp_dir=f"{scratch}/tft"):
            # Beam compresses what a graph contains with bz2, which takes seconds for 10 MB.
            read = beam.Map(_read_batch).with_output_types(pa.RecordBatch)
            analysed = pipeline | beam.Create([path], reshuffle=False) | read
            graph = (analysed, TensorAdapterConfig(rows.schema, representations)) | tft_beam.AnalyzeDataset(preprocess)
            graph | tft_beam.WriteTransformFn(str(local))
        return files.upload_all(local, folder)


def _read_batch(path: str) -> pa.RecordBatch:
    with pa.memory_map(path) as file:
        return pa.ipc.open_file(file).get_batch(0)


class FeatureGraph:
    """A TFT graph that encodes pointers."""

    def __init__(self, folder: str) -> None:
        import_tensorflow()
        import tensorflow_transform as tft

        self._layer = tft.TFTransformOutput(files.local_copy(folder)).transform_features_layer()

    def encode(self, pointers: pl.DataFrame, *, categories: Sequence[str]) -> pl.DataFrame:
        """Replace raw example age and categories of pointers with encoded ones.

        The graph encodes each feature independently, so it is applied once to each distinct value of a category.
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
        """Return the graph's outputs, [n] each, for some of its inputs; the other inputs are filled with defaults."""
        tf = import_tensorflow()
        rows = next(iter(given.values())).len()
        inputs = {name: tf.fill([rows], "") for name in categories} | {EXAMPLE_AGE: tf.zeros([rows])}
        for name, column in given.items():
            inputs[name] = tf.constant(column.to_list() if column.dtype == pl.String else column.to_numpy())
        return {name: value.numpy().ravel() for name, value in self._layer(inputs).items()}


@process_cache
def load_graph(folder: str) -> FeatureGraph:
    """Load the graph at `folder` once per process."""
    return FeatureGraph(folder)
