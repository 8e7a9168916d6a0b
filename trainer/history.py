"""How a watch history becomes one vector. A new encoder is one class and one entry in `ENCODERS`."""

from __future__ import annotations

from typing import Protocol

from trainer.quiet import tf
from trainer.tables import Embedded


class Encoder(Protocol):
    """Sums up the windows of a batch: ids [batch, length], the most recent in the last column."""

    width: int

    def __call__(self, history: Embedded) -> tf.Tensor:
        """Float [batch, `width`]; zeros for a history without a known video."""
        ...


class Mean(tf.Module):
    """The mean of the known videos' vectors, [batch, dimension] (paper, 3.2)."""

    def __init__(self, *, length: int, dimension: int) -> None:
        super().__init__(name="mean")
        self.width = dimension

    def __call__(self, history: Embedded) -> tf.Tensor:
        return history.mean()


class Recency(tf.Module):
    """Side by side, [batch, 3 * dimension]: the mean; a mean whose weights are learned for each position and dimension,
    positive and normalised over the known videos; and the last video's vector.

    Where order carries information this is worth more than width or depth.
    """

    def __init__(self, *, length: int, dimension: int) -> None:
        super().__init__(name="recency")
        self.width = 3 * dimension
        self.logits = tf.Variable(tf.zeros([length, dimension]), name="position_logits")

    def __call__(self, history: Embedded) -> tf.Tensor:
        vectors = history.vectors()
        weights = tf.exp(self.logits)
        known = tf.cast(history.known, tf.float32)
        # Unknown videos' vectors are zeros: only the denominator has to leave them out.
        weighted = tf.reduce_sum(vectors * weights, axis=1) / tf.maximum(known @ weights, 1e-9)
        mean = tf.reduce_sum(vectors, axis=1) / tf.maximum(history.count(), 1)
        return tf.concat([mean, weighted, vectors[:, -1]], axis=1)


ENCODERS: dict[str, type[Mean] | type[Recency]] = {"mean": Mean, "recency": Recency}
