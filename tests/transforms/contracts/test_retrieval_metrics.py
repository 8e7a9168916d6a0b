"""The ranking metrics compared with a plain Python oracle of the published definitions."""

import math
from collections.abc import Iterable
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.contracts.retrieval_metrics import (
    RankingMetrics,
    UserMetrics,
    denominator,
    hits_from_ids,
    merge_metrics,
)


def oracle(lists: list[list[int]], wanted: list[set[int]], ks: tuple[int, ...]) -> dict[str, float]:
    """Compute the figures user by user and video by video."""
    users = [(shown, want) for shown, want in zip(lists, wanted, strict=True) if want]
    out: dict[str, float] = {"users": len(users), "pairs": sum(len(want) for _, want in users)}
    if not users:
        return out

    def mean(values: Iterable[float]) -> float:
        return math.fsum(values) / len(users)

    for k in ks:
        out[f"recall@{k}"] = sum(video in want for shown, want in users for video in shown[:k]) / out["pairs"]
        out[f"hit@{k}"] = mean(any(video in want for video in shown[:k]) for shown, want in users)
        out[f"ndcg@{k}"] = mean(
            sum(1 / math.log2(r + 2) for r, video in enumerate(shown[:k]) if video in want)
            / sum(1 / math.log2(r + 2) for r in range(min(len(want), k)))
            for shown, want in users
        )
    top = max(ks)
    out["map"] = mean(
        sum(sum(v in want for v in shown[: r + 1]) / (r + 1) for r, video in enumerate(shown[:top]) if video in want)
        / min(len(want), top)
        for shown, want in users
    )
    out["mrr"] = mean(
        max((1 / (r + 1) for r, video in enumerate(shown[:top]) if video in want), default=0) for shown, want in users
    )
    return out


def padded(lists: list[list[int]], width: int) -> np.ndarray:
    rows = [row + [-1] * (width - len(row)) for row in lists]
    return np.array(rows, np.int64).reshape(len(lists), width)


def ragged(wanted: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(want) for want in wanted])]).astype(np.int64)
    return offsets, np.array([video for want in wanted for video in want], np.int64)


def metrics_of(lists: list[list[int]], wanted: list[set[int]], ks: tuple[int, ...], width: int) -> RankingMetrics:
    offsets, labels = ragged(wanted)
    hits = hits_from_ids(padded(lists, width), offsets=offsets, labels=labels)
    return RankingMetrics.from_hits(hits, np.diff(offsets), ks=ks)


ids = st.integers(0, 12)
cases = st.lists(st.tuples(st.lists(ids, unique=True, max_size=8), st.sets(ids, max_size=6)), max_size=12)
cuts = st.sets(st.integers(1, 10), min_size=1, max_size=3).map(lambda ks: tuple(sorted(ks)))


@given(cases, cuts)
def test_figures_equal_the_oracle(case: list[tuple[list[int], set[int]]], ks: tuple[int, ...]) -> None:
    lists, wanted = [shown for shown, _ in case], [want for _, want in case]
    found = metrics_of(lists, wanted, ks, 8).compute()
    expected = oracle(lists, wanted, ks)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-11)


@given(cases, cuts, st.lists(st.integers(0, 12), max_size=4), st.randoms(use_true_random=False))
def test_parts_merge_exactly_in_any_order(case, ks, splits, random) -> None:  # type: ignore[no-untyped-def]
    lists, wanted = [shown for shown, _ in case], [want for _, want in case]
    bounds = [0, *sorted(min(s, len(case)) for s in splits), len(case)]
    parts = [metrics_of(lists[a:b], wanted[a:b], ks, 8) for a, b in pairwise(bounds)]
    random.shuffle(parts)
    assert merge_metrics(parts, ks=ks) == metrics_of(lists, wanted, ks, 8)  # exactly, not approximately


@given(cases, cuts)
def test_figures_are_ratios_of_columns(case: list[tuple[list[int], set[int]]], ks: tuple[int, ...]) -> None:
    lists, wanted = [shown for shown, _ in case], [want for _, want in case]
    offsets, labels = ragged(wanted)
    hits = hits_from_ids(padded(lists, 8), offsets=offsets, labels=labels)
    users = UserMetrics.from_hits(hits, np.diff(offsets), ks=ks)
    columns = users.columns
    expected = oracle(lists, wanted, ks)
    assert (columns["users"].sum(), columns["pairs"].sum()) == (expected["users"], expected["pairs"])
    for name in set(expected) - {"users", "pairs"}:
        assert columns[name].sum() / columns[denominator(name)].sum() == pytest.approx(expected[name], abs=1e-11)
    some = np.arange(len(case)) % 2 == 0
    merged = users.select(some).total().merge(users.select(np.flatnonzero(~some)).total())
    assert merged == users.total() == RankingMetrics.from_hits(hits, np.diff(offsets), ks=ks)


def test_a_worked_example() -> None:
    hits = np.array([[False, True, True], [False, False, False]])
    figures = RankingMetrics.from_hits(hits, np.array([4, 1]), ks=(3, 1)).compute()
    assert figures["recall@1"] == 0
    assert figures["recall@3"] == 2 / 5
    assert figures["hit@3"] == 0.5
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert figures["ndcg@3"] == pytest.approx((1 / math.log2(3) + 1 / 2) / ideal / 2)
    assert figures["map"] == pytest.approx((1 / 2 + 2 / 3) / 3 / 2)
    assert figures["mrr"] == pytest.approx(1 / 2 / 2)


def test_users_without_lists_count_and_users_without_wanted_videos_do_not() -> None:
    hits = np.array([[True], [False], [False]])
    figures = RankingMetrics.from_hits(hits, np.array([1, 1, 0]), ks=(1,)).compute()
    assert (figures["users"], figures["recall@1"]) == (2, 0.5)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_empty_shapes(shape: tuple[int, int]) -> None:
    figures = RankingMetrics.from_hits(np.zeros(shape, bool), np.ones(shape[0], int), ks=(3,)).compute()
    assert figures == ({"users": 0, "pairs": 0} if not shape[0] else figures | {"recall@3": 0.0, "map": 0.0})


def test_lists_of_different_lengths_merge() -> None:
    short = RankingMetrics.from_hits(np.array([[True]]), np.array([3]), ks=(2,))
    same = RankingMetrics.from_hits(np.array([[True, False, True]]), np.array([3]), ks=(2,))
    assert short == same


def test_negative_ids_match_nothing() -> None:
    hits = hits_from_ids(np.array([[-1, 3]]), offsets=np.array([0, 3]), labels=np.array([-1, -1, 3]))
    assert hits.tolist() == [[False, True]]


def test_hits_are_of_the_users_own_labels() -> None:
    shown = np.array([[5, 0], [0, 5]])
    hits = hits_from_ids(shown, offsets=np.array([0, 1, 2]), labels=np.array([5, 0]))
    assert hits.tolist() == [[True, False], [True, False]]


def test_invalid_arguments_are_errors() -> None:
    with pytest.raises(ValueError, match="row 1 has 2 hits but only 1 wanted"):
        RankingMetrics.from_hits(np.array([[True, False], [True, True]]), np.array([1, 1]), ks=(1,))
    with pytest.raises(ValueError, match=r"hits must be \[users, K\]"):
        RankingMetrics.from_hits(np.array([[True]]), np.array([1, 1]), ks=(1,))
    with pytest.raises(ValueError, match="positive cuts"):
        RankingMetrics.empty(ks=(0, 5))
    with pytest.raises(ValueError, match="same cuts"):
        reduce(RankingMetrics.merge, [RankingMetrics.empty(ks=(1,)), RankingMetrics.empty(ks=(2,))])
    with pytest.raises(ValueError, match="offsets must go from 0 to 1 in 1 steps"):
        hits_from_ids(np.array([[1]]), offsets=np.array([0, 2]), labels=np.array([1]))
