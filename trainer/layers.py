"""The dense layers that towers and encoders are made of."""

from __future__ import annotations

import math

from transforms.core.tensorflow_import import tf


class Dense(tf.Module):
    """x W + b, for inputs [..., width]."""

    def __init__(self, width: int, units: int, *, gain: float, seed: tuple[int, int], name: str) -> None:
        """Weights start as normal draws that give outputs `gain` times the inputs' variance."""
        super().__init__(name=name)
        start = tf.random.stateless_normal([width, units], seed, stddev=math.sqrt(gain / width))
        self.kernel = tf.Variable(start, name=f"{name}_kernel")
        self.bias = tf.Variable(tf.zeros([units]), name=f"{name}_bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        # One product of two matrices: three dimensions times two would be as many small ones as there are rows.
        flat = tf.reshape(x, [-1, self.kernel.shape[0]]) @ self.kernel + self.bias
        return tf.reshape(flat, tf.concat([tf.shape(x)[:-1], [self.kernel.shape[1]]], axis=0))


class LayerNorm(tf.Module):
    """Each vector of [..., width] brought to mean 0 and variance 1, then scaled and moved (Ba et al. 2016)."""

    def __init__(self, width: int, *, name: str) -> None:
        super().__init__(name=name)
        self.scale = tf.Variable(tf.ones([width]), name=f"{name}_scale")
        self.shift = tf.Variable(tf.zeros([width]), name=f"{name}_shift")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        return centred * tf.math.rsqrt(variance + 1e-6) * self.scale + self.shift


def dropped(x: tf.Tensor, share: float, seed: tf.Tensor | None, number: int) -> tf.Tensor:
    """x with a share of its units dropped; as it is without a `seed` (int32 [2]). `number`: distinct for each call of
    a step."""
    if seed is None or share == 0:
        return x
    return tf.nn.experimental.stateless_dropout(x, share, seed=seed + tf.constant([number, 0]))
