from __future__ import annotations

import numpy as np

from transforms.core.runs import run_indices, sum_by_key


def test_indexes_of_runs_are_those_of_their_ranges() -> None:
    starts, counts = np.array([7, 0, 3, 3]), np.array([2, 0, 3, 1])
    assert run_indices(starts, counts).tolist() == [7, 8, 3, 4, 5, 3]
    nothing = np.zeros(0, np.int64)
    assert run_indices(nothing, nothing).tolist() == []


def test_values_are_summed_by_key() -> None:
    keys, sums = sum_by_key(np.array([5, 2, 5, 9, 2]), np.array([0.5, 1.0, 0.25, 2.0, 3.0]))
    assert keys.tolist() == [2, 5, 9] and sums.tolist() == [4.0, 0.75, 2.0]
    keys, sums = sum_by_key(np.zeros(0, np.int64), np.zeros(0))
    assert keys.tolist() == sums.tolist() == []
