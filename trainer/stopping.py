"""The users of early stopping, and their newest labels, which are measured and never learned from.

The users are a share of those with training labels, drawn by a digest of seed and user id. None of them is in the
holdout records, because the users that evaluation and gates measure must not choose the epoch that is kept.

    users = choose_stopping_users(records, read_user_ids(holdout), seed=1, limit=2_000)
    learned = ~users.newest_labels(serialized)  # bool [labels]
    recall = RecallEvaluator(tower, scores, users.batches(spec, batch_size=1024))
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.auto import STOPPING_SHARE
from trainer.batch import LABEL, Batch
from trainer.inputs import cut_windows, parse_records, watched_before
from trainer.record_files import RecordFiles, no_autograph
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

_PLACES = 1 << 24
_FEATURES = {
    "user_id": tf.io.FixedLenFeature([], tf.string),
    LABEL: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
}


@dataclass(frozen=True, kw_only=True)
class StoppingUsers:
    """The users of early stopping, in order of their digest."""

    user_ids: tuple[bytes, ...]
    records: tf.Tensor  # string [users]: their serialized training records
    is_user: tf.lookup.StaticHashTable  # user id -> 1; all others -> 0

    def newest_labels(self, serialized: tf.Tensor) -> tf.Tensor:
        """Return bool [labels]: which labels of training records, string [records], are the newest of such a user."""
        parsed = tf.io.parse_example(serialized, _FEATURES)
        labels, is_user = parsed[LABEL], self.is_user.lookup(parsed["user_id"]) > 0
        number = tf.range(tf.size(labels.values, tf.int64)) + 1
        newest = tf.equal(number, tf.repeat(labels.row_limits(), labels.row_lengths()))
        return newest & tf.repeat(is_user, labels.row_lengths())

    def batches(self, spec: FeatureSpec, *, batch_size: int) -> tf.data.Dataset:
        """Return (inputs, labels, watched) of the newest labels, in the form of `inputs.one_pointer_batches`."""

        @no_autograph
        def parse(serialized: tf.Tensor) -> tuple[Batch, tf.RaggedTensor, tf.RaggedTensor]:
            parsed, newest = parse_records(serialized, spec, training=True), self.newest_labels(serialized)
            pointers = {name: tf.boolean_mask(values, newest) for name, values in parsed.pointers.items()}
            labels = tf.RaggedTensor.from_uniform_row_length(tf.cast(pointers[LABEL], tf.int64), 1)
            return cut_windows(parsed.lists, pointers, spec), labels, watched_before(parsed.lists, pointers)

        return tf.data.Dataset.from_tensor_slices(self.records).batch(batch_size).map(parse).prefetch(1)


def choose_stopping_users(
    records: RecordFiles, held_out: Collection[bytes], *, seed: int, limit: int
) -> StoppingUsers | None:
    """Return `STOPPING_SHARE` of the users with a training label, at least one and at most `limit`.

    Returns None if all users with a label are held out. The result does not depend on the order of the records.
    """
    below_share, lowest = list[tuple[int, bytes, bytes]](), list[tuple[int, bytes, bytes]]()
    for block, users, labels in _read_blocks(records):
        salted = tf.strings.join([f"stopping {seed}", tf.constant(users)], separator="/")
        places = tf.strings.to_hash_bucket_fast(salted, _PLACES).numpy()
        free = np.flatnonzero((labels > 0) & np.array([user not in held_out for user in users]))
        least = min([place for place, *_ in lowest[:1]] + places[free].tolist(), default=0)
        below_share += [(int(places[i]), users[i], block[i]) for i in free[places[free] < STOPPING_SHARE * _PLACES]]
        lowest += [(int(places[i]), users[i], block[i]) for i in free[places[free] == least]]
        lowest = [user for user in lowest if user[0] == least]
    chosen = sorted(below_share)[:limit] or lowest
    if not chosen:
        return None
    ids = tuple(user_id for _, user_id, _ in chosen)
    table = tf.lookup.KeyValueTensorInitializer(tf.constant(ids), tf.ones([len(ids)], tf.int64))
    return StoppingUsers(
        user_ids=ids,
        records=tf.constant([record for *_, record in chosen]),
        is_user=tf.lookup.StaticHashTable(table, default_value=0),
    )


def read_user_ids(records: RecordFiles) -> set[bytes]:
    """Return the ids of all users in record files."""
    return {user_id for _, user_ids, _ in _read_blocks(records) for user_id in user_ids}


def _read_blocks(records: RecordFiles) -> Iterator[tuple[list[bytes], list[bytes], npt.NDArray[np.int64]]]:
    """Yield blocks of serialized records, their user ids, and how many labels each has."""
    for block in records.read_blocks():
        parsed = tf.io.parse_example(block, _FEATURES)
        yield block.numpy().tolist(), parsed["user_id"].numpy().tolist(), parsed[LABEL].row_lengths().numpy()
