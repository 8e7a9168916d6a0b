"""Embedding tables, and the rows of one that a batch uses.

A step never touches a whole table: it gathers each row it needs once, works on those, and its gradient is a gradient of
those rows. Row 0 is the zero vector for all that is missing, padding or out of vocabulary; it is never trained.

Rows that videos out of vocabulary share stand behind the vocabulary's, in the table of the watch history alone: the
output table has a row for each video that can be shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.quiet import tf


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The rows that some ids use, each once, and where they stand."""

    ids: tf.Tensor  # int32 [used], distinct
    rows: tf.Tensor  # float [used, dimension]: what a gradient is taken of
    places: tf.Tensor  # int32, shaped like the ids asked for: which row stands where
    known: tf.Tensor  # bool, of the same shape: not id 0

    def vectors(self) -> tf.Tensor:
        """Float [..., dimension]: the ids' rows, zeros for id 0."""
        return tf.gather(self.rows, self.places)

    def mean(self) -> tf.Tensor:
        """Float [batch, dimension] of ids [batch, length]: the mean of the known ones' rows; zeros where none is.

        Sums segments of the rows and so never holds [batch, length, dimension].
        """
        batch = tf.shape(self.known)[0]
        kept = tf.where(self.known)
        total = tf.raw_ops.SparseSegmentSumWithNumSegments(
            data=self.rows, indices=tf.gather_nd(self.places, kept), segment_ids=kept[:, 0], num_segments=batch
        )
        return total / tf.maximum(self.count(), 1)

    def count(self) -> tf.Tensor:
        """Float [batch, 1]: how many of the ids [batch, length] are known."""
        return tf.reduce_sum(tf.cast(self.known, tf.float32), axis=1, keepdims=True)


class Table(tf.Module):
    """Vectors of the ids 1 to `size`."""

    def __init__(self, size: int, dimension: int, *, scale: float, seed: tuple[int, int], name: str) -> None:
        """Rows start as normal draws of standard deviation `scale`; 0.0 starts them at zero."""
        super().__init__(name=name)
        self.size, self.dimension = size, dimension

        def initial() -> tf.Tensor:
            if scale == 0.0:
                return tf.zeros([size + 1, dimension])
            rows = tf.random.stateless_normal([size, dimension], seed, stddev=scale)
            return tf.pad(rows, [[1, 0], [0, 0]])

        self.weights = tf.Variable(initial, name=name, shape=[size + 1, dimension], dtype=tf.float32, trainable=False)

    def embed(self, ids: tf.Tensor) -> Embedded:
        """The rows of `ids`, int of any shape."""
        used, places = tf.unique(tf.reshape(ids, [-1]))
        return Embedded(
            ids=used, rows=tf.gather(self.weights, used), places=tf.reshape(places, tf.shape(ids)), known=ids > 0
        )
