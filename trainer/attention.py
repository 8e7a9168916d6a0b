"""Causal self-attention over a history, which reads every label at its own position in one pass (Kang, McAuley 2018).

A position attends to the known videos up to itself and to how far back each lies, not to its absolute position in the
row. So a label inside a sequence gets the vector of a window that ends there, and training and serving agree.
"""

from __future__ import annotations

import math
from typing import ClassVar

from trainer.config import ModelSettings
from trainer.layers import Dense, LayerNorm, dropout
from trainer.seeds import derive_seed
from trainer.sequences import LabelPositions
from trainer.tables import Embedded
from transforms.core.tensorflow_import import tf

MASKED_LOGIT = -1e9  # added to the attention logit of a masked position, so that its weight is 0
FIRST_DROPOUT = 1_000  # number of the first dropout of the blocks; those of the tower's layers are lower
DROPOUTS = 3  # in each block


class Block(tf.Module):
    """Self-attention, then a position-wise feed-forward layer; both read normalised states and add to them."""

    def __init__(self, settings: ModelSettings, *, length: int, seed: int, number: int) -> None:
        super().__init__(name=f"block_{number}")
        self.heads, self.share, self.number = settings.attention_heads, settings.attention_dropout, number
        width = settings.dimension

        def dense(name: str, units: int, gain: float) -> Dense:
            layer_seed = derive_seed(seed, "block", number, name)
            return Dense(width, units, gain=gain, seed=layer_seed, name=f"{name}_{number}")

        self.norms = [LayerNorm(width, name=f"norm_{number}_{i}") for i in range(2)]
        self.inputs, self.wide = dense("attention", 3 * width, 1), dense("wide", width, 2)
        # The residual branches start small, so that at first a state is its own video: that learns in half the epochs.
        self.outputs, self.back = dense("outputs", width, 0.1), dense("back", width, 0.1)
        # Each head starts with its own linear bias towards recent videos (Press et al. 2022), and learns from there.
        slopes = 2.0 ** (-8 / self.heads * tf.range(1, self.heads + 1, dtype=tf.float32))
        distances = tf.range(length, dtype=tf.float32)
        self.distances = tf.Variable(-slopes[:, tf.newaxis] * distances, name=f"distances_{number}")

    def __call__(
        self, states: tf.Tensor, mask: tf.Tensor, dropout_seed: tf.Tensor | None, *, indices: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return new states [rows, length, width] of states [rows, length, width].

        `mask`: float [rows, 1, length, length], 0 or `MASKED_LOGIT`. With `indices` int32 [labels, 2] returns only the
        states at these rows and columns, [labels, width].
        """
        first = FIRST_DROPOUT + DROPOUTS * self.number
        attended = self._attend(self.norms[0](states), mask, dropout_seed, first)
        if indices is not None:
            attended, states = tf.gather_nd(attended, indices), tf.gather_nd(states, indices)
        states += dropout(self.outputs(attended), self.share, dropout_seed, first + 1)
        hidden = self.back(tf.nn.relu(self.wide(self.norms[1](states))))
        return states + dropout(hidden, self.share, dropout_seed, first + 2)

    def _attend(self, states: tf.Tensor, mask: tf.Tensor, dropout_seed: tf.Tensor | None, number: int) -> tf.Tensor:
        rows, length, width = tf.shape(states)[0], self.distances.shape[1], states.shape[2]
        head_width = width // self.heads
        split = tf.reshape(self.inputs(states), [rows, length, 3, self.heads, head_width])
        query, key, value = tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]))
        logits = tf.matmul(query / math.sqrt(head_width), key, transpose_b=True)
        weights = tf.nn.softmax(logits + tf.gather(self.distances, _distances(length), axis=1) + mask)
        attended = tf.matmul(dropout(weights, self.share, dropout_seed, number), value)
        return tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [rows, length, width])


class Attention(tf.Module):
    """The state of the last watch before each label, [labels, dimension]; a learned vector if no video is known yet."""

    sequences: ClassVar[bool] = True

    def __init__(self, settings: ModelSettings, *, length: int, seed: int) -> None:
        super().__init__(name="attention")
        self.width, self.length = settings.dimension, length
        self.blocks = [
            Block(settings, length=length, seed=seed, number=number) for number in range(settings.attention_blocks)
        ]
        self.norm = LayerNorm(self.width, name="last_norm")
        self.nothing = tf.Variable(tf.zeros([self.width]), name="nothing_yet")

    def __call__(
        self, history: Embedded, positions: LabelPositions, *, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        causal = tf.linalg.band_part(tf.ones([self.length, self.length], tf.bool), -1, 0)
        mask = tf.where(causal & history.known[:, tf.newaxis, tf.newaxis, :], 0.0, MASKED_LOGIT)
        indices = tf.stack([positions.row, tf.maximum(positions.position - 1, 0)], axis=1)
        states = history.vectors()
        for block in self.blocks[:-1]:
            states = block(states, mask, dropout_seed)
        states = self.norm(self.blocks[-1](states, mask, dropout_seed, indices=indices))
        known = tf.gather_nd(tf.cumsum(tf.cast(history.known, tf.int32), axis=1), indices)
        return tf.where(((known > 0) & (positions.position > 0))[:, tf.newaxis], states, self.nothing)


def _distances(length: int) -> tf.Tensor:
    """Return how far back from each position each other lies, int32 [length, length]; 0 for later positions."""
    positions = tf.range(length)
    return tf.maximum(positions[:, tf.newaxis] - positions[tf.newaxis, :], 0)
