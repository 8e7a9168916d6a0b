"""Which labels a warm night learns from: all that are new since the earlier model, and a share of the older ones.

Without the older ones a model forgets what the new day does not speak of. Every pass replays others: a label's place in
[0, 1) is a digest of its user, its place in the record and the night; the passes take turns around that circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.record_files import RecordFiles, plain
from transforms.core.tensorflow_import import tf

PLACES = 1 << 24
_AT_ONCE = 1024  # records parsed at once while counting


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Labels younger than `days` days, and a `fraction` of the others, drawn by `salt`."""

    days: int
    fraction: float
    salt: str

    def count(self, files: Sequence[str] | RecordFiles, *, epochs: int) -> list[int]:
        """How many labels each of the first `epochs` passes over some record files learns from."""
        records = files if isinstance(files, RecordFiles) else RecordFiles.of(files)
        if not records.paths:
            return [0] * epochs

        @plain
        def add(total: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
            return total + tf.stack([tf.math.count_nonzero(self.keeps(serialized, e)) for e in range(epochs)])

        zeros = tf.zeros([epochs], tf.int64)
        return [int(count) for count in records.read().batch(_AT_ONCE).reduce(zeros, add)]

    def keeps(self, serialized: tf.Tensor, epoch: tf.Tensor | int) -> tf.Tensor:
        """Bool [labels]: which labels of some training records, [records] string, a pass learns from.

        Depends on the label and the pass alone, not on what else is read with it. Fails on records without label days.
        """
        list_of_ints = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
        features = {"user_id": tf.io.FixedLenFeature([], tf.string)}
        parsed = tf.io.parse_example(serialized, features | dict.fromkeys(("label", "label_days"), list_of_ints))
        days = parsed["label_days"]
        same = tf.reduce_all(tf.equal(days.row_splits, parsed["label"].row_splits))
        message = (
            "label_days must have one value a label: run the examples stage again, or train with warm_start = false"
        )
        with tf.control_dependencies([tf.debugging.Assert(same, [message])]):
            lengths = days.row_lengths()
        number = tf.strings.as_string(tf.ragged.range(lengths).values)
        label = tf.strings.join([self.salt, tf.repeat(parsed["user_id"], lengths), number], separator="/")
        share = round(self.fraction * PLACES)
        place = tf.strings.to_hash_bucket_fast(label, PLACES) - tf.cast(epoch, tf.int64) * share
        return (days.values < self.days) | (tf.math.floormod(place, PLACES) < share)
