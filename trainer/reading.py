"""Who reads which history: a window a label, or a stretch of a user's watches for all the labels that lie in it."""

from __future__ import annotations

from dataclasses import dataclass

from transforms.core.tensorflow_import import tf


@dataclass(frozen=True, kw_only=True)
class Readers:
    """For each label the row of the histories that it reads, and how much of that row lies before it."""

    row: tf.Tensor  # int32 [labels]
    at: tf.Tensor  # int32 [labels]: columns before the label, padding included; the whole length for a window


def rows_and_readers(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, Readers]:
    """The histories of a batch, int32 [rows, length], each once, and who reads them.

    A batch of windows has a row a label. One of stretches has `stretch`, int64 [labels], equal for neighbours with the
    same row of `watches`, and `at`. The rows are repeated in the batch so that it may be cut anywhere, for devices too.
    """
    watches = batch["watches"]
    labels, length = tf.shape(watches)[0], tf.shape(watches)[1]
    if "stretch" not in batch:
        return watches, Readers(row=tf.range(labels), at=tf.fill([labels], length))
    stretch = batch["stretch"]
    first = tf.concat([tf.ones_like(stretch[:1], tf.bool), stretch[1:] != stretch[:-1]], axis=0)
    return tf.boolean_mask(watches, first), Readers(row=tf.cumsum(tf.cast(first, tf.int32)) - 1, at=batch["at"])
