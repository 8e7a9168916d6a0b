"""Causal self-attention over a history, every label read at its own place in one pass (Kang, McAuley 2018).

A place sees the known videos up to itself and how far back each lies, never where in the row it stands. So a label in
the middle of a stretch gets what a window that ends there would give it, and training and serving agree.
"""

from __future__ import annotations

import math
from typing import ClassVar

from trainer.config import ModelSettings
from trainer.layers import Dense, LayerNorm, dropped
from trainer.reading import Readers
from trainer.seeds import seed_of
from trainer.tables import Embedded
from transforms.core.tensorflow_import import tf

MASKED_LOGIT = -1e9  # added to the logit of a place that may not be seen: exp of it is 0
FIRST_DROPOUT = 1_000  # numbers of the blocks' dropouts, apart from those of the tower's layers
DROPOUTS = 3  # of one block


class Block(tf.Module):
    """Self-attention, then a layer for each place alone; both read normalised states and add to them."""

    def __init__(self, settings: ModelSettings, *, length: int, seed: int, number: int) -> None:
        super().__init__(name=f"block_{number}")
        self.heads, self.share, self.number = settings.attention_heads, settings.attention_dropout, number
        width = settings.dimension

        def dense(name: str, units: int, gain: float) -> Dense:
            return Dense(width, units, gain=gain, seed=seed_of(seed, "block", number, name), name=f"{name}_{number}")

        self.norms = [LayerNorm(width, name=f"norm_{number}_{i}") for i in range(2)]
        self.inputs, self.wide = dense("attention", 3 * width, 1), dense("wide", width, 2)
        # What a block adds begins small, so that at first a state is its own video: that learns in half the passes.
        self.outputs, self.back = dense("outputs", width, 0.1), dense("back", width, 0.1)
        # Each head begins with its own taste for what is recent (Press et al. 2022), and learns from there.
        slopes = 2.0 ** (-8 / self.heads * tf.range(1, self.heads + 1, dtype=tf.float32))
        back = tf.range(length, dtype=tf.float32)
        self.distances = tf.Variable(-slopes[:, tf.newaxis] * back, name=f"distances_{number}")

    def __call__(
        self, states: tf.Tensor, seen: tf.Tensor, dropout_seed: tf.Tensor | None, *, places: tf.Tensor | None = None
    ) -> tf.Tensor:
        """States [rows, length, width] to states; `seen` [rows, 1, length, length]: 0, or `UNSEEN`. With `places`
        [labels, 2] only those at these rows and columns, [labels, width]."""
        first = FIRST_DROPOUT + DROPOUTS * self.number
        mixed = self._attend(self.norms[0](states), seen, dropout_seed, first)
        if places is not None:
            mixed, states = tf.gather_nd(mixed, places), tf.gather_nd(states, places)
        states += dropped(self.outputs(mixed), self.share, dropout_seed, first + 1)
        changed = self.back(tf.nn.relu(self.wide(self.norms[1](states))))
        return states + dropped(changed, self.share, dropout_seed, first + 2)

    def _attend(self, states: tf.Tensor, seen: tf.Tensor, dropout_seed: tf.Tensor | None, number: int) -> tf.Tensor:
        rows, length, width = tf.shape(states)[0], self.distances.shape[1], states.shape[2]
        each = width // self.heads
        split = tf.reshape(self.inputs(states), [rows, length, 3, self.heads, each])
        query, key, value = tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]))
        logits = tf.matmul(query / math.sqrt(each), key, transpose_b=True)
        weights = tf.nn.softmax(logits + tf.gather(self.distances, _back(length), axis=1) + seen)
        mixed = tf.matmul(dropped(weights, self.share, dropout_seed, number), value)
        return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [rows, length, width])


class Attention(tf.Module):
    """The state of the last watch before each label, [labels, dimension]; a learned vector where none is known yet."""

    sequences: ClassVar[bool] = True

    def __init__(self, settings: ModelSettings, *, length: int, seed: int) -> None:
        super().__init__(name="attention")
        self.width, self.length = settings.dimension, length
        self.blocks = [
            Block(settings, length=length, seed=seed, number=number) for number in range(settings.attention_blocks)
        ]
        self.norm = LayerNorm(self.width, name="last_norm")
        self.nothing = tf.Variable(tf.zeros([self.width]), name="nothing_yet")

    def __call__(self, history: Embedded, readers: Readers, *, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        causal = tf.linalg.band_part(tf.ones([self.length, self.length], tf.bool), -1, 0)
        seen = tf.where(causal & history.known[:, tf.newaxis, tf.newaxis, :], 0.0, MASKED_LOGIT)
        places = tf.stack([readers.row, tf.maximum(readers.at - 1, 0)], axis=1)
        states = history.vectors()
        for block in self.blocks[:-1]:
            states = block(states, seen, dropout_seed)
        states = self.norm(self.blocks[-1](states, seen, dropout_seed, places=places))
        known = tf.gather_nd(tf.cumsum(tf.cast(history.known, tf.int32), axis=1), places)
        return tf.where(((known > 0) & (readers.at > 0))[:, tf.newaxis], states, self.nothing)


def _back(length: int) -> tf.Tensor:
    """How far back from each place each other lies, int32 [length, length]; 0 for those after it."""
    places = tf.range(length)
    return tf.maximum(places[:, tf.newaxis] - places[tf.newaxis, :], 0)
