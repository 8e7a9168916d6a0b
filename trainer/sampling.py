"""Samplers of negatives, and the expected count of each video among them.

Draws depend only on the seed of the step, so that a resumed training, and each replica of a step, draws the same.
TensorFlow's learned sampler is the exception: it counts the labels it has seen, in its own memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainer.tables import Table, VideoTable
from transforms.core.tensorflow_import import tf

# Subtracted from the logit of a masked negative, for example one that is the label itself: its exponential is 0.
MASKED_LOGIT = 1e9


@dataclass(frozen=True, kw_only=True)
class SampledNegatives:
    """Negatives, and the logarithms of expected counts among them."""

    ids: tf.Tensor  # int32 [negatives]
    log_expected: tf.Tensor  # float [negatives]
    label_log_expected: tf.Tensor  # float [batch]


class Sampler(Protocol):
    """Draws the negatives that the rows of a batch share."""

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        """Draw negatives for `labels` int32 [batch] and user vectors float [batch, dimension]; `seed`: int32 [2]."""
        ...


def accidental_hits(labels: tf.Tensor, negatives: tf.Tensor) -> tf.Tensor:
    """Return bool [batch, negatives]: whether a negative is the label of the row."""
    return labels[:, tf.newaxis] == negatives[tf.newaxis, :]


class VideoDistribution(tf.Module):
    """A probability for each video, proportional to its weight."""

    def __init__(self, weights: npt.NDArray[np.float64] | npt.NDArray[np.int64], *, name: str | None = None) -> None:
        """`weights`: [videos], of the ids from 1, not all 0."""
        super().__init__(name=name)
        with np.errstate(divide="ignore"):  # the logarithm of 0 is -inf: a video that never occurs
            # Computed in double precision and never clipped: a lower bound would undo the correction for the long tail.
            self.log_probabilities = tf.constant(np.log(weights / weights.sum()), tf.float32)

    def log_expected(self, ids: tf.Tensor, *, count: int | tf.Tensor) -> tf.Tensor:
        """Return the logarithm of the expected count of each id among `count` videos."""
        return tf.gather(self.log_probabilities, ids - 1) + tf.math.log(tf.cast(count, tf.float32))

    def negatives(self, ids: tf.Tensor, labels: tf.Tensor, *, count: int | tf.Tensor) -> SampledNegatives:
        """Return `ids`, int32 [negatives], with their expected counts among `count` videos."""
        return SampledNegatives(
            ids=ids,
            log_expected=self.log_expected(ids, count=count),
            label_log_expected=self.log_expected(labels, count=count),
        )


class NegativeSampler(VideoDistribution):
    """Draws videos with replacement, with probabilities proportional to the label counts + 1."""

    def __init__(self, label_counts: npt.NDArray[np.int64]) -> None:
        """`label_counts`: int64 [videos], of the ids from 1."""
        weights = label_counts + 1
        super().__init__(weights, name="negative_sampler")
        self.cumulative = tf.constant(np.cumsum(weights), tf.int64)

    def draw(self, count: int, *, seed: tf.Tensor) -> tf.Tensor:
        """Return `count` ids, int32 [count], the same for the same `seed` (int32 [2])."""
        # The algorithm is fixed: by default XLA uses another one, with other draws.
        tickets = tf.random.stateless_uniform([count], seed, maxval=self.cumulative[-1], dtype=tf.int64, alg="philox")
        return 1 + self._search_sorted(tickets)

    def log_presence(self, ids: tf.Tensor, *, count: int) -> tf.Tensor:
        """Return the logarithm of the probability that each id is among `count` draws at least once."""
        absent = tf.cast(count, tf.float32) * tf.math.log1p(-tf.exp(tf.gather(self.log_probabilities, ids - 1)))
        return tf.math.log(-tf.math.expm1(absent))

    def _search_sorted(self, tickets: tf.Tensor) -> tf.Tensor:
        """Return how many cumulative counts are at most each ticket, int32 of the tickets' shape, by binary search.

        `tf.searchsorted` returns the same, but XLA compiles it to a comparison of every ticket with every value.
        """
        videos = self.cumulative.shape[0]
        index = tf.zeros_like(tickets, tf.int32)
        for power in reversed(range(videos.bit_length())):
            candidate = index + (1 << power)
            value = tf.gather(self.cumulative, tf.minimum(candidate, videos) - 1)
            index = tf.where((candidate <= videos) & (value <= tickets), candidate, index)
        return index


class ByLabelCounts(tf.Module):
    """`count` draws by label counts, the same on every replica."""

    def __init__(self, sampler: NegativeSampler, *, count: int) -> None:
        super().__init__()
        self.sampler, self.count = sampler, count

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        return self.sampler.negatives(self.sampler.draw(self.count, seed=seed), labels, count=self.count)


class InBatch(tf.Module):
    """The labels of the batch (Yi et al. 2019), with their expected counts.

    On several replicas a row is compared only with the labels of its replica's part of the batch.
    """

    def __init__(self, labels: VideoDistribution) -> None:
        """`labels`: the distribution of the labels of a batch."""
        super().__init__()
        self.labels = labels

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        # The label of a row is masked as an accidental hit. The number of labels shifts all logits by the same amount.
        return self.labels.negatives(labels, labels, count=tf.size(labels))


class Mixed(InBatch):
    """The labels of the batch and `count` draws, whose expected counts add up.

    On several replicas a row is compared with the labels of its replica's part of the batch, and with the same draws.
    """

    def __init__(self, sampler: NegativeSampler, *, count: int, labels: VideoDistribution | None = None) -> None:
        """`labels`: the distribution of the labels of a batch; that of the draws if omitted."""
        super().__init__(labels or sampler)
        self.sampler, self.count = sampler, count

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        ids = tf.concat([labels, self.sampler.draw(self.count, seed=seed)], axis=0)
        others = tf.size(labels) - 1
        if self.labels is self.sampler:
            return self.sampler.negatives(ids, labels, count=others + self.count)
        of_labels = self.labels.negatives(ids, labels, count=others)
        of_draws = self.sampler.negatives(ids, labels, count=self.count)
        return SampledNegatives(
            ids=ids,
            log_expected=_log_sum(of_labels.log_expected, of_draws.log_expected),
            label_log_expected=_log_sum(of_labels.label_log_expected, of_draws.label_log_expected),
        )


def _log_sum(one: tf.Tensor, finite: tf.Tensor) -> tf.Tensor:
    """Return log(e^one + e^finite) of each element; `one` may be -inf."""
    return finite + tf.math.softplus(one - finite)


class HardNegatives(tf.Module):
    """Draws, and the videos of a large drawn pool with the highest scores for any user whose label they are not.

    A video that scores as high as the hard ones counts once, by its presence in the pool; a lower video counts by its
    draws. Together they represent all videos, and none twice. The rest of the pool is only scored, not differentiated
    or updated, so it costs about half as much as the same number of negatives.

    On several replicas each searches the same pool for the negatives that are hard for its part of the batch.
    """

    def __init__(
        self, sampler: NegativeSampler, videos: VideoTable, biases: Table, *, count: int, share: float, pool: int
    ) -> None:
        """`share` of the `count` negatives are hard, at least one and not all; `pool`: number of draws to search."""
        super().__init__(name="hard_negatives")
        self.sampler, self.videos, self.biases, self.pool = sampler, videos, biases, pool
        self.hard = min(max(1, round(share * count)), count - 1)
        self.draws = count - self.hard

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        draws, pool = tf.split(self.sampler.draw(self.draws + self.pool, seed=seed), [self.draws, self.pool])
        pool = tf.sort(pool)
        ids = tf.concat([labels, draws, pool], axis=0)
        best = best_for_others(labels, ids, self._scores(users, ids))
        label_best, draw_best, pool_best = tf.split(best, [tf.size(labels), self.draws, self.pool])
        hard, valid, floor = hardest(pool, pool_best, count=self.hard)
        drawn = self.sampler.negatives(draws, labels, count=self.draws)
        return SampledNegatives(
            ids=tf.concat([draws, hard], axis=0),
            log_expected=tf.concat(
                [
                    tf.where(draw_best >= floor, MASKED_LOGIT, drawn.log_expected),
                    tf.where(valid, self._log_presence(hard), MASKED_LOGIT),
                ],
                axis=0,
            ),
            label_log_expected=tf.where(label_best >= floor, self._log_presence(labels), drawn.label_log_expected),
        )

    def _scores(self, users: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        vectors, biases = self.videos.gather(ids), self.biases.gather(ids)
        return tf.matmul(users, vectors, transpose_b=True) + biases[:, 0]

    def _log_presence(self, ids: tf.Tensor) -> tf.Tensor:
        return self.sampler.log_presence(ids, count=self.pool)


def best_for_others(labels: tf.Tensor, ids: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Return the highest score of each video for a row whose label it is not, float [ids].

    `scores`: float [batch, ids]. A video that is the label of all rows has -MASKED_LOGIT.
    """
    return tf.reduce_max(tf.where(accidental_hits(labels, ids), -MASKED_LOGIT, scores), axis=0)


def hardest(pool: tf.Tensor, best: tf.Tensor, *, count: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the `count` distinct videos with the highest `best` of a sorted pool, int32 and float [pool].

    Returns ids [count]; bool [count], false for the last ones if the pool has fewer distinct videos; and the lowest
    score of the chosen, which is -MASKED_LOGIT in that case.
    """
    repeated = tf.concat([[False], pool[1:] == pool[:-1]], axis=0)
    values, indices = tf.math.top_k(tf.where(repeated, -MASKED_LOGIT, best), k=count)
    return tf.gather(pool, indices), values > -MASKED_LOGIT, values[-1]


class LearnedUnigram(tf.Module):
    """TensorFlow's sampler, which learns label frequencies from the labels it sees.

    Its op keeps what it has learned: no checkpoint holds it, replicas learn separately, and XLA does not support it. A
    resumed training does not follow exactly the same curve.
    """

    def __init__(self, videos: int, *, count: int) -> None:
        super().__init__(name="learned_unigram")
        self.videos, self.count = videos, count

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        """Draw by the frequencies learned before these labels. Ignores `seed`: the op has its own state."""
        ids, label_expected, expected = tf.random.learned_unigram_candidate_sampler(
            tf.cast(labels[:, tf.newaxis] - 1, tf.int64), 1, self.count, False, self.videos, seed=1
        )
        return SampledNegatives(
            ids=1 + tf.cast(ids, tf.int32),
            log_expected=tf.math.log(expected),
            label_log_expected=tf.math.log(label_expected[:, 0]),
        )
