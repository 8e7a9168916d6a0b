"""Rules of a batch compared with plain Python, their parts, and the errors for arguments that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from searches import apply_cap, excluding

from transforms.search.exact_search import Candidates
from transforms.search.exclusions import ChannelCap, Excluded, build_query_rules


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 5))
def test_a_cap_keeps_the_first_of_each_channel(seed: int, n: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    cap = ChannelCap(channel=rng.integers(-1, 4, n).astype(np.int32), limit=limit)
    positions = np.array([rng.permutation(n) for _ in range(3)], np.int32)
    keep = rng.random(positions.shape) < 0.8
    positions[2, n // 2 :], keep[2, n // 2 :] = -1, False  # a list that was filled up
    kept_rows = cap.apply(positions, keep)
    for row, kept, found in zip(positions, keep, kept_rows, strict=True):
        assert row[found].tolist() == apply_cap(row[kept].tolist(), cap)
    assert cap.max_list_length == len(apply_cap(list(range(n)), cap))


def test_rules_of_selected_queries_are_unchanged() -> None:
    rng = np.random.default_rng(2)
    hidden, group = rng.random((3, 20)) < 0.3, rng.integers(0, 3, 6).astype(np.int32)
    lists = [rng.integers(0, 20, 15).tolist() for _ in range(6)]
    rules = build_query_rules(excluding(lists, hidden, group), None, 6, 20)
    gone = [set(lists[i]) | set(np.flatnonzero(hidden[group[i]]).tolist()) for i in range(6)]
    assert rules.allowed_counts.tolist() == [20 - len(one) for one in gone]
    chosen = np.array([1, 4, 5])
    scores = np.zeros((3, 20), np.float32)
    rules.select(chosen).mask_scores(scores, 0)
    assert [set(np.flatnonzero(row < 0).tolist()) for row in scores] == [gone[i] for i in chosen]
    assert rules.select(chosen).allowed_counts.tolist() == rules.allowed_counts[chosen].tolist()


@pytest.mark.parametrize("limit", [0, 3, 64, 65, 300])  # up to 64 are compared one by one, more by binary search
def test_the_first_allowed_candidates_in_their_order(limit: int) -> None:
    rng = np.random.default_rng(limit)
    positions = np.array([rng.permutation(500)[:150] for _ in range(20)], np.int32)
    positions[3, 100:] = -1
    scores = -np.sort(-rng.random(positions.shape).astype(np.float32), axis=1)
    had = [rng.permutation(500)[: limit if row == 0 else rng.integers(limit + 1)].tolist() for row in range(20)]
    best = build_query_rules(excluding(had), None, 20, 500).first_allowed(
        Candidates(positions=positions, scores=scores), 60
    )
    for row, gone in enumerate(had):
        left = [at for at in range(150) if positions[row, at] >= 0 and positions[row, at] not in gone][:60]
        filled = 60 - len(left)
        assert best.positions[row].tolist() == [*positions[row, left].tolist(), *[-1] * filled]
        assert best.scores[row].tolist() == [*scores[row, left].tolist(), *[-np.inf] * filled]


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        (Excluded.empty(2), "offsets must go from 0 to 0 in 1 steps"),
        (excluding([[5]]), r"positions must lie in \[0, 5\), but range from 5 to 5"),
        (excluding([[]], np.zeros((1, 4), bool)), r"hidden must be \[groups, 5\], but is \(1, 4\)"),
        (excluding([[]], np.zeros((2, 5), bool)), "hidden has 2 rows"),
        (excluding([[]], np.zeros((2, 5), bool), np.array([2], np.int32)), r"group must be \[1\], each in \[0, 2\)"),
        (excluding([[]], None, np.zeros(3, np.int32)), r"group must be \[1\], each in \[0, 1\), but is array"),
    ],
)
def test_exclusions_that_do_not_fit_are_errors(excluded: Excluded, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_query_rules(excluded, None, 1, 5)


@pytest.mark.parametrize(("size", "limit"), [(4, 1), (5, 0)])
def test_a_cap_that_does_not_fit_is_an_error(size: int, limit: int) -> None:
    with pytest.raises(ValueError, match=rf"cap must have .* shape \({size},\) and limit {limit}"):
        build_query_rules(Excluded.empty(1), ChannelCap(channel=np.zeros(size, np.int32), limit=limit), 1, 5)


N, B = 60, 5
LISTS = st.lists(st.lists(st.integers(0, N - 1), max_size=20), min_size=B, max_size=B)


def exclusions_of(lists: list[list[int]], *, by_group: bool = True) -> Excluded:
    draw = np.random.default_rng(len(lists[0]))
    hidden = draw.random((3 if by_group else 1, N)) < 0.2
    return excluding(lists, hidden, draw.integers(0, 3, len(lists)).astype(np.int32) if by_group else None)


@given(LISTS, st.lists(st.integers(0, B - 1), max_size=6), st.booleans())
def test_selected_queries_keep_their_exclusions(had: list[list[int]], rows: list[int], by_group: bool) -> None:
    excluded = exclusions_of(had, by_group=by_group)
    some = excluded.select(np.array(rows, np.int64))
    own = [some.positions[a:b].tolist() for a, b in zip(some.offsets[:-1], some.offsets[1:], strict=True)]
    assert own == [had[row] for row in rows]
    assert some.hidden is excluded.hidden
    assert (some.group is None) == (excluded.group is None)
    if some.group is not None and excluded.group is not None:
        assert some.group.tolist() == [int(excluded.group[row]) for row in rows]


@given(LISTS, st.sets(st.integers(0, N - 1), min_size=1))
def test_restricted_exclusions_are_renumbered(had: list[list[int]], chosen: set[int]) -> None:
    excluded, positions = exclusions_of(had), np.array(sorted(chosen))
    part = excluded.restrict(positions)
    own = [positions[part.positions[a:b]].tolist() for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)]
    assert own == [[p for p in every if p in chosen] for every in had]
    assert part.hidden is not None and excluded.hidden is not None
    assert np.array_equal(part.hidden, excluded.hidden[:, positions])
