"""Raw features to what the tower reads, in the exported model itself: ids and tokens as they stand in logs, values of
categories, years of birth.

    tower.signatures["raw"](
        watches=tf.constant([["first video", "second video", "last video"]]),
        tokens=tf.constant([["köln", "dom", "köln dom"]]),
        country=tf.constant(["DE"]),
        birth_year=tf.constant([1990], tf.int64), year=tf.constant([2026], tf.int64),
    )["vector"]

Categories and numbers go through the graph that wrote the records, so a vector is that of the user's serving record.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from trainer.examples import ExampleFiles, Names
from transforms.contracts.example_spec import MISSING
from transforms.core.tensorflow_import import tf

MOST_NAME_BYTES = 2**30  # the names become part of a graph, and no graph may be larger than 2 GiB
AGE, BIRTH_YEAR, YEAR = "age", "birth_year", "year"


def why_no_raw(files: ExampleFiles, names: Mapping[str, Names]) -> str | None:
    """Why raw features of these examples cannot be read inside a model; None where they can."""
    spec = files.spec
    if files.graph is None:
        return "the examples come without the graph that encodes features (transform_fn)"
    if spec.shared_rows:
        return 'videos out of vocabulary share rows by a digest that TensorFlow does not have (long_tail = "hash")'
    if spec.tokens and "tokens" not in names:
        return "the examples come without the names of the search tokens (search_tokens.parquet)"
    if other := set(spec.numbers) - {AGE}:
        return f"of the numbers only {AGE} is known from raw features, not {', '.join(sorted(other))}"
    size = sum(of.names.nbytes for name, of in names.items() if name in ("videos", "tokens"))
    if size > MOST_NAME_BYTES:
        return f"the names of videos and tokens take {size:,} bytes, and a graph holds no more than {MOST_NAME_BYTES:,}"
    return None


class RawFeatures(tf.Module):
    """From raw features to windows and context; `why_no_raw` must have nothing against it."""

    def __init__(self, files: ExampleFiles, names: Mapping[str, Names]) -> None:
        super().__init__(name="raw_features")
        self.spec = files.spec
        self.ids = {"watches": _lookup(names["videos"].names)}
        self.lengths = {"watches": self.spec.watch_history}
        if self.spec.tokens:
            self.ids["tokens"] = _lookup(names["tokens"].names)
            self.lengths["tokens"] = self.spec.search_history
        self.graph = tf.saved_model.load(files.graph)

    def specs(self) -> dict[str, tf.TensorSpec]:
        """The inputs of the signature, a row a user. `watches` and `tokens`: string [users, any], oldest first,
        shorter ones filled up with "" at either end. Categories: string, "" for none. `birth_year`: 0 for none;
        `year`: that of the moment to predict for, both int64.
        """
        specs = {name: tf.TensorSpec([None, None], tf.string, name=name) for name in self.ids}
        specs |= {name: tf.TensorSpec([None], tf.string, name=name) for name in self.spec.categories}
        years = (BIRTH_YEAR, YEAR) if AGE in self.spec.numbers else ()
        return specs | {name: tf.TensorSpec([None], tf.int64, name=name) for name in years}

    def __call__(self, raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Windows and context as a serving record's: the example age is 0."""
        ages = tf.zeros([tf.shape(raw["watches"])[0]])
        inputs = {name: raw[name] for name in self.spec.categories} | {"example_age": ages}
        encoded = self.graph.transform_fn(inputs)
        batch = {name: tf.cast(tf.reshape(encoded[name], [-1]), tf.int32) for name in self.spec.categories}
        batch |= {name: self._window(name, raw[name]) for name in self.ids} | {"example_age": ages}
        return batch | ({AGE: _age(raw[BIRTH_YEAR], raw[YEAR])} if AGE in self.spec.numbers else {})

    def _window(self, name: str, values: tf.Tensor) -> tf.Tensor:
        """The ids of the last ones, int32 [users, length]. A video out of vocabulary keeps its place, a token does
        not, as in the records."""
        ids = self.ids[name].lookup(values)
        kept = ids > 0 if name == "tokens" else values != ""
        length = self.lengths[name]
        back = tf.cumsum(tf.cast(kept, tf.int32), axis=1, reverse=True)  # 1 is the most recent
        row = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, tf.newaxis], tf.shape(ids))
        places = tf.boolean_mask(tf.stack([row, length - back], axis=2), kept & (back <= length))
        found = tf.boolean_mask(ids, kept & (back <= length))
        return tf.cast(tf.scatter_nd(places, found, tf.stack([tf.shape(ids)[0], length])), tf.int32)


def _age(birth_year: tf.Tensor, year: tf.Tensor) -> tf.Tensor:
    """Float [users], in [0, 1] from 0 to 100 years; `MISSING` without a year of birth."""
    years = tf.cast(tf.cast(year - birth_year, tf.float64) / 100, tf.float32)
    return tf.where(birth_year > 0, tf.clip_by_value(years, 0, 1), MISSING)


def _lookup(names: pa.Array) -> tf.lookup.StaticHashTable:
    """Names to ids from 1; 0 for all others."""
    keys = tf.constant(pc.cast(names, pa.binary()).to_numpy(zero_copy_only=False), tf.string)
    ids = tf.range(1, len(names) + 1, dtype=tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, ids), default_value=0)
