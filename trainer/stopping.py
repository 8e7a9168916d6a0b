"""The users of early stopping: which they are, and their newest label, which is measured and never learned from.

A share of the users with training labels, drawn by a digest of seed and user id. None of them is in the holdout
records: the pass that is kept must not be chosen by the users that evaluation and gates measure.

    stopping = choose(records, user_ids(holdout), seed=1, most=2_000)
    learned = ~stopping.marks(serialized)  # bool [labels]
    recall = Recall(tower, scores, stopping.batches(spec, batch_size=1024))
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.inputs import Batch, cut_windows, parse_records
from trainer.record_files import RecordFiles, plain
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

SHARE = 0.05  # of the users who are not held out
_PLACES = 1 << 24
_AT_ONCE = 1024  # records


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """The users of early stopping, in order of their digest."""

    user_ids: tuple[bytes, ...]
    records: tf.Tensor  # string [users]: their serialized training records
    is_user: tf.lookup.StaticHashTable  # user id -> 1; 0 for everybody else

    def marks(self, serialized: tf.Tensor) -> tf.Tensor:
        """Bool [labels]: which labels of some training records, string [records], are the newest of such a user."""
        parsed = tf.io.parse_example(serialized, _FEATURES)
        labels, of_user = parsed["label"], self.is_user.lookup(parsed["user_id"]) > 0
        newest = tf.equal(tf.range(tf.size(labels.values, tf.int64)) + 1, _each(labels, labels.row_limits()))
        return newest & _each(labels, of_user)

    def batches(self, spec: FeatureSpec, *, batch_size: int) -> tf.data.Dataset:
        """(inputs, labels, watches so far) of the newest labels, as `inputs.one_pointer_batches` returns them."""

        @plain
        def parse(serialized: tf.Tensor) -> tuple[Batch, tf.RaggedTensor, tf.RaggedTensor]:
            parsed, newest = parse_records(serialized, spec, training=True), self.marks(serialized)
            pointers = {name: tf.boolean_mask(of, newest) for name, of in parsed.pointers.items()}
            stop, count = pointers["watches_stop"], pointers["watches_count"]
            seen = tf.gather(parsed.lists["watches"], tf.ragged.range(stop - count, stop))
            labels = tf.RaggedTensor.from_uniform_row_length(tf.cast(pointers["label"], tf.int64), 1)
            return cut_windows(parsed.lists, pointers, spec), labels, seen

        return tf.data.Dataset.from_tensor_slices(self.records).batch(batch_size).map(parse).prefetch(1)


def choose(records: RecordFiles, held_out: Collection[bytes], *, seed: int, most: int) -> Stopping | None:
    """`SHARE` of the users of training records with a label, at least one and at most `most`; None if all are held out.

    The same for the same users, whatever the order of the records.
    """
    drawn, lowest = list[tuple[int, bytes, bytes]](), list[tuple[int, bytes, bytes]]()
    for block, users, labels in _read(records):
        salted = tf.strings.join([f"stopping {seed}", tf.constant(users)], separator="/")
        places = tf.strings.to_hash_bucket_fast(salted, _PLACES).numpy()
        free = np.flatnonzero((labels > 0) & np.array([user not in held_out for user in users]))
        least = min([place for place, *_ in lowest[:1]] + places[free].tolist(), default=0)
        drawn += [(int(places[at]), users[at], block[at]) for at in free[places[free] < SHARE * _PLACES]]
        lowest += [(int(places[at]), users[at], block[at]) for at in free[places[free] == least]]
        lowest = [found for found in lowest if found[0] == least]
    chosen = sorted(drawn)[:most] or lowest
    if not chosen:
        return None
    ids = tuple(user_id for _, user_id, _ in chosen)
    table = tf.lookup.KeyValueTensorInitializer(tf.constant(ids), tf.ones([len(ids)], tf.int64))
    return Stopping(
        user_ids=ids,
        records=tf.constant([record for *_, record in chosen]),
        is_user=tf.lookup.StaticHashTable(table, default_value=0),
    )


def user_ids(records: RecordFiles) -> set[bytes]:
    """The users of record files."""
    return {user_id for _, found, _ in _read(records) for user_id in found}


_FEATURES = {
    "user_id": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
}


def _read(records: RecordFiles) -> Iterator[tuple[list[bytes], list[bytes], npt.NDArray[np.int64]]]:
    """Some serialized records at a time, their users and how many labels each has."""
    for block in records.read().batch(_AT_ONCE) if records.paths else ():
        parsed = tf.io.parse_example(block, _FEATURES)
        yield block.numpy().tolist(), parsed["user_id"].numpy().tolist(), parsed["label"].row_lengths().numpy()


def _each(labels: tf.RaggedTensor, values: tf.Tensor) -> tf.Tensor:
    """A value of each record for each of its labels."""
    return tf.repeat(values, labels.row_lengths())
