"""Raw features to what the model reads: one TFT graph, applied when records are written and again when serving.

TFT analyses one narrow table, a sample of the window's completed watches: the quantiles of example age and the values
of the categories. Its graph then turns the pointers' raw columns into numbers, so training and serving cannot differ.
TensorFlow is imported inside the functions: workers that only parse and shuffle must not load it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from transforms import progress
from transforms.examples import WATCH_CATEGORIES, days_before
from transforms.frames import id_digests, mix
from transforms.quiet import import_tensorflow
from transforms.window import BucketFiles, Holdout, Window, read_users

EXAMPLE_AGE = "example_age"
ANALYSED_ROWS = 1 << 15  # of each bucket: enough for the quantiles of any number of users
_QUANTILES = 100
_DRAW_OF_ANALYSED_ROWS = 0x616E616C797365  # "analyse"


def analysed_rows(
    watches: pl.DataFrame, users: pl.DataFrame, *, categories: Sequence[str], newest: dt.datetime, seed: int
) -> pl.DataFrame:
    """The narrow table TFT analyses: example_age (days) and the raw categories ("" where missing) of completed watches.

    At most `ANALYSED_ROWS` of a bucket, drawn by digest.
    """
    completed = watches.filter("completed")
    if completed.height > ANALYSED_ROWS:
        users_of, times = id_digests(completed["user_id"]).to_numpy(), completed["time"].to_physical().to_numpy()
        drawn = np.argpartition(mix(seed, _DRAW_OF_ANALYSED_ROWS, users_of, times), ANALYSED_ROWS)[:ANALYSED_ROWS]
        completed = completed[np.sort(drawn)]
    rows = completed.with_columns(days_before(newest), *(pl.col(name).cast(pl.String) for name in WATCH_CATEGORIES))
    rows = rows.join(users, on="user_id", how="left", suffix="_of_user", maintain_order="left")
    if "country_of_user" in rows.columns:
        rows = rows.with_columns(country=pl.coalesce("country", "country_of_user"))
    absent = [pl.lit(None, pl.String).alias(name) for name in categories if name not in rows.columns]
    return rows.with_columns(absent).select(EXAMPLE_AGE, pl.col(categories).fill_null(""))


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
class AnalyseFeatures(beam.PTransform):
    """Bucket files -> TFT's graph, written to `folder`."""

    window: Window
    holdout: Holdout
    categories: dict[str, list[str]]
    newest: dt.datetime
    seed: int
    folder: str
    scratch: str

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> beam.PCollection:
        tf = import_tensorflow()
        import tensorflow_transform.beam as tft_beam
        from tensorflow_transform.tf_metadata.schema_utils import schema_from_feature_spec
        from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
        from tfx_bsl.tfxio.tensor_representation_util import InferTensorRepresentationsFromSchema

        features = {EXAMPLE_AGE: tf.io.FixedLenFeature([], tf.float32)}
        features |= {name: tf.io.FixedLenFeature([], tf.string) for name in self.categories}
        empty = pl.DataFrame(schema={EXAMPLE_AGE: pl.Float32} | dict.fromkeys(self.categories, pl.String))
        representations = InferTensorRepresentationsFromSchema(schema_from_feature_spec(features))
        config = TensorAdapterConfig(to_arrow(empty).schema, representations)
        rows = buckets | beam.Reshuffle() | beam.Map(self._rows)
        with tft_beam.Context(temp_dir=self.scratch):
            graph = (rows, config) | tft_beam.AnalyzeDataset(partial(preprocess, categories=self.categories))
            return graph | tft_beam.WriteTransformFn(self.folder)

    def _rows(self, bucket: BucketFiles) -> pa.RecordBatch:
        watches, users = self.holdout.learnable(self.window.watches(bucket)), read_users(bucket)
        rows = analysed_rows(watches, users, categories=list(self.categories), newest=self.newest, seed=self.seed)
        progress.advance()
        return to_arrow(rows)


class FeatureGraph:
    """TFT's graph, loaded, applied to pointers."""

    def __init__(self, folder: str) -> None:
        import_tensorflow()
        import tensorflow_transform as tft

        self._layer = tft.TFTransformOutput(folder).transform_features_layer()

    def encode(self, pointers: pl.DataFrame, *, categories: Sequence[str]) -> pl.DataFrame:
        """Pointers with raw example age and categories -> the same with those as the model reads them."""
        tf = import_tensorflow()
        raw = {EXAMPLE_AGE: pointers[EXAMPLE_AGE].cast(pl.Float32).to_numpy()}
        for name in categories:
            raw[name] = pointers[name].cast(pl.String).fill_null("").to_numpy().astype(object)
        encoded = self._layer({name: tf.constant(column) for name, column in raw.items()})
        return pointers.with_columns(pl.Series(name, value.numpy().ravel()) for name, value in encoded.items())


@lru_cache(maxsize=2)
def load_graph(folder: str) -> FeatureGraph:
    """The graph at `folder`, once a process."""
    return FeatureGraph(folder)
