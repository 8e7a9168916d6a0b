"""Arrays of runs of different lengths, stored one after the other, and sums of the rows that share a key."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def run_indices(starts: Ints, counts: Ints) -> Ints:
    """Return the indexes start, start + 1, ... of runs of `counts` elements that begin at `starts`, [sum of counts].

    starts, counts: [runs]; runs may overlap and come in any order.
    """
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))


def sum_by_key(keys: Ints, values: NDArray[Any]) -> tuple[Ints, NDArray[Any]]:
    """Return the distinct keys in order, and the sum of the values of each.

    Sorting is faster than grouping by hash if most keys are rare.
    """
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return keys[starts], np.add.reduceat(values[order], starts) if len(keys) else values
