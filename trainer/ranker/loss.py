"""The ranker's loss: logistic regression in which a click weighs as much as was watched (paper, 4.2).

With clicked impressions weighing their seconds T and all others 1, the odds learned are sum(T) / (N - k) for k clicks
among N: E[T] / (1 - P), about the expected seconds E[T] where clicks are rare. With "exact" a clicked impression weighs
1 on the other side too, and the odds are sum(T) / N, the expected seconds, however frequent clicks are.
"""

from __future__ import annotations

from transforms.core.tensorflow_import import tf


def side_weights(clicked: tf.Tensor, watch_seconds: tf.Tensor, kind: str) -> tuple[tf.Tensor, tf.Tensor]:
    """What each impression weighs as a positive and as a negative one, float [n] each.

    clicked: float [n], 0 or 1. kind: one of `RankerSettings.positive_weights`.
    """
    if kind == "equal":
        return clicked, 1 - clicked
    return clicked * watch_seconds, tf.ones_like(clicked) if kind == "exact" else 1 - clicked


def weighted_logistic(logits: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """The mean over impressions of -positive log(p) - negative log(1 - p), p = sigmoid(logits); all float [n].

    Divided by how many there are and not by what they weigh: else a batch with a long watch would count for less.
    """
    return tf.reduce_mean(positive * tf.nn.softplus(-logits) + negative * tf.nn.softplus(logits))
