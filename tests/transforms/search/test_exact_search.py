"""The best scores of each row, and padding. `test_top_k` tests the search under all rules."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.search.exact_search import pad_to_k, select_best


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 120))
def test_the_best_are_those_of_a_full_sort(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-5, 6, (3, n)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    found = select_best(scores, k)
    for row, positions, values in zip(scores, found.positions, found.scores, strict=True):
        expected = sorted((-score, at) for at, score in enumerate(row.tolist()) if np.isfinite(score))[:k]
        padding = k - len(expected)
        assert positions.tolist() == [*(at for _, at in expected), *[-1] * padding]
        assert values.tolist() == [*(-score for score, _ in expected), *[-np.inf] * padding]


def test_results_are_padded_to_k_columns() -> None:
    found = pad_to_k(np.array([[3, 1]], np.int32), np.array([[2, 1]], np.float32), 3)
    assert found.positions.tolist() == [[3, 1, -1]]
    assert found.scores.tolist() == [[2, 1, -np.inf]]
