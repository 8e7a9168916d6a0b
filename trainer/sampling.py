"""What the negatives of a step are, and how often each was to be expected among them.

What is drawn depends on the seed of the step alone, so that a training taken up again, and each replica of a step,
draws the same. TensorFlow's learned sampler is the exception: it counts the labels it has seen, in its own memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainer.tables import Table
from transforms.core.tensorflow_import import tf

MASKED_LOGIT = (
    1e9  # taken from the logit of what must not count, such as a negative that is the label itself: exp of it is 0
)


@dataclass(frozen=True, kw_only=True)
class SampledNegatives:
    """Negatives, and the logarithm of how often a video was to be expected among them."""

    ids: tf.Tensor  # int32 [negatives]
    log_expected: tf.Tensor  # float [negatives]
    label_log_expected: tf.Tensor  # float [batch]


class Sampler(Protocol):
    """Chooses the negatives that the rows of a batch share."""

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        """For `labels` (int32 [batch]) and user vectors [batch, dimension]; `seed`: int32 [2]."""
        ...


def accidental_hits(labels: tf.Tensor, negatives: tf.Tensor) -> tf.Tensor:
    """Bool [batch, negatives]: accidental hits, negatives that are the row's label."""
    return labels[:, tf.newaxis] == negatives[tf.newaxis, :]


class NegativeSampler(tf.Module):
    """Draws videos with replacement, each with a probability proportional to its label count + 1."""

    def __init__(self, label_counts: npt.NDArray[np.int64]) -> None:
        """`label_counts`: int64 [videos], of the ids from 1."""
        super().__init__(name="negative_sampler")
        weights = label_counts + 1
        self.ends = tf.constant(np.cumsum(weights), tf.int64)
        # In double precision, and never clipped: a floor would undo the correction for the long tail.
        self.log_shares = tf.constant(np.log(weights / weights.sum()), tf.float32)

    def draw(self, count: int, *, seed: tf.Tensor) -> tf.Tensor:
        """`count` ids, int32, the same for the same `seed` (int32 [2])."""
        # One algorithm by name: left to choose, an accelerator's compiler would draw others.
        tickets = tf.random.stateless_uniform([count], seed, maxval=self.ends[-1], dtype=tf.int64, alg="philox")
        return 1 + self._ends_passed(tickets)

    def log_expected(self, ids: tf.Tensor, *, count: int | tf.Tensor) -> tf.Tensor:
        """The logarithm of how often each of `ids` is to be expected among `count` draws."""
        return tf.gather(self.log_shares, ids - 1) + tf.math.log(tf.cast(count, tf.float32))

    def log_presence(self, ids: tf.Tensor, *, count: int) -> tf.Tensor:
        """The logarithm of the probability that each of `ids` is among `count` draws, once or more often."""
        absent = tf.cast(count, tf.float32) * tf.math.log1p(-tf.exp(tf.gather(self.log_shares, ids - 1)))
        return tf.math.log(-tf.math.expm1(absent))

    def _ends_passed(self, tickets: tf.Tensor) -> tf.Tensor:
        """How many of the ends lie at or below each ticket, by bisection.

        `tf.searchsorted` gives the same, but compiled for an accelerator it compares every ticket with every end.
        """
        videos = self.ends.shape[0]
        passed = tf.zeros_like(tickets, tf.int32)
        for power in reversed(range(videos.bit_length())):
            further = passed + (1 << power)
            last = tf.gather(self.ends, tf.minimum(further, videos) - 1)
            passed = tf.where((further <= videos) & (last <= tickets), further, passed)
        return passed


class ByLabelCounts(tf.Module):
    """`count` draws of a sampler; the same on every replica."""

    def __init__(self, sampler: NegativeSampler, *, count: int) -> None:
        super().__init__(name="by_label_counts")
        self.sampler, self.count = sampler, count

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        return _with_log_expected(self.sampler, self.sampler.draw(self.count, seed=seed), labels, count=self.count)


class InBatch(tf.Module):
    """The batch's own labels (Yi et al. 2019), each expected by its share of the label counts.

    On several replicas a row sees the labels of its replica's part of the batch alone.
    """

    def __init__(self, sampler: NegativeSampler) -> None:
        super().__init__(name="in_batch")
        self.sampler = sampler

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        # A row's own label drops out as an accidental hit. How many labels there are shifts all logits alike.
        return _with_log_expected(self.sampler, labels, labels, count=tf.size(labels))


class Mixed(tf.Module):
    """The batch's own labels and `count` draws: both by label counts, so each is expected as often as in the sum.

    On several replicas a row sees the labels of its replica's part of the batch alone, and the same draws.
    """

    def __init__(self, sampler: NegativeSampler, *, count: int) -> None:
        super().__init__(name="mixed")
        self.sampler, self.count = sampler, count

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        ids = tf.concat([labels, self.sampler.draw(self.count, seed=seed)], axis=0)
        return _with_log_expected(self.sampler, ids, labels, count=tf.size(labels) - 1 + self.count)


def _with_log_expected(
    sampler: NegativeSampler, ids: tf.Tensor, labels: tf.Tensor, *, count: int | tf.Tensor
) -> SampledNegatives:
    return SampledNegatives(
        ids=ids,
        log_expected=sampler.log_expected(ids, count=count),
        label_log_expected=sampler.log_expected(labels, count=count),
    )


class HardNegatives(tf.Module):
    """Draws, and those videos of a large drawn pool that score highest for any user whose label they are not.

    What scores as high as the hard ones counts as it stands in the pool, once, and what scores lower as it is drawn:
    together they stand for all videos, none for two. Of the pool nothing else is compared, differentiated or updated,
    so that it costs about half of what as many negatives cost.

    On several replicas each looks in the same pool, for what is hard for its part of the batch.
    """

    def __init__(
        self, sampler: NegativeSampler, videos: Table, biases: Table, *, count: int, share: float, pool: int
    ) -> None:
        """`share` of the `count` negatives are the hard ones, at least one and not all; `pool`: draws to look in."""
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
        hard, found, floor = hardest(pool, pool_best, count=self.hard)
        drawn = _with_log_expected(self.sampler, draws, labels, count=self.draws)
        return SampledNegatives(
            ids=tf.concat([draws, hard], axis=0),
            log_expected=tf.concat(
                [
                    tf.where(draw_best >= floor, MASKED_LOGIT, drawn.log_expected),
                    tf.where(found, self._present(hard), MASKED_LOGIT),
                ],
                axis=0,
            ),
            label_log_expected=tf.where(label_best >= floor, self._present(labels), drawn.label_log_expected),
        )

    def _scores(self, users: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        vectors, biases = tf.gather(self.videos.weights, ids), tf.gather(self.biases.weights, ids)
        return tf.matmul(users, vectors, transpose_b=True) + biases[:, 0]

    def _present(self, ids: tf.Tensor) -> tf.Tensor:
        return self.sampler.log_presence(ids, count=self.pool)


def best_for_others(labels: tf.Tensor, ids: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Each video's highest of the scores [batch, ids] for a row whose label it is not; -OUT where there is none."""
    return tf.reduce_max(tf.where(accidental_hits(labels, ids), -MASKED_LOGIT, scores), axis=0)


def hardest(pool: tf.Tensor, best: tf.Tensor, *, count: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The `count` videos with the highest `best` [pool] of a sorted pool of ids, each once.

    Returns ids [count]; bool [count], false behind the last where the pool holds fewer; and the lowest that is among
    them: -OUT where the pool holds no more than `count`.
    """
    again = tf.concat([[False], pool[1:] == pool[:-1]], axis=0)
    values, places = tf.math.top_k(tf.where(again, -MASKED_LOGIT, best), k=count)
    return tf.gather(pool, places), values > -MASKED_LOGIT, values[-1]


class LearnedUnigram(tf.Module):
    """TensorFlow's sampler that learns how frequent each label is while it sees them.

    What it has learned is kept in its op: no checkpoint holds it, replicas learn apart from each other, and compilers
    for accelerators lack it. A training taken up again does not follow the same curve to the last digit.
    """

    def __init__(self, videos: int, *, count: int) -> None:
        super().__init__(name="learned_unigram")
        self.videos, self.count = videos, count

    def __call__(self, labels: tf.Tensor, users: tf.Tensor, *, seed: tf.Tensor) -> SampledNegatives:
        """By what it has learned before these labels. Leaves `seed` aside: the op keeps its own state."""
        ids, label_expected, expected = tf.random.learned_unigram_candidate_sampler(
            tf.cast(labels[:, tf.newaxis] - 1, tf.int64), 1, self.count, False, self.videos, seed=1
        )
        return SampledNegatives(
            ids=1 + tf.cast(ids, tf.int32),
            log_expected=tf.math.log(expected),
            label_log_expected=tf.math.log(label_expected[:, 0]),
        )
