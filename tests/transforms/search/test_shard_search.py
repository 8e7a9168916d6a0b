"""Merged results of shards equal those of one search of all videos, with ties, rules and a cap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import excluding, oracle, rows

from transforms.search.shard_search import merge_shards, read_partials, save_partial
from transforms.search.top_k import ChannelCap, ExactIndex, Excluded, top_k


@settings(max_examples=60)
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
        part = None if cap is None else ChannelCap(channel=cap.channel[at], limit=cap.limit)
        save_partial(
            top_k(ExactIndex(vectors=vectors[at]), queries, k=k, excluded=excluded, cap=part), at, folder, shard
        )
    merged = merge_shards(read_partials(folder), k, cap)
    assert rows(merged) == oracle(vectors, queries, k, excluding(had, hidden, group), cap)
