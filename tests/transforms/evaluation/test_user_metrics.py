"""Metrics with intervals: independent of the split of users; paired differences."""

from __future__ import annotations

import json

import numpy as np
import pytest

from transforms.contracts.retrieval_metrics import RankingMetrics, UserMetrics
from transforms.core.bootstrap import REPLICATES, interval, weights
from transforms.core.digests import mix
from transforms.evaluation.user_metrics import Measured, MeasuredFigures, merge_measured, paired_difference

KS = (2, 5)
USERS = 60
DRAW = np.random.default_rng(6)
HITS = DRAW.random((USERS, 5)) < 0.2
WANTED = HITS.sum(axis=1) + DRAW.integers(0, 3, USERS)
DRAWN = weights(mix(1, np.arange(USERS)))


def measured(rows: slice | np.ndarray = slice(None), hits: np.ndarray = HITS) -> Measured:
    return Measured.from_users(UserMetrics.from_hits(hits[rows], WANTED[rows], ks=KS), DRAWN[rows])


def test_figures_equal_the_metrics() -> None:
    found = measured().compute()
    assert found.figures == RankingMetrics.from_hits(HITS, WANTED, ks=KS).compute()
    assert "replicates" not in found.model_fields_set
    assert set(found.intervals) == set(found.figures) - {"users", "pairs"}
    for name, (low, high) in found.intervals.items():
        assert low < found.figures[name] < high


def test_a_replicate_is_the_figure_of_weighted_users() -> None:
    kept = measured().compute(kept=["recall@5", "mrr"]).replicates
    assert set(kept) == {"recall@5", "mrr"}
    for r in (0, 17, REPLICATES - 1):
        rows = np.repeat(np.arange(USERS), DRAWN[:, r])
        expected = RankingMetrics.from_hits(HITS[rows], WANTED[rows], ks=KS).compute()
        for name, values in kept.items():
            assert values[r] == pytest.approx(expected[name], abs=1e-8)


def test_parts_merge_to_the_whole() -> None:
    parts = [measured(slice(a, b)) for a, b in ((50, 60), (0, 1), (7, 50), (1, 7), (7, 7))]
    assert merge_measured(parts).compute(kept=["map"]) == measured().compute(kept=["map"])


def test_only_the_selected_figures_have_intervals() -> None:
    users = UserMetrics.from_hits(HITS, WANTED, ks=KS)
    found = Measured.from_users(users, DRAWN, ["recall@5"]).compute(kept=["recall@5", "map"])
    assert set(found.intervals) == set(found.replicates) == {"recall@5"}
    assert found.intervals["recall@5"] == measured().compute().intervals["recall@5"]


def test_no_users() -> None:
    none = measured(slice(0, 0))
    assert none.compute(kept=["map"]) == MeasuredFigures(figures={"users": 0, "pairs": 0}, intervals={})


def test_replicates_without_users_are_null() -> None:
    one = measured(np.flatnonzero(WANTED)[:1]).compute(kept=["map"])
    nobody = DRAWN[np.flatnonzero(WANTED)[0]] == 0
    assert [value is None for value in one.replicates["map"]] == nobody.tolist()
    json.dumps(one.model_dump(), allow_nan=False)


def test_differences_are_paired() -> None:
    worse = HITS & (DRAW.random(HITS.shape) < 0.7)
    ours, theirs = (m.compute(kept=["recall@5"]) for m in (measured(), measured(hits=worse)))
    found = paired_difference(ours, theirs, "recall@5")
    assert found is not None
    assert found.value == ours.figures["recall@5"] - theirs.figures["recall@5"]
    by_hand = measured().replicate_values("recall@5") - measured(hits=worse).replicate_values("recall@5")
    assert [found.low, found.high] == pytest.approx(interval(by_hand), abs=1e-8)
    assert 0 < found.low < found.value < found.high  # all hits of the worse lists are hits of the better ones
    (_, high), (low, _) = theirs.intervals["recall@5"], ours.intervals["recall@5"]
    assert low < high  # the two intervals overlap


def test_without_replicates_there_is_no_difference() -> None:
    some = measured().compute(kept=["recall@5"])
    assert paired_difference(some, measured().compute(), "recall@5") is None
    assert paired_difference(some, some, "mrr") is None
