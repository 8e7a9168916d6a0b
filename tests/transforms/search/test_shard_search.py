"""Merged results of shards, and exact lists of them, equal those of one search, with ties, rules and a cap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from made_index import write_made_index
from searches import excluding, oracle, rows

from transforms.search.exact_search import ExactIndex
from transforms.search.exclusions import ChannelCap, Excluded
from transforms.search.shard_search import exact_lists, merge_shards, read_partials, save_partial
from transforms.search.top_k import top_k


@settings(max_examples=fewer(60))
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 4), st.booleans())
def test_merged_results_equal_one_search(
    tmp_path_factory: pytest.TempPathFactory, seed: int, k: int, shards: int, capped: bool
) -> None:
    draw = np.random.default_rng(seed)
    n, b = int(draw.integers(shards, 25)), 3
    vectors, queries = draw.integers(-2, 3, (n, 2)).astype(np.float32), draw.integers(-2, 3, (b, 2)).astype(np.float32)
    hidden, group = draw.random((2, n)) < 0.2, draw.integers(0, 2, b).astype(np.int32)
    had = [np.flatnonzero(draw.random(n) < 0.3).tolist() for _ in range(b)]
    cap = (
        ChannelCap(channel=draw.integers(-1, 3, n).astype(np.int32), limit=int(draw.integers(1, 4))) if capped else None
    )
    folder = tmp_path_factory.mktemp("shards") / "batch"
    for shard in range(shards):
        at = np.arange(shard, n, shards)
        of_shard = [[at.tolist().index(p) for p in row if p % shards == shard] for row in had]
        excluded: Excluded = excluding(of_shard, hidden[:, at], group)
        part = None if cap is None else cap.restrict(at)
        save_partial(
            top_k(ExactIndex(vectors=vectors[at]), queries, k=k, excluded=excluded, cap=part), at, folder, shard
        )
    merged = merge_shards(read_partials(folder), k, cap)
    assert rows(merged) == oracle(vectors, queries, k, excluding(had, hidden, group), cap)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("capped", [False, True])
def test_exact_lists_equal_a_search_of_all_vectors(shards: int, capped: bool, tmp_path: Path) -> None:
    n, b, draw = 60, 5, np.random.default_rng(9)
    vectors, queries = (draw.integers(-2, 3, (rows, 4)).astype(np.float32) for rows in (n, b))  # many scores tie
    folders, _ = write_made_index(tmp_path, vectors, [f"v{at:02d}" for at in range(n)], shards=shards)
    hidden, group = draw.random((3, n)) < 0.2, draw.integers(0, 3, b).astype(np.int32)
    excluded = excluding([draw.integers(0, n, 12).tolist() for _ in range(b)], hidden, group)
    cap = ChannelCap(channel=draw.integers(-1, 5, n).astype(np.int32), limit=2) if capped else None
    for k in (1, 7, n):
        found = exact_lists(folders, queries, excluded, cap, k=k)
        expected = top_k(ExactIndex(vectors=vectors), queries, k=k, excluded=excluded, cap=cap)
        np.testing.assert_array_equal(found.positions, expected.positions)
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.lengths, expected.lengths)
