"""How a watch history becomes one vector. A new encoder is one class and one entry in `ENCODERS`.

    history, readers = rows_and_readers(batch)
    encoder(table.embed(history), readers)  # [labels, encoder.width]

An encoder reads the vectors of ids [rows, length], the most recent in the last column, and gives a vector for each
label. Most look at windows: every label has a row of its own and reads all of it. One with `sequences` may be given
rows that several labels share in training, each reading what lies before its own place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

from trainer.attention import Attention
from trainer.config import ModelSettings
from trainer.reading import Readers
from trainer.tables import Embedded
from transforms.core.tensorflow_import import tf


class Encoder(Protocol):
    """Sums up histories: ids [rows, length], the most recent in the last column."""

    sequences: ClassVar[bool]  # whether rows may be shared by the labels of a user
    width: int

    def __call__(self, history: Embedded, readers: Readers, *, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """Float [labels, `width`]. Drops units only with a `dropout_seed` (int32 [2])."""
        ...

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]: ...


class Mean(tf.Module):
    """The mean of the known videos' vectors, [labels, dimension] (paper, 3.2); zeros where none is known."""

    sequences: ClassVar[bool] = False

    def __init__(self, settings: ModelSettings, *, length: int, seed: int) -> None:
        super().__init__(name="mean")
        self.width = settings.dimension

    def __call__(self, history: Embedded, readers: Readers, *, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        return history.mean()


class Recency(tf.Module):
    """Side by side, [labels, 3 * dimension]: the mean; a mean whose weights are learned for each position and
    dimension, positive and normalised over the known videos; and the last video's vector. Zeros where none is known.

    Where order carries information this is worth more than width or depth.
    """

    sequences: ClassVar[bool] = False

    def __init__(self, settings: ModelSettings, *, length: int, seed: int) -> None:
        super().__init__(name="recency")
        self.width = 3 * settings.dimension
        self.logits = tf.Variable(tf.zeros([length, settings.dimension]), name="position_logits")

    def __call__(self, history: Embedded, readers: Readers, *, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        vectors = history.vectors()
        weights = tf.exp(self.logits)
        known = tf.cast(history.known, tf.float32)
        # Unknown videos' vectors are zeros: only the denominator has to leave them out.
        weighted = tf.reduce_sum(vectors * weights, axis=1) / tf.maximum(known @ weights, 1e-9)
        mean = tf.reduce_sum(vectors, axis=1) / tf.maximum(history.count(), 1)
        return tf.concat([mean, weighted, vectors[:, -1]], axis=1)


# Each is called with settings, `length` (ids a row) and `seed`.
ENCODERS: dict[str, Callable[..., Encoder]] = {"mean": Mean, "recency": Recency, "attention": Attention}
