"""Every gate both ways, and what each says."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import gates
from transforms.gates import Gate, MeasuredNight

FIGURE = "recall@10"


def measured(value: float, spread: float = 0.01) -> dict[str, Any]:
    """What `to_json` says of a figure whose replicates lie evenly about it."""
    return {"figures": {FIGURE: value}, "replicates": {FIGURE: (value + np.linspace(-spread, spread, 41)).tolist()}}


def nights(ours: float, theirs: float, popular: float = 0.2, popular_before: float = 0.2) -> Gate:
    tonight = MeasuredNight(measured(ours), measured(popular))
    before = MeasuredNight(measured(theirs), measured(popular_before))
    return gates.recall_before(tonight, before, FIGURE, most_lost=0.1)


def beside(value: float, low: float, high: float) -> Gate:
    return gates.most_popular({"value": value, "low": low, "high": high}, FIGURE)


def ranked(value: float, low: float, high: float) -> Gate:
    found = {
        "wanted_seconds": 9,
        "neighbours": {"recall": 0.25},
        "difference": {"value": value, "low": low, "high": high},
    }
    return gates.ranking(found, 7)


def coverage(distinct: int) -> Gate:
    return gates.coverage(distinct=distinct, lists=100, length=10, candidates=5_000, least=0.1)


CASES: list[tuple[Callable[..., Gate], tuple[Any, ...], tuple[Any, ...], str]] = [
    (
        beside,
        (-0.01, -0.03, 0.001),
        (-0.02, -0.03, -0.01),
        r"gate most popular: recall@10 less .* is -0\.0200 \(-0\.03",
    ),
    (
        ranked,
        (-0.01, -0.03, 0.001),
        (-0.02, -0.03, -0.01),
        r"gate ranking: the first 7 of ranked lists hold -0\.0200 \(-0\.0300 to -0\.0100\) more .* neighbours, 0\.25",
    ),
    (
        nights,
        (0.38, 0.4),
        (0.3, 0.4),
        r"gate recall: recall@10 is 0\.3000, and was 0\.4000 .* bound: not below 0\.3600",
    ),
    (nights, (0.3, 0.4, 0.15), (0.24, 0.4, 0.15), r"popular videos 0\.1500 and 0\.2000; .* bound: not below 0\.2700"),
    (
        lambda recall: gates.ann_recall(recall, wanted=0.95, most_short=0.05),
        (0.91,),
        (0.85,),
        r"gate index recall: the index finds 0\.850 .* bound: at least 0\.900 \(index\.recall = 0\.95",
    ),
    (
        lambda ours: gates.ann_loss(measured(0.4), measured(ours), FIGURE, most_lost=0.05),
        (0.395,),
        (0.3,),
        r"gate approximate search: recall@10 by exact search is 0\.4000 and by the index 0\.3000, bound: at most 0\.05",
    ),
    (
        lambda tonight: gates.users(before=1_000, tonight=tonight, most_lost=0.2),
        (800,),
        (640,),
        r"gate users: 640 users would be served, 1,000 were the night before \(-36\.0%\), bound: at most 0\.2 fewer",
    ),
    (coverage, (100,), (99,), r"gate coverage: 99 distinct videos in 100 lists, of 1,000 that could be \(0\.099\)"),
    (
        lambda value: gates.sameness(value, most=0.8),
        (0.8,),
        (1.0,),
        r"gate sameness: two users' lists are alike by 1\.000 .* bound: at most 0\.8 \(gates\.max_sameness\)",
    ),
    (
        lambda value: gates.stayed(value, least=0.1, most=0.99),
        (0.5,),
        (0.05,),
        r"gate stayed: 5\.0% of a user's list stayed .* bound: 0\.1 to 0\.99",
    ),
    (lambda value: gates.stayed(value, least=0.1, most=0.99), (0.1,), (1.0,), r"100\.0% .* too much: no new day was"),
    (
        lambda n: gates.rejects(read=1_000, reasons={"watches: no time": n}, most=0.01),
        (10,),
        (20,),
        r"gate rejects: 20 of 1,000 rows were refused \(2\.00%\), bound: at most 0\.01 .*: 20 x watches: no time",
    ),
    (
        lambda *troubles: gates.same_night(troubles),
        (),
        ("the index is old",),
        r"gate same night: the index is old, bound: all of one training .*: run the night again from train",
    ),
    (
        lambda newest: gates.volume("watches", [100, 120, 90, newest], least=0.7, most=2),
        (63,),
        (62,),
        r"gate volume of watches: 62 watches on the newest day, 90 to 120 on those before, bound: 0\.7 x the fewest",
    ),
    (
        lambda newest: gates.volume("w", [100, 120, 90, newest], least=0.7, most=2),
        (240,),
        (241,),
        r"none was sent twice",
    ),
    (
        lambda users: gates.skew("device", {"1": 70, "2": 30}, {"1": users, "2": 100 - users}, most=0.25),
        (60,),
        (10,),
        r"gate skew of device: the population .* is 1\.\d+, bound: at most 0\.25 .*trained on 1: 70, 2: 30",
    ),
]


@pytest.mark.parametrize(("gate", "good", "bad", "message"), CASES, ids=[str(n) for n in range(len(CASES))])
def test_every_gate_lets_pass_and_stops(
    gate: Callable[..., Gate], good: tuple[Any, ...], bad: tuple[Any, ...], message: str
) -> None:
    passed, failed = gate(*good), gate(*bad)
    assert passed.ok is True and failed.ok is False
    assert re.search(message, failed.message), failed.message
    assert failed.bound in failed.message and len(failed.message) > len(failed.bound) + 40
    assert failed.name == passed.name and failed.message.startswith(f"gate {failed.name}: ")


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (gates.most_popular(None, FIGURE), "no users were held out"),
        (gates.ranking(None, 7), "no lists were ranked, or no users were held out"),
        (gates.ranking({"users": 3, "wanted_seconds": 0}, 7), "no lists were ranked, or no users were held out"),
        (
            gates.recall_before(
                MeasuredNight(measured(0.3), measured(0.2)),
                MeasuredNight({"figures": {"recall@20": 0.4}}, {"figures": {}}),
                FIGURE,
                most_lost=0.1,
            ),
            "there is no recall@10 with replicates of both nights",
        ),
        (gates.ann_loss({"figures": {}}, measured(0.3), FIGURE, most_lost=0.1), "search is exact"),
        (gates.sameness(None, most=0.8), "nearly as long as there are videos"),
        (gates.stayed(None, least=0.1, most=0.9), "no lists of a night before"),
        (gates.volume("watches", [1, 2, 3], least=0.7, most=2), "fewer than 3 days"),
        (gates.skew("device", {}, {}, most=0.1), "nobody is both trained on and served"),
    ],
)
def test_what_cannot_be_compared_stops_nothing(gate: Gate, why: str) -> None:
    assert gate.ok is None and gate.value is None
    assert re.search(f"not computed: .*{why}", gate.message)


@given(st.lists(st.sets(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=8))
def test_alike_is_the_mean_overlap_of_all_pairs_above_chance(lists: list[set[int]]) -> None:
    held = pl.Series([video for videos in lists for video in videos]).value_counts()["count"]
    overlaps = [len(one & other) / 3 for one, other in combinations(lists, 2)]
    chance = 3 / 31
    expected = (sum(overlaps) / len(overlaps) - chance) / (1 - chance)
    assert gates.alike(held, lists=len(lists), candidates=31) == pytest.approx(expected, abs=1e-9)


def test_alike_is_one_for_the_same_list_and_unknown_where_chance_decides() -> None:
    assert gates.alike(pl.Series([50] * 10), lists=50, candidates=1_000) == pytest.approx(1)
    assert gates.alike(pl.Series([50] * 10), lists=50, candidates=15) is None
    assert gates.alike(pl.Series([1] * 10), lists=1, candidates=1_000) is None
    assert gates.alike(pl.Series([], dtype=pl.UInt32), lists=0, candidates=10) is None


@pytest.mark.parametrize("days", [[0, 0, 0, 0], [5, 5, 5, 5]])
def test_days_alike_are_no_change_of_volume(days: list[int]) -> None:
    gate = gates.volume("watches", days, least=0.7, most=2)
    assert (gate.ok, gate.value) == (True, 1.0)


def test_no_bound_is_no_bound() -> None:
    assert gates.volume("watches", [5, 5, 5, 5_000], least=0, most=0).ok
    assert gates.volume("watches", [5, 5, 5, 0], least=0, most=2).ok
