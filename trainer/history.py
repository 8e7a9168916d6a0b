"""Encoders, which turn a watch history into one vector. A new encoder is one class and one entry in `ENCODERS`.

    history, positions = history_rows(batch)
    encoder(table.embed(history), positions)  # [labels, encoder.width]

An encoder reads the vectors of ids [rows, length], the most recent in the last column, and returns a vector for each
label. Most encoders read windows: every label has its own row and reads all of it. In training, an encoder with
`sequences` may get rows that several labels share, and each label reads what comes before its position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

import numpy as np

from trainer.attention import Attention
from trainer.co_watches import decay_weights
from trainer.config import ModelSettings
from trainer.sequences import LabelPositions
from trainer.tables import Embedded
from transforms.core.tensorflow_import import tf


class Encoder(Protocol):
    """Encodes histories: ids [rows, length], the most recent in the last column."""

    sequences: ClassVar[bool]  # whether the labels of a user may share a row
    width: int

    def __call__(
        self, history: Embedded, positions: LabelPositions, *, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return float [labels, `width`]. Drops units only with a `dropout_seed` (int32 [2])."""
        ...

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]: ...


class Mean(tf.Module):
    """The mean of the known videos' vectors, [labels, dimension] (paper, 3.2); zeros if no video is known."""

    sequences: ClassVar[bool] = False

    def __init__(self, settings: ModelSettings, *, length: int, seed: int) -> None:
        super().__init__(name="mean")
        self.width = settings.dimension

    def __call__(
        self, history: Embedded, positions: LabelPositions, *, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        return history.mean()


class Recency(tf.Module):
    """Three vectors concatenated, [labels, 3 * dimension]; zeros if no video is known.

    They are the mean; a weighted mean, with a learned positive weight for each position and dimension, normalised over
    the known videos; and the vector of the last video. If the order of watches carries information, this improves
    recall more than a wider or deeper tower.
    """

    sequences: ClassVar[bool] = False

    def __init__(self, settings: ModelSettings, *, length: int, seed: int) -> None:
        super().__init__(name="recency")
        self.width = 3 * settings.dimension
        self.logits = tf.Variable(tf.zeros([length, settings.dimension]), name="position_logits")

    def __call__(
        self, history: Embedded, positions: LabelPositions, *, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        vectors = history.vectors()
        weights = tf.exp(self.logits)
        known = tf.cast(history.known, tf.float32)
        # The vectors of unknown videos are zeros, so only the denominator has to exclude them.
        weighted = tf.reduce_sum(vectors * weights, axis=1) / tf.maximum(known @ weights, 1e-9)
        mean = tf.reduce_sum(vectors, axis=1) / tf.maximum(history.count(), 1)
        return tf.concat([mean, weighted, vectors[:, -1]], axis=1)


class Shortcut(tf.Module):
    """A decaying sum of the known videos' vectors, float [labels, dimension], which is added to the user vector.

    Its scores are linear in the history, as those of item-to-item. Weights of positions, the power of their sum that
    the result is divided by, and the gain are learned.
    """

    def __init__(self, *, length: int) -> None:
        super().__init__(name="shortcut")
        self.length = length
        self.logits = tf.Variable(np.log(decay_weights(length)), name="decay_logits")
        self.power = tf.Variable(0.5, name="power")
        self.gain = tf.Variable(1.0, name="gain")

    def __call__(self, history: Embedded, positions: LabelPositions) -> tf.Tensor:
        vectors, known = history.vectors(), tf.cast(history.known, tf.float32)
        weights = tf.exp(self.logits)
        if positions.windows:
            sums, total = tf.linalg.matvec(vectors, weights, transpose_a=True), tf.linalg.matvec(known, weights)
        else:
            # Row p has the weights of the columns before position p, of which the last is the most recent.
            column, position = tf.range(self.length), tf.range(self.length + 1)[:, tf.newaxis]
            shifted = tf.gather(weights, tf.minimum(column + self.length - position, self.length - 1))
            by_position = tf.where(column < position, shifted, 0)
            indices = tf.stack([positions.row, positions.position], axis=1)
            sums = tf.gather_nd(tf.matmul(by_position, vectors), indices)
            total = tf.gather_nd(tf.matmul(known, by_position, transpose_b=True), indices)
        return self.gain * sums / tf.pow(tf.maximum(total, 1e-6), self.power)[:, tf.newaxis]


# Each is called with the settings, `length` (ids in a row) and `seed`.
ENCODERS: dict[str, Callable[..., Encoder]] = {"mean": Mean, "recency": Recency, "attention": Attention}
