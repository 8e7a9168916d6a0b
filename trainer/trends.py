"""Trends: how often each video was watched up to the moment of a prediction, as numbers that each user weighs.

    trends = read_trends(records, videos=spec.videos)
    users = trends.widen(users, weights, as_of_days)   # float [batch, dimension + TRENDS * slots]
    scores = users @ concat([video_vectors, trends.features], axis=1)

The score of a video gets the summand w.f: w are `TRENDS` outputs of the tower, so each user has its own, and f are the
trends of the video as of the start of the day of the prediction, so a label never counts itself:

| trend | value                                                                       |
|-------|-----------------------------------------------------------------------------|
| 0     | log of the video's share of all earlier labels, times the number of videos  |
| 1     | log of its share of the labels of the last week over that of all            |
| 2     | log of its share of the labels of the last day over that of the last week   |

A share of a shorter time is shrunk towards that of the longer one. Without trends a model has one bias per video for
the whole window: it takes a video for a negative before its upload, and at the end it serves the popularity of all
days. The example age (paper, 3.3) tells the moment, but not which videos are rising.

The trends of several moments, the slots, are columns side by side, and a wide user vector has its weights in the
columns of its own moment and zeros in the others. So a score remains one inner product, and every loss, index and
export works as without trends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.batch import AS_OF_DAYS, LABEL
from trainer.config import TRENDS
from trainer.record_files import RecordFiles
from transforms.core.tensorflow_import import tf

WEEK = 7
# Days before the end of the window at whose start trends are computed. A moment between two of them has the trends of
# the earlier one, so it sees no later watch. Recent days, which resemble the moment of serving, are exact.
SLOT_DAYS = (*range(15), 16, 18, 20, 22, 25, 29, 36, 43, 57, 71, 85, 113, 141, 169, 225, 281, 337, 449, 673, 897)
NO_DAYS = "trends need as_of_days of each label: run the examples stage again, or set trends = false ([model])"
UNSEEN = 0.1  # labels that are added to those of each video
SHRINKAGE = 0.2  # labels per video that a share of a shorter time is shrunk by

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Trends:
    """The trends of the videos as of the first of `SLOT_DAYS`. It is no part of a model's variables."""

    features: tf.Tensor  # float [videos + 1, TRENDS * slots], row 0 is no video

    @property
    def slots(self) -> int:
        """The number of moments."""
        return int(self.features.shape[1]) // TRENDS

    def widen(self, users: tf.Tensor, weights: tf.Tensor, as_of_days: tf.Tensor | None) -> tf.Tensor:
        """Return float [batch, dimension + TRENDS * slots]: users [batch, dimension], then the weights of their slots.

        `weights`: float [batch, TRENDS]. `as_of_days`: int32 [batch], see `example_spec`; None: 0 for all.
        """
        days = tf.zeros([tf.shape(users)[0]], tf.int32) if as_of_days is None else as_of_days
        slot = tf.minimum(tf.searchsorted(tf.constant(SLOT_DAYS[: self.slots], tf.int32), days), self.slots - 1)
        by_slot = tf.one_hot(slot, self.slots)[:, :, tf.newaxis] * weights[:, tf.newaxis, :]
        return tf.concat([users, tf.reshape(by_slot, [-1, TRENDS * self.slots])], axis=1)

    def served_columns(self, holdout_days: int) -> list[int]:
        """Return the columns of `features` that records to search for use: as of the end of the window, then as of the
        start of the held-out days, if there are any."""
        slots = {0, min(int(np.searchsorted(SLOT_DAYS, holdout_days)), self.slots - 1)}
        return [TRENDS * slot + trend for slot in sorted(slots) for trend in range(TRENDS)]


def read_trends(records: RecordFiles, *, videos: int) -> Trends:
    """Return the trends by the labels of training records, with videos of the ids 1 to `videos`.

    Reads the records once. Fails unless each label has `as_of_days`.
    """
    features = {name: tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64) for name in (LABEL, AS_OF_DAYS)}
    counts = np.zeros((0, videos + 1), np.int32)
    for serialized in records.read_blocks():
        parsed = tf.io.parse_example(serialized, features)
        tf.debugging.assert_equal(parsed[AS_OF_DAYS].row_splits, parsed[LABEL].row_splits, NO_DAYS)
        labels = parsed[LABEL].values.numpy()
        days = np.maximum(parsed[AS_OF_DAYS].values.numpy() - 1, 0)  # a label is on the day before its trends end
        missing = days.max(initial=-1) + 1 - len(counts)
        counts = np.pad(counts, [(0, max(0, missing)), (0, 0)])
        np.add.at(counts, (days, labels), 1)
    return Trends(features=tf.constant(trend_features(counts[:, 1:])))


def trend_features(counts: npt.NDArray[np.int32]) -> Floats:
    """Return float32 [videos + 1, TRENDS * slots]: the trends as of each of `SLOT_DAYS` up to the number of days.

    `counts`: int32 [days, videos]: the labels of each day; day 0 is the last of the window. As of day a, only the days
    from a on count. Row 0 is zeros.
    """
    days, videos = counts.shape
    slots = int(np.searchsorted(SLOT_DAYS, days)) + 1
    found = np.zeros((videos + 1, slots, TRENDS), np.float32)
    for slot, first in enumerate(SLOT_DAYS[:slots]):
        everything = counts[first:].sum(axis=0)
        share = (everything + UNSEEN) / (everything.sum() + UNSEEN * videos)
        week = _shrunk(counts[first : first + WEEK].sum(axis=0), share)
        day = _shrunk(counts[first : first + 1].sum(axis=0), week)
        found[1:, slot] = np.stack([np.log(share * videos), np.log(week / share), np.log(day / week)], axis=1)
    return found.reshape(videos + 1, -1)


def _shrunk(counts: npt.NDArray[np.int64], towards: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the share of each video in counts [videos], shrunk towards shares [videos]."""
    prior = SHRINKAGE * len(counts)
    return np.asarray((counts + prior * towards) / (counts.sum() + prior))
