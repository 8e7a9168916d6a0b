"""The labels that a warm-started training learns from: all that are new to the earlier model, and some of the others.

Without older labels a model forgets what the new day does not contain. Every epoch replays other labels: a label has a
fixed place in [0, 1), a digest of its user, its place in the record and the night, and each epoch takes the next
interval of that circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.batch import LABEL
from trainer.record_files import RecordFiles, no_autograph
from transforms.core.tensorflow_import import tf

PLACES = 1 << 24
LABEL_DAYS = "label_days"


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Labels younger than `days` days, and a `fraction` of the others, drawn by `salt`."""

    days: int
    fraction: float
    salt: str

    def count(self, files: Sequence[str] | RecordFiles, *, epochs: int) -> list[int]:
        """Return how many labels of the files each of the first `epochs` epochs learns from."""
        records = files if isinstance(files, RecordFiles) else RecordFiles.from_paths(files)

        @no_autograph
        def add(total: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
            return total + tf.stack([tf.math.count_nonzero(self.keeps(serialized, e)) for e in range(epochs)])

        zeros = tf.zeros([epochs], tf.int64)
        return [int(count) for count in records.read_blocks().reduce(zeros, add)]

    def keeps(self, serialized: tf.Tensor, epoch: tf.Tensor | int) -> tf.Tensor:
        """Return bool [labels]: which labels of training records, string [records], an epoch learns from.

        The answer depends only on the label and the epoch. Fails on records without `label_days`.
        """
        integers = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
        features = {"user_id": tf.io.FixedLenFeature([], tf.string)}
        parsed = tf.io.parse_example(serialized, features | dict.fromkeys((LABEL, LABEL_DAYS), integers))
        days = parsed[LABEL_DAYS]
        same = tf.reduce_all(tf.equal(days.row_splits, parsed[LABEL].row_splits))
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
