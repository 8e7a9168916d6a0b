"""The labels that an epoch learns from: all recent ones, and some of the others.

In a warm start, those that are new to the earlier model are recent; without older labels a model forgets what the new
day does not contain. In a cold start, recent labels say more about what is watched next. Every epoch replays other
labels: a label has a fixed place in [0, 1), a digest of its user, its place in the record and the night, and each epoch
takes the next interval of that circle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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

    def label_counts(
        self,
        files: Sequence[str] | RecordFiles,
        *,
        videos: int,
        withheld: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return how often an epoch is expected to learn from a label of each video, float64 [videos], from id 1.

        A recent label counts 1 and an older one its probability, which is also its mean over many epochs. `withheld`:
        the labels that no epoch has, as in `inputs.epoch_batches`.
        """
        records = files if isinstance(files, RecordFiles) else RecordFiles.from_paths(files)

        @no_autograph
        def add(total: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
            parsed = _parse(serialized)
            counts = tf.where(parsed.days < self.days, 1.0, self._share / PLACES)
            if withheld is not None:
                counts = tf.where(withheld(serialized), 0.0, counts)
            return total + tf.math.unsorted_segment_sum(tf.cast(counts, tf.float64), parsed.labels, videos + 1)

        counts: npt.NDArray[np.float64] = records.read_blocks().reduce(tf.zeros([videos + 1], tf.float64), add).numpy()
        return counts[1:]

    def keeps(self, serialized: tf.Tensor, epoch: tf.Tensor | int) -> tf.Tensor:
        """Return bool [labels]: which labels of training records, string [records], an epoch learns from.

        The answer depends only on the label and the epoch. Fails on records without `label_days`.
        """
        parsed = _parse(serialized)
        label = tf.strings.join([self.salt, parsed.user_ids, parsed.numbers], separator="/")
        place = tf.strings.to_hash_bucket_fast(label, PLACES) - tf.cast(epoch, tf.int64) * self._share
        return (parsed.days < self.days) | (tf.math.floormod(place, PLACES) < self._share)

    @property
    def _share(self) -> int:
        """The length of an epoch's interval of the circle, in places."""
        return round(self.fraction * PLACES)


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """The labels of training records, in order of the records."""

    labels: tf.Tensor  # int64 [labels], ids
    days: tf.Tensor  # int64 [labels], ages in days
    user_ids: tf.Tensor  # string [labels]
    numbers: tf.Tensor  # string [labels], the place in the record


def _parse(serialized: tf.Tensor) -> _Labels:
    integers = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    features = {"user_id": tf.io.FixedLenFeature([], tf.string)}
    parsed = tf.io.parse_example(serialized, features | dict.fromkeys((LABEL, LABEL_DAYS), integers))
    labels, days = parsed[LABEL], parsed[LABEL_DAYS]
    same = tf.reduce_all(tf.equal(days.row_splits, labels.row_splits))
    message = (
        "label_days must have one value a label: run the examples stage again, or train with warm_start = false and "
        "recent_days = 0"
    )
    with tf.control_dependencies([tf.debugging.Assert(same, [message])]):
        lengths = days.row_lengths()
    return _Labels(
        labels=labels.values,
        days=days.values,
        user_ids=tf.repeat(parsed["user_id"], lengths),
        numbers=tf.strings.as_string(tf.ragged.range(lengths).values),
    )
