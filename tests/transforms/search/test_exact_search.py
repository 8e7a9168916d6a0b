"""The parts of exact search: the threshold, the gathering of scores above it, and padding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.search.exact_search import _gather_at_least, _score_threshold, pad_to_k, select_best


def test_scores_at_or_above_the_threshold_are_gathered_by_position() -> None:
    scores = np.array([[1, 5, 5, 2], [0, -1, -2, 3], [1, 1, 1, 1]], np.float32)
    positions, values = _gather_at_least(scores, np.array([2, 0, 4], np.float32))
    assert positions.tolist() == [[1, 2, 3], [0, 3, -1], [-1, -1, -1]]
    assert values.tolist() == [[5, 5, 2], [0, 3, -np.inf], [-np.inf] * 3]


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 120))
def test_the_threshold_is_finite_and_reached_by_at_least_k_scores(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(-5, 6, (3, n)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.5] = -np.inf
    threshold = _score_threshold(scores, k)
    assert np.isfinite(threshold).all()
    finite = np.isfinite(scores).sum(axis=1)
    assert ((scores >= threshold[:, None]).sum(axis=1) >= np.minimum(k, finite)).all()


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
