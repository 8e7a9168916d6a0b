"""Losses: one function each, from the vectors of a batch to one number.

The softmax over all videos is too wide to compute. The sampled softmax compares a label with some videos drawn from a
known distribution, and subtracts from each logit the logarithm of how often the video was to be expected among the
draws, so that the most drawn are not the most punished (paper, 3.1; Jean et al. 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.quiet import tf

HIT = -1e9  # added to the logit of a negative that is the label itself: exp of it is 0


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the user vectors of a batch are compared with: one positive a row, negatives shared by all rows."""

    labels: tf.Tensor  # int32 [batch]
    label_vectors: tf.Tensor  # float [batch, dimension]
    label_biases: tf.Tensor  # float [batch]
    label_log_expected: tf.Tensor  # float [batch]: log of how often the label was to be expected among the negatives
    negatives: tf.Tensor  # int32 [negatives]
    negative_vectors: tf.Tensor  # float [negatives, dimension]
    negative_biases: tf.Tensor  # float [negatives]
    negative_log_expected: tf.Tensor  # float [negatives]


def sampled_softmax(users: tf.Tensor, compared: Compared) -> tf.Tensor:
    """The mean loss of users [batch, dimension], as `tf.nn.sampled_softmax_loss` with its accidental hits removed.

    Written out: that one uses kernels that accelerators' compilers lack, and of a negative that was drawn twice it
    removes only one accidental hit.
    """
    positive = tf.reduce_sum(users * compared.label_vectors, axis=1) + compared.label_biases
    negative = tf.matmul(users, compared.negative_vectors, transpose_b=True) + compared.negative_biases
    positive -= compared.label_log_expected
    negative -= compared.negative_log_expected
    hit = compared.labels[:, tf.newaxis] == compared.negatives[tf.newaxis, :]
    negative = tf.where(hit, HIT, negative)
    logits = tf.concat([positive[:, tf.newaxis], negative], axis=1)
    return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - positive)


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
        tickets = tf.random.stateless_uniform([count], seed, maxval=self.ends[-1], dtype=tf.int64)
        return 1 + tf.searchsorted(self.ends, tickets, side="right", out_type=tf.int32)

    def log_expected(self, ids: tf.Tensor, *, count: int) -> tf.Tensor:
        """The logarithm of how often each of `ids` is to be expected among `count` draws."""
        return tf.gather(self.log_shares, ids - 1) + tf.math.log(tf.cast(count, tf.float32))
