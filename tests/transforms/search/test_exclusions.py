"""Rules of a batch against plain Python: caps as one would count by hand, and the mistakes that are named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from searches import excluding, let_in

from transforms.search.exact_search import Candidates
from transforms.search.exclusions import Cap, Excluded, query_rules


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 5))
def test_a_cap_keeps_the_first_of_each_channel(seed: int, n: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    cap = Cap(channel=rng.integers(-1, 4, n).astype(np.int32), most=most)
    positions = np.array([rng.permutation(n) for _ in range(3)], np.int32)
    keep = rng.random(positions.shape) < 0.8
    positions[2, n // 2 :], keep[2, n // 2 :] = -1, False  # a list that was filled up
    within = cap.within(positions, keep)
    for row, kept, found in zip(positions, keep, within, strict=True):
        assert row[found].tolist() == let_in(row[kept].tolist(), cap)
    assert cap.room == len(let_in(list(range(n)), cap))


def test_rules_of_some_queries_are_those_they_have_among_all() -> None:
    rng = np.random.default_rng(2)
    hidden, group = rng.random((3, 20)) < 0.3, rng.integers(0, 3, 6).astype(np.int32)
    lists = [rng.integers(0, 20, 15).tolist() for _ in range(6)]
    rules = query_rules(excluding(lists, hidden, group), None, 6, 20)
    gone = [set(lists[i]) | set(np.flatnonzero(hidden[group[i]]).tolist()) for i in range(6)]
    assert rules.left.tolist() == [20 - len(one) for one in gone]
    chosen = np.array([1, 4, 5])
    scores = np.zeros((3, 20), np.float32)
    rules.of(chosen).hide(scores, 0)
    assert [set(np.flatnonzero(row < 0).tolist()) for row in scores] == [gone[i] for i in chosen]
    assert rules.of(chosen).left.tolist() == rules.left[chosen].tolist()


@pytest.mark.parametrize("most", [0, 3, 64, 65, 300])  # compared one after the other, and looked up
def test_the_first_that_are_left_in_their_order(most: int) -> None:
    rng = np.random.default_rng(most)
    positions = np.array([rng.permutation(500)[:150] for _ in range(20)], np.int32)
    positions[3, 100:] = -1
    scores = -np.sort(-rng.random(positions.shape).astype(np.float32), axis=1)
    had = [rng.permutation(500)[: most if row == 0 else rng.integers(most + 1)].tolist() for row in range(20)]
    best = query_rules(excluding(had), None, 20, 500).best(Candidates(positions=positions, scores=scores), 60)
    for row, gone in enumerate(had):
        left = [at for at in range(150) if positions[row, at] >= 0 and positions[row, at] not in gone][:60]
        filled = 60 - len(left)
        assert best.positions[row].tolist() == [*positions[row, left].tolist(), *[-1] * filled]
        assert best.scores[row].tolist() == [*scores[row, left].tolist(), *[-np.inf] * filled]


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        (Excluded.nothing(2), "offsets must go from 0 to 0 in 1 steps"),
        (excluding([[5]]), r"positions must lie in \[0, 5\), but reach 5 to 5"),
        (excluding([[]], np.zeros((1, 4), bool)), r"hidden must be \[groups, 5\], but is \(1, 4\)"),
        (excluding([[]], np.zeros((2, 5), bool)), r"hidden has 2 rows: excluded\.group must say which"),
        (excluding([[]], np.zeros((2, 5), bool), np.array([2], np.int32)), r"group must be \[1\], each in \[0, 2\)"),
        (excluding([[]], None, np.zeros(3, np.int32)), r"group must be \[1\], each in \[0, 1\), but is array"),
    ],
)
def test_exclusions_that_do_not_fit_are_named(excluded: Excluded, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        query_rules(excluded, None, 1, 5)


@pytest.mark.parametrize(("size", "most"), [(4, 1), (5, 0)])
def test_a_cap_that_does_not_fit_is_named(size: int, most: int) -> None:
    with pytest.raises(ValueError, match=rf"cap must have a channel for each of 5, and most >= 1: \({size},\), {most}"):
        query_rules(Excluded.nothing(1), Cap(channel=np.zeros(size, np.int32), most=most), 1, 5)
