"""Exact search under all rules compared with a brute-force oracle, and indexes written and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import clustered, excluding, oracle, rows

from transforms.search import exact_search
from transforms.search.exact_search import ExactIndex
from transforms.search.exclusions import ChannelCap, Excluded
from transforms.search.top_k import build_index, load_index, save_index, top_k


@st.composite
def searches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, Excluded, ChannelCap | None]:
    """Vectors of small integers, so that scores are exact and most of them tie."""
    n, b, k = draw(st.integers(1, 60)), draw(st.integers(0, 6)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    vectors = rng.integers(-2, 3, (n, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, (b, 3)).astype(np.float32)
    lists = [rng.integers(0, n, rng.integers(0, 2 * n)).tolist() for _ in range(b)]
    groups = draw(st.sampled_from([None, 0, 1, 3]))  # no rows, one row for all queries, several rows
    hidden = None if groups is None else rng.random((max(1, groups), n)) < rng.choice([0.3, 1.0], (max(1, groups), 1))
    group = rng.integers(0, groups, b).astype(np.int32) if groups else None
    cap = ChannelCap(channel=rng.integers(-1, 5, n).astype(np.int32), limit=draw(st.integers(1, 8)))
    return vectors, queries, k, excluding(lists, hidden, group), cap if draw(st.booleans()) else None


@settings(max_examples=fewer(300))
@given(searches())
def test_exact_top_k_equals_the_oracle(case: tuple[np.ndarray, np.ndarray, int, Excluded, ChannelCap | None]) -> None:
    vectors, queries, k, excluded, cap = case
    top = top_k(ExactIndex(vectors=vectors), queries, k=k, excluded=excluded, cap=cap)
    assert top.positions.shape == (len(queries), k)
    assert rows(top) == oracle(vectors, queries, k, excluded, cap)


@settings(max_examples=fewer(20))
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 20]), st.sampled_from([None, 1, 3]))
def test_ties_at_the_kth_place_in_large_catalogues(seed: int, k: int, limit: int | None) -> None:
    rng = np.random.default_rng(seed)  # 1,000 > 8 k: takes the threshold of large catalogues
    vectors, queries = (rng.integers(-3, 4, (size, 2)).astype(np.float32) for size in (1_000, 5))
    queries[0] = 0  # every score ties
    excluded = excluding([rng.integers(0, 1_000, 300).tolist() for _ in queries])
    cap = ChannelCap(channel=rng.integers(-1, 40, 1_000).astype(np.int32), limit=limit) if limit else None
    top = top_k(ExactIndex(vectors=vectors), queries, k=k, excluded=excluded, cap=cap)
    assert rows(top) == oracle(vectors, queries, k, excluded, cap)


def test_a_capped_search_goes_past_a_channel_that_fills_the_top() -> None:
    vectors = np.arange(2_000, 0, -1, dtype=np.float32)[:, None]
    channel = np.where(np.arange(2_000) < 1_900, 7, -1).astype(np.int32)
    top = top_k(
        ExactIndex(vectors=vectors),
        vectors[:1],
        k=5,
        excluded=excluding([[0]]),
        cap=ChannelCap(channel=channel, limit=2),
    )
    assert rows(top) == [[1, 2, 1_900, 1_901, 1_902]]
    every = np.zeros(2_000, np.int32)
    top = top_k(
        ExactIndex(vectors=vectors), vectors[:1], k=5, excluded=excluding([[0]]), cap=ChannelCap(channel=every, limit=2)
    )
    assert rows(top) == [[1, 2]]


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = (rng.integers(-9, 10, (size, 4)).astype(np.float32) for size in (500, 33))
    hidden, group = rng.random((3, 500)) < 0.4, rng.integers(0, 3, 33).astype(np.int32)
    excluded = excluding([rng.integers(0, 500, size).tolist() for size in range(33)], hidden, group)
    monkeypatch.setattr(exact_search, "BLOCK", 2_000)  # 4 queries at a time
    parts = top_k(ExactIndex(vectors=vectors), queries, k=7, excluded=excluded)
    assert rows(parts) == oracle(vectors, queries, 7, excluded)


def test_search_pads_if_k_exceeds_the_catalogue() -> None:
    found = ExactIndex(vectors=np.ones((2, 3), np.float32)).search(np.ones((1, 3), np.float32), 4)
    assert found.positions.tolist() == [[0, 1, -1, -1]]
    assert found.scores.tolist() == [[3, 3, -np.inf, -np.inf]]


@pytest.mark.parametrize(("n", "kind"), [(1, "exact"), (99, "exact"), (100, "scann")])
def test_small_catalogues_are_searched_exactly(n: int, kind: str) -> None:
    vectors, _ = clustered(n, 8, 1)
    assert build_index(vectors, k=10, exact_below=100).info.kind == kind


def test_saved_exact_index(tmp_path: Path) -> None:
    vectors, queries = clustered(50, 4, 3)
    save_index(build_index(vectors, k=5), tmp_path)
    found = load_index(tmp_path).search(queries, 5)
    np.testing.assert_array_equal(found.positions, ExactIndex(vectors=vectors).search(queries, 5).positions)


def test_invalid_arguments_are_errors() -> None:
    index = ExactIndex(vectors=np.ones((5, 2), np.float32))
    one = np.ones((1, 2), np.float32)
    with pytest.raises(ValueError, match=r"vectors must be finite numbers \[n, d\], but are \(0, 2\)"):
        build_index(np.ones((0, 2), np.float32), k=1)
    with pytest.raises(ValueError, match="vectors must be finite"):
        build_index(np.full((3, 2), np.nan, np.float32), k=1)
    with pytest.raises(ValueError, match="recall must lie between 0 and 1, but is 1"):
        build_index(one, k=1, recall=1)
    with pytest.raises(ValueError, match="k must be positive, but is 0"):
        top_k(index, one, k=0, excluded=Excluded.empty(1))
    with pytest.raises(ValueError, match=r"queries must be \[b, 2\] like the vectors, but are \(1, 3\)"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(ValueError, match="queries must be finite"):
        index.search(one * np.nan, 1)
