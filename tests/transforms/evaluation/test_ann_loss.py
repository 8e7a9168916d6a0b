"""Exact lists of users from the shards of an index, compared with a search of all vectors at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_index import write_made_index

from transforms.evaluation.ann_loss import exact_lists, restrict_exclusions, select_queries
from transforms.search.exclusions import ChannelCap, Excluded
from transforms.search.top_k import ExactIndex, top_k

N, B = 60, 5
DRAW = np.random.default_rng(9)
VECTORS = DRAW.integers(-2, 3, (N, 4)).astype(np.float32)  # whole numbers, so that scores are exact and many tie
QUERIES = DRAW.integers(-2, 3, (B, 4)).astype(np.float32)
lists = st.lists(st.lists(st.integers(0, N - 1), max_size=20), min_size=B, max_size=B)


def made(had: list[list[int]], *, by_group: bool = True) -> Excluded:
    draw = np.random.default_rng(len(had[0]))
    return Excluded(
        offsets=np.concatenate([[0], np.cumsum([len(own) for own in had])]),
        positions=np.array([p for own in had for p in own], np.int32),
        hidden=draw.random((3 if by_group else 1, N)) < 0.2,
        group=draw.integers(0, 3, len(had)).astype(np.int32) if by_group else None,
    )


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("capped", [False, True])
def test_lists_equal_a_search_of_all_vectors(shards: int, capped: bool, tmp_path: Path) -> None:
    folders, _ = write_made_index(tmp_path, VECTORS, [f"v{n:02d}" for n in range(N)], shards=shards)
    excluded = made([DRAW.integers(0, N, 12).tolist() for _ in range(B)])
    cap = ChannelCap(channel=DRAW.integers(-1, 5, N).astype(np.int32), limit=2) if capped else None
    for k in (1, 7, N):
        found = exact_lists(folders, QUERIES, excluded, cap, k=k)
        expected = top_k(ExactIndex(vectors=VECTORS), QUERIES, k=k, excluded=excluded, cap=cap)
        assert np.array_equal(found.positions, expected.positions)
        assert np.array_equal(found.scores, expected.scores)
        assert np.array_equal(found.lengths, expected.lengths)


@given(lists, st.lists(st.integers(0, B - 1), max_size=6), st.booleans())
def test_selected_queries_keep_their_exclusions(had: list[list[int]], rows: list[int], by_group: bool) -> None:
    excluded = made(had, by_group=by_group)
    some = select_queries(excluded, np.array(rows, np.int64))
    own = [some.positions[a:b].tolist() for a, b in zip(some.offsets[:-1], some.offsets[1:], strict=True)]
    assert own == [had[row] for row in rows]
    assert some.hidden is excluded.hidden
    assert (some.group is None) == (excluded.group is None)
    if some.group is not None and excluded.group is not None:
        assert some.group.tolist() == [int(excluded.group[row]) for row in rows]


@given(lists, st.sets(st.integers(0, N - 1), min_size=1))
def test_restricted_exclusions_are_renumbered(had: list[list[int]], chosen: set[int]) -> None:
    excluded, positions = made(had), np.array(sorted(chosen))
    part = restrict_exclusions(excluded, positions)
    own = [positions[part.positions[a:b]].tolist() for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)]
    assert own == [[p for p in every if p in chosen] for every in had]
    assert part.hidden is not None and excluded.hidden is not None
    assert np.array_equal(part.hidden, excluded.hidden[:, positions])
