"""The loss of the ranker, and one step of its training.

The loss is logistic regression in which a click has its watch time as weight (paper, 4.2). With the seconds T as weight
of clicked impressions and 1 for all others, the learned odds are sum(T) / (N - k) for k clicks among N impressions,
which is E[T] / (1 - P): about the expected seconds E[T] if clicks are rare. With "exact" a clicked impression also has
the weight 1 as a negative, and the odds are sum(T) / N, the expected seconds, however frequent clicks are.

Records may have a sample of the impressions that were not clicked. The loss of an impression counts as often as the
impressions that it stands for, so that it has the expectation of the loss of all of them.
"""

from __future__ import annotations

from trainer.batch import CLICKED, IMPRESSION_WEIGHT, WATCH_SECONDS, Batch
from trainer.optimizer import Adam, RowwiseAdagrad, increment
from trainer.ranker.config import RankerSettings
from trainer.ranker.model import Ranker
from trainer.seeds import derive_seed
from trainer.step import nan_unless_finite
from transforms.core.tensorflow_import import tf


class RankerStep(tf.Module):
    """One training step, and everything that it changes."""

    def __init__(self, ranker: Ranker, settings: RankerSettings, *, mean_weight: float = 1.0) -> None:
        """mean_weight: of the impressions of an epoch."""
        super().__init__(name="ranker_step")
        self.ranker, self.positive_weights, self.mean_weight = ranker, settings.positive_weights, mean_weight
        self.adagrad = RowwiseAdagrad(ranker.tables, learning_rate=settings.table_learning_rate)
        self.adam = Adam(ranker.dense_variables, learning_rate=settings.tower_learning_rate)
        self.steps = tf.Variable(0, dtype=tf.int32, trainable=False, name="steps")
        self.dropout_seed = derive_seed(settings.seed, "dropout")[0]

    def __call__(self, batch: Batch, factor: tf.Tensor | float = 1.0) -> tf.Tensor:
        """Learn from one batch and return its mean loss before the update; NaN if a gradient is not finite.

        `factor`: of both learning rates.
        """
        used = self.ranker.embed(batch)
        rows, variables = {name: embedded.rows for name, embedded in used.items()}, self.ranker.dense_variables
        seed = tf.stack([tf.constant(self.dropout_seed), self.steps])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([rows, variables])
            logits = self.ranker.logits(self.ranker.inputs(batch, used), None, dropout_seed=seed)
            weights = label_weights(batch[CLICKED], batch[WATCH_SECONDS], self.positive_weights)
            loss = weighted_logistic(logits, *weights, batch[IMPRESSION_WEIGHT] / self.mean_weight)
        row_gradients, gradients = tape.gradient(loss, [rows, variables])
        for name, gradient in row_gradients.items():
            self.adagrad.apply(name, used[name], gradient, factor=factor)
        self.adam.apply(gradients, factor=factor)
        increment(self.steps)
        return nan_unless_finite(loss, gradients)


def label_weights(clicked: tf.Tensor, watch_seconds: tf.Tensor, kind: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the weights of each impression as a positive and as a negative, float [n] each.

    `clicked`: float [n], 0 or 1. `kind`: a value of `RankerSettings.positive_weights`.
    """
    if kind == "equal":
        return clicked, 1 - clicked
    return clicked * watch_seconds, tf.ones_like(clicked) if kind == "exact" else 1 - clicked


def weighted_logistic(
    logits: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor, weights: tf.Tensor | float = 1.0
) -> tf.Tensor:
    """Return the mean over impressions of weights (-positive log(p) - negative log(1 - p)), with p = sigmoid(logits);
    all float [n].

    The mean is over impressions and not over weights: otherwise a batch with a long watch would count for less.
    """
    return tf.reduce_mean(weights * (positive * tf.nn.softplus(-logits) + negative * tf.nn.softplus(logits)))
