"""Embedding tables, and the rows of one that a batch uses.

A step never touches a whole table: it gathers each row it needs once, works on those, and its gradient is a gradient of
those rows. Row 0 is the zero vector for all that is missing, padding or out of vocabulary; it is never trained.

Rows that videos out of vocabulary share stand behind the vocabulary's, in the table of the watch history alone: the
output table has a row for each video that can be shown.

A table of V rows of D numbers takes V x D floats, and one more a row for its optimiser. Nothing else that grows with V
is made while it learns (`benchmarks/memory.py` measures that).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transforms.core.tensorflow_import import tf


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The rows that some ids use, each once, and where they stand."""

    ids: tf.Tensor  # int32 [used], distinct but for zeros
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
        kept = tf.where(self.known)
        bags = tf.cast(kept[:, 0], tf.int32)
        total = _bag_sums(self.rows, tf.gather_nd(self.places, kept), bags, tf.shape(self.known)[0])
        return total / tf.maximum(self.count(), 1)

    def count(self) -> tf.Tensor:
        """Float [batch, 1]: how many of the ids [batch, length] are known."""
        return tf.reduce_sum(tf.cast(self.known, tf.float32), axis=1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class StaticEmbedded(Embedded):
    """The same with shapes that depend on no value: as many rows as ids were asked for, the last of them row 0."""

    def mean(self) -> tf.Tensor:
        """As `Embedded.mean`; holds [batch, length, dimension], for want of kernels that XLA compiles."""
        return tf.reduce_sum(self.vectors(), axis=1) / tf.maximum(self.count(), 1)


@tf.custom_gradient
def _bag_sums(
    rows: tf.Tensor, places: tf.Tensor, bags: tf.Tensor, count: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None, None, None]]]:
    """Float [count, dimension]: for each bag the sum of the rows at its places; `bags` rises.

    TensorFlow's own gradient adds to the rows in the order of the bags, all over the memory. Sorting by place first and
    adding up row after row takes half its time.
    """

    def gradient(of_sums: tf.Tensor) -> tuple[tf.Tensor, None, None, None]:
        order = tf.argsort(places)
        of_rows = tf.raw_ops.SparseSegmentSumWithNumSegments(
            data=of_sums,
            indices=tf.gather(bags, order),
            segment_ids=tf.gather(places, order),
            num_segments=tf.shape(rows)[0],
        )
        return of_rows, None, None, None

    sums = tf.raw_ops.SparseSegmentSumWithNumSegments(data=rows, indices=places, segment_ids=bags, num_segments=count)
    return sums, gradient


class Table(tf.Module):
    """Vectors of the ids 1 to `size`."""

    def __init__(self, size: int, dimension: int, *, scale: float, seed: tuple[int, int], name: str) -> None:
        """Rows start as normal draws of standard deviation `scale`; 0.0 starts them at zero."""
        super().__init__(name=name)
        self.size, self.dimension = size, dimension
        self.static = False  # True: `embed` has shapes that depend on no value, which XLA and so TPUs need

        def initial() -> tf.Tensor:
            if scale == 0.0:
                return tf.zeros([size + 1, dimension])
            rows = tf.random.stateless_normal([size + 1, dimension], seed, stddev=scale)
            return tf.tensor_scatter_nd_update(rows, [[0]], tf.zeros([1, dimension]))

        # As a graph, which works in place: op by op the start would take four tables' memory.
        initial = tf.function(initial, autograph=False)
        self.weights = tf.Variable(initial, name=name, shape=[size + 1, dimension], dtype=tf.float32, trainable=False)

    def embed(self, ids: tf.Tensor) -> Embedded:
        """The rows of `ids`, int of any shape."""
        flat = tf.reshape(ids, [-1])
        used, places = _static_unique(flat) if self.static else tf.unique(flat)
        made = StaticEmbedded if self.static else Embedded
        return made(
            ids=used, rows=tf.gather(self.weights, used), places=tf.reshape(places, tf.shape(ids)), known=ids > 0
        )

    def look_up(self, ids: tf.Tensor) -> Embedded:
        """The same for reading alone, with the table itself as `rows`: nothing is gathered that is only summed up.

        Not where the table learns: since its first update TensorFlow copies it whole each time it is read so.
        """
        return Embedded(ids=tf.reshape(ids, [-1]), rows=self.weights.read_value(), places=ids, known=ids > 0)


def _static_unique(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `tf.unique` of ids [n] from 0 on, filled up with zeros to n; by sorting, which every compiler knows."""
    size = ids.shape[0]
    order = tf.argsort(ids)
    ordered = tf.gather(ids, order)
    first = tf.concat([[0], tf.cast(ordered[1:] != ordered[:-1], tf.int32)], axis=0)
    place = tf.cumsum(first)
    used = tf.maximum(tf.math.unsorted_segment_max(ordered, place, size), 0)
    return used, tf.math.unsorted_segment_sum(place, order, size)
