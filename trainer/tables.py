"""Embedding tables, and the rows of a table that a batch uses.

A step never touches a whole table: it gathers each row that it needs once, works on those, and takes the gradient of
those rows. Row 0 is the zero vector for everything missing, padding or out of vocabulary; it is never trained.

The rows that videos out of vocabulary share come after the vocabulary's rows, in the table of the watch history only:
the output table has one row for each video that can be recommended.

A table of V rows of D numbers takes V x D floats, and one more float a row for its optimizer. Training allocates
nothing else that grows with V (`benchmarks/memory.py` measures that).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.core.tensorflow_import import tf


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The distinct rows that some ids use, and which row each id uses."""

    ids: tf.Tensor  # int32 [used], distinct except for zeros
    rows: tf.Tensor  # float [used, dimension]: what gradients are taken of
    indices: tf.Tensor  # int32, shape of the requested ids: the row of each id
    known: tf.Tensor  # bool, of the same shape: whether the id is not 0
    static: bool = False  # whether shapes are static: as many rows as requested ids, of which the unused are row 0

    def vectors(self) -> tf.Tensor:
        """Return float [..., dimension]: the row of each id, zeros for id 0."""
        return tf.gather(self.rows, self.indices)

    def mean(self) -> tf.Tensor:
        """Return float [batch, dimension] for ids [batch, length]: the mean of the known ids' rows, or zeros.

        Sums segments of the rows, and so never allocates [batch, length, dimension], except with static shapes, because
        XLA has no kernel for segment sums.
        """
        if self.static:
            return tf.reduce_sum(self.vectors(), axis=1) / tf.maximum(self.count(), 1)
        known = tf.where(self.known)
        bags = tf.cast(known[:, 0], tf.int32)
        total = _bag_sums(self.rows, tf.gather_nd(self.indices, known), bags, tf.shape(self.known)[0])
        return total / tf.maximum(self.count(), 1)

    def count(self) -> tf.Tensor:
        """Return float [batch, 1]: how many of the ids [batch, length] are known."""
        return tf.reduce_sum(tf.cast(self.known, tf.float32), axis=1, keepdims=True)


@tf.custom_gradient
def _bag_sums(
    rows: tf.Tensor, indices: tf.Tensor, bags: tf.Tensor, count: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None, None, None]]]:
    """Return float [count, dimension]: for each bag the sum of the rows at its indices; `bags` is sorted.

    TensorFlow's own gradient adds to the rows in the order of the bags, which is random access. Sorting by index first
    and adding row by row takes half the time.
    """

    def gradient(sums_gradient: tf.Tensor) -> tuple[tf.Tensor, None, None, None]:
        order = tf.argsort(indices)
        rows_gradient = tf.raw_ops.SparseSegmentSumWithNumSegments(
            data=sums_gradient,
            indices=tf.gather(bags, order),
            segment_ids=tf.gather(indices, order),
            num_segments=tf.shape(rows)[0],
        )
        return rows_gradient, None, None, None

    sums = tf.raw_ops.SparseSegmentSumWithNumSegments(data=rows, indices=indices, segment_ids=bags, num_segments=count)
    return sums, gradient


class Table(tf.Module):
    """Vectors of the ids 1 to `size`: `weights` is float [size + 1, dimension]."""

    def __init__(self, size: int, dimension: int, *, scale: float, seed: tuple[int, int], name: str) -> None:
        """Initialise the rows with normal draws of standard deviation `scale`; with zeros if that is 0.0."""
        super().__init__(name=name)
        self.size, self.dimension = size, dimension
        self.static = False  # True: `embed` returns static shapes, which XLA and therefore TPUs need

        def initial() -> tf.Tensor:
            if scale == 0.0:
                return tf.zeros([size + 1, dimension])
            rows = tf.random.stateless_normal([size + 1, dimension], seed, stddev=scale)
            return tf.tensor_scatter_nd_update(rows, [[0]], tf.zeros([1, dimension]))

        # A graph works in place; eager ops would need the memory of four tables.
        initial = tf.function(initial, autograph=False)
        self.weights = tf.Variable(initial, name=name, shape=[size + 1, dimension], dtype=tf.float32, trainable=False)

    def read(self, start: int, stop: int) -> tf.Tensor:
        """Return the vectors of the ids from `start` to `stop` - 1, float [ids, dimension]."""
        return self.gather(tf.range(start, stop))  # a slice would copy the whole table after its first update

    def scores(self, users: tf.Tensor) -> tf.Tensor:
        """Return the dot products of users [users, dimension] with all vectors, float [users, size + 1]."""
        return tf.matmul(users, self.weights, transpose_b=True)

    def gather(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the vectors of ids, float [..., dimension], without sharing rows between them."""
        return tf.gather(self.weights, ids)

    def set_rows(self, rows: npt.NDArray[np.float32], *, first: int = 0) -> None:
        """Set rows of the table, from row `first`; float [rows, dimension]."""
        self.weights.scatter_update(tf.IndexedSlices(rows, tf.range(first, first + len(rows))))

    def embed(self, ids: tf.Tensor) -> Embedded:
        """Return the rows of `ids`, int of any shape, each gathered once."""
        flat = tf.reshape(ids, [-1])
        used, indices = _static_unique(flat) if self.static else tf.unique(flat)
        return Embedded(
            ids=used,
            rows=tf.gather(self.weights, used),
            indices=tf.reshape(indices, tf.shape(ids)),
            known=ids > 0,
            static=self.static,
        )

    def look_up(self, ids: tf.Tensor) -> Embedded:
        """Return the same for inference only, with the whole table as `rows`: nothing is gathered just to be summed.

        Do not use it in training: after a table's first update TensorFlow copies the whole table at every such read.
        """
        return Embedded(ids=tf.reshape(ids, [-1]), rows=self.weights.read_value(), indices=ids, known=ids > 0)


class SummedTable(tf.Module):
    """Vectors of the ids 1 to `size` that are the sums of the rows of two tables: of their own one, and of a larger one
    that other inputs use too.

    The gradient of a sum is that of both rows (`RowwiseAdagrad.sums`).
    """

    def __init__(self, own: Table, shared: Table) -> None:
        super().__init__(name=f"{own.name}_and_{shared.name}")
        self.own, self.shared = own, shared
        self.size, self.dimension = own.size, own.dimension

    def read(self, start: int, stop: int) -> tf.Tensor:
        """Return the same as `Table.read`."""
        return self.own.read(start, stop) + self.shared.read(start, stop)

    def scores(self, users: tf.Tensor) -> tf.Tensor:
        """Return the same as `Table.scores`, without a table of all sums."""
        return self.own.scores(users) + self.shared.scores(users)[:, : self.size + 1]

    def gather(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the same as `Table.gather`."""
        return self.own.gather(ids) + self.shared.gather(ids)

    def embed(self, ids: tf.Tensor) -> Embedded:
        """Return the same as `Table.embed`; its `rows` are sums."""
        used = self.own.embed(ids)
        return dataclasses.replace(used, rows=used.rows + self.shared.gather(used.ids))


VideoTable = Table | SummedTable


def _static_unique(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the same as `tf.unique` of non-negative ids [n], padded with zeros to n. It sorts, which XLA supports."""
    size = ids.shape[0]
    order = tf.argsort(ids)
    ordered = tf.gather(ids, order)
    first = tf.concat([[0], tf.cast(ordered[1:] != ordered[:-1], tf.int32)], axis=0)
    index = tf.cumsum(first)
    used = tf.maximum(tf.math.unsorted_segment_max(ordered, index, size), 0)
    return used, tf.math.unsorted_segment_sum(index, order, size)
