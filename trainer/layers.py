"""Dense layers, layer normalisation and dropout: what the towers and encoders consist of.

Keras' layers take as much time (docs/log.md), but hold their variables in wrappers, under other names: checkpoints and
the ranker, which splits the kernel of its first layer, need plain variables.
"""

from __future__ import annotations

import math

from transforms.core.tensorflow_import import tf


class Dense(tf.Module):
    """x W + b: float [..., width] to float [..., units]."""

    def __init__(self, width: int, units: int, *, gain: float, seed: tuple[int, int], name: str) -> None:
        """Initialise the weights with normal draws that multiply the variance of the inputs by `gain`."""
        super().__init__(name=name)
        start = tf.random.stateless_normal([width, units], seed, stddev=math.sqrt(gain / width))
        self.kernel = tf.Variable(start, name=f"{name}_kernel")
        self.bias = tf.Variable(tf.zeros([units]), name=f"{name}_bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        # One product of two matrices: a product of three dimensions with two is one small product for each row.
        flat = tf.reshape(x, [-1, self.kernel.shape[0]]) @ self.kernel + self.bias
        return tf.reshape(flat, tf.concat([tf.shape(x)[:-1], [self.kernel.shape[1]]], axis=0))


class LayerNorm(tf.Module):
    """Normalise each vector of [..., width] to mean 0 and variance 1, then scale and shift it (Ba et al. 2016)."""

    def __init__(self, width: int, *, name: str) -> None:
        super().__init__(name=name)
        self.scale = tf.Variable(tf.ones([width]), name=f"{name}_scale")
        self.shift = tf.Variable(tf.zeros([width]), name=f"{name}_shift")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        return centred * tf.math.rsqrt(variance + 1e-6) * self.scale + self.shift


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None, number: int) -> tf.Tensor:
    """Return x with a share `rate` of its units dropped; x itself without a `seed` (int32 [2]).

    `number` is distinct for each call of a step.
    """
    if seed is None or rate == 0:
        return x
    return tf.nn.experimental.stateless_dropout(x, rate, seed=seed + tf.constant([number, 0]))
