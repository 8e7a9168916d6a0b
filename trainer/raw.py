"""Encoding of raw features in the exported model: video ids and search tokens as in the logs, categories, birth years.

    tower.signatures["raw"](
        watches=tf.constant([["first video", "second video", "last video"]]),
        tokens=tf.constant([["köln", "dom", "köln dom"]]),
        country=tf.constant(["DE"]),
        birth_year=tf.constant([1990], tf.int64), year=tf.constant([2026], tf.int64),
    )["vector"]

Categories and numbers go through the graph that encoded the records: the vector equals that of the serving record.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from trainer.batch import EXAMPLE_AGE, TOKENS, WATCHES, Batch
from trainer.examples import ExampleFiles, Vocabulary
from transforms.contracts.example_spec import MISSING
from transforms.core.tensorflow_import import tf

MAX_NAME_BYTES = 2**30  # the names become part of a graph, and a graph is limited to 2 GiB
AGE, BIRTH_YEAR, YEAR, COMPLETED = "age", "birth_year", "year", "completed"


def raw_unsupported_reason(files: ExampleFiles, vocabularies: Mapping[str, Vocabulary]) -> str | None:
    """Return why a model of these examples cannot read raw features; None if it can."""
    spec = files.spec
    if files.graph is None:
        return "the examples come without the graph that encodes features (transform_fn)"
    if spec.shared_rows:
        return 'videos out of vocabulary share rows by a digest that TensorFlow cannot compute (long_tail = "hash")'
    if spec.tokens and TOKENS not in vocabularies:
        return "the examples come without the names of the search tokens (search_tokens.parquet)"
    if other := set(spec.numbers) - {AGE}:
        return f"{AGE} is the only number that raw features provide, not {', '.join(sorted(other))}"
    size = sum(vocabularies[name].names.nbytes for name in ("videos", TOKENS) if name in vocabularies)
    if size > MAX_NAME_BYTES:
        return f"the names of videos and tokens take {size:,} bytes, and a graph holds no more than {MAX_NAME_BYTES:,}"
    return None


class RawFeatures(tf.Module):
    """The encoding of raw features as windows and context. `raw_unsupported_reason` must return None."""

    def __init__(self, files: ExampleFiles, vocabularies: Mapping[str, Vocabulary]) -> None:
        super().__init__(name="raw_features")
        self.spec = files.spec
        self.ids = {WATCHES: _lookup(vocabularies["videos"].names)}
        self.lengths = {WATCHES: self.spec.watch_history}
        if self.spec.tokens:
            self.ids[TOKENS] = _lookup(vocabularies[TOKENS].names)
            self.lengths[TOKENS] = self.spec.search_history
        self.graph = tf.saved_model.load(files.graph)

    def specs(self) -> dict[str, tf.TensorSpec]:
        """Return the inputs of the signature, with a row for each user.

        `watches` and `tokens`: string [users, any], oldest first; shorter rows are padded with "" on either side.
        `completed`: bool of the shape of `watches`, if the model reads watches that were not completed.
        Categories: string [users], "" if unknown. `birth_year`: int64 [users], 0 if unknown. `year`: int64 [users], the
        year at the time of the prediction.
        """
        specs = {name: tf.TensorSpec([None, None], tf.string, name=name) for name in self.ids}
        if self.spec.partial_watches:
            specs[COMPLETED] = tf.TensorSpec([None, None], tf.bool, name=COMPLETED)
        specs |= {name: tf.TensorSpec([None], tf.string, name=name) for name in self.spec.categories}
        years = (BIRTH_YEAR, YEAR) if AGE in self.spec.numbers else ()
        return specs | {name: tf.TensorSpec([None], tf.int64, name=name) for name in years}

    def __call__(self, raw: Batch) -> Batch:
        """Return the same windows and context as those of a serving record: the example age is 0."""
        ages = tf.zeros([tf.shape(raw[WATCHES])[0]])
        inputs = {name: raw[name] for name in self.spec.categories} | {EXAMPLE_AGE: ages}
        encoded = self.graph.transform_fn(inputs)
        batch = {name: tf.cast(tf.reshape(encoded[name], [-1]), tf.int32) for name in self.spec.categories}
        batch |= {name: self._window(name, *self._read(name, raw)) for name in self.ids} | {EXAMPLE_AGE: ages}
        return batch | ({AGE: _age(raw[BIRTH_YEAR], raw[YEAR])} if AGE in self.spec.numbers else {})

    def _read(self, name: str, raw: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the ids of the strings of a history, and whether each has a place in it.

        As in the records, a completed watch out of vocabulary keeps its place; another watch and a token do not.
        """
        ids = self.ids[name].lookup(raw[name])
        if name == TOKENS:
            return ids, ids > 0
        if not self.spec.partial_watches:
            return ids, raw[name] != ""
        completed, kept = raw[COMPLETED], (raw[name] != "") & (raw[COMPLETED] | (ids > 0))
        return tf.where(completed, ids, ids + self.spec.partial_offset), kept

    def _window(self, name: str, ids: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Return the last ids that are kept, int32 [users, length]."""
        length = self.lengths[name]
        back = tf.cumsum(tf.cast(kept, tf.int32), axis=1, reverse=True)  # 1 is the most recent
        row = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, tf.newaxis], tf.shape(ids))
        inside = kept & (back <= length)
        indices = tf.boolean_mask(tf.stack([row, length - back], axis=2), inside)
        window = tf.scatter_nd(indices, tf.boolean_mask(ids, inside), tf.stack([tf.shape(ids)[0], length]))
        return tf.cast(window, tf.int32)


def _age(birth_year: tf.Tensor, year: tf.Tensor) -> tf.Tensor:
    """Return float [users], in [0, 1] for 0 to 100 years; `MISSING` without a year of birth."""
    years = tf.cast(tf.cast(year - birth_year, tf.float64) / 100, tf.float32)
    return tf.where(birth_year > 0, tf.clip_by_value(years, 0, 1), MISSING)


def _lookup(names: pa.Array) -> tf.lookup.StaticHashTable:
    """Return a table from names to ids from 1; other strings have id 0."""
    keys = tf.constant(pc.cast(names, pa.binary()).to_numpy(zero_copy_only=False), tf.string)
    ids = tf.range(1, len(names) + 1, dtype=tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, ids), default_value=0)
