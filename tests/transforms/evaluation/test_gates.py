"""Every gate passed, failed and not computed, and their messages."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from transforms.core.bootstrap import PairedDifference
from transforms.evaluation import gates
from transforms.evaluation.gates import Gate, MeasuredNight
from transforms.evaluation.user_metrics import MeasuredFigures
from transforms.ranking.measured_calibration import CalibrationClass, MeasuredCalibration
from transforms.ranking.watch_time_recall import MeasuredRanking, RankedRecall

FIGURE = "recall@10"
NOTHING_WATCHED = MeasuredRanking(users=3, wanted_seconds=0)


def figures_of(values: Mapping[str, float], replicates: Mapping[str, Any] = {}) -> MeasuredFigures:
    return MeasuredFigures(figures=dict(values), intervals={}, replicates=dict(replicates))


def measured(value: float, spread: float = 0.01, figure: str = FIGURE) -> MeasuredFigures:
    """Return measured figures with replicates that are evenly spread around a value."""
    return figures_of({figure: value}, {figure: (value + np.linspace(-spread, spread, 41)).tolist()})


def recall_gate(recall: float, recall_before: float, popular: float = 0.2, popular_before: float = 0.2) -> Gate:
    tonight = MeasuredNight(measured(recall), measured(popular))
    before = MeasuredNight(measured(recall_before), measured(popular_before))
    return gates.recall_before(tonight, before, FIGURE, most_lost=0.1)


def popular_gate(value: float, low: float, high: float) -> Gate:
    return gates.most_popular(PairedDifference(value=value, low=low, high=high), 0.2, FIGURE)


def near_gate(value: float, low: float, high: float) -> Gate:
    return gates.item_to_item(PairedDifference(value=value, low=low, high=high), 0.2, FIGURE)


def ranking_gate(value: float, low: float, high: float) -> Gate:
    found = MeasuredRanking(
        users=10_000,
        wanted_seconds=9,
        neighbours=RankedRecall(recall=0.25, interval=(0.2, 0.3)),
        difference=PairedDifference(value=value, low=low, high=high),
    )
    return gates.ranking(found, 7)


def calibrated(ratio: float, half_width: float, clicks: int = 900, users: int = 10_000) -> MeasuredCalibration:
    """A calibration whose total and last class have this ratio; the other class is exact."""

    def of_class(ratio: float) -> CalibrationClass:
        interval = (ratio - half_width, ratio + half_width)
        return CalibrationClass(
            impressions=2_000, clicks=clicks, predicted_seconds=10 * ratio, watched_seconds=10, interval=interval
        )

    return MeasuredCalibration(users=users, fitted=True, total=of_class(ratio), classes=(of_class(1), of_class(ratio)))


@pytest.mark.parametrize("gate", [gates.calibration, gates.calibration_by_decile])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_error_of_expected_seconds_fails_only_if_it_is_significantly_beyond_the_bound(
    gate: Callable[..., Gate], sign: int
) -> None:
    exact = gate(calibrated(1.0, 0.01), most=0.05)
    assert exact.state == "passed" and exact.value == 0 and not exact.note
    within = gate(calibrated(1 + sign * 0.07, 0.03), most=0.05)
    assert within.state == "passed" and within.value == pytest.approx(sign * 0.07)
    wide = gate(calibrated(1 + sign * 0.2, 0.3), most=0.05)
    assert wide.state == "passed" and wide.note == "too few held-out users (10,000) to tell"
    beyond = gate(calibrated(1 + sign * 0.09, 0.03), most=0.05)
    assert beyond.state == "failed" and f"{sign * 0.09:+.1%}" in beyond.message
    assert "an error not significantly above 0.05" in beyond.bound


def test_classes_with_few_clicks_do_not_count() -> None:
    far = calibrated(3.0, 0.01)
    few = far.model_copy(update={"classes": (far.classes[0], far.classes[1].model_copy(update={"clicks": 49}))})
    assert gates.calibration_by_decile(far, most=0.2).state == "failed"
    assert gates.calibration_by_decile(few, most=0.2).state == "passed"
    assert gates.calibration(few, most=0.2).state == "failed"


@pytest.mark.parametrize("gate", [gates.calibration, gates.calibration_by_decile])
def test_a_calibration_that_cannot_be_told_is_not_computed(gate: Callable[..., Gate]) -> None:
    for measured in (None, calibrated(3.0, 0.01, clicks=9), calibrated(3.0, 0.01, users=4)):
        found = gate(measured, most=0.05)
        assert found.state == "not computed" and found.expected
    unwatched = CalibrationClass(impressions=90, clicks=80, predicted_seconds=1, watched_seconds=0)
    broken = MeasuredCalibration(users=90, fitted=False, total=unwatched, classes=(unwatched,))
    found = gate(broken, most=0.05)
    assert found.state == "not computed" and not found.expected


def coverage(distinct: int) -> Gate:
    return gates.coverage(distinct=distinct, lists=100, length=10, candidates=5_000, least=0.1)


CASES: list[tuple[Callable[..., Gate], tuple[Any, ...], tuple[Any, ...], str]] = [
    (
        popular_gate,
        (-0.01, -0.03, 0.001),
        (-0.02, -0.03, -0.01),
        r"gate most popular: recall@10 .* is -0\.0200 \(-0\.03",
    ),
    (
        near_gate,
        (-0.01, -0.03, 0.001),
        (-0.02, -0.03, -0.01),
        r"gate item to item: recall@10 .* is -0\.0200 \(-0\.03.* gates\.item_to_item\): .* co_watches .*\[training\]",
    ),
    (
        ranking_gate,
        (-0.01, -0.03, 0.001),
        (-0.02, -0.03, -0.01),
        r"gate ranking: .* first 7 videos .* by -0\.0200 \(-0\.0300 to -0\.0100\) .* 0\.25",
    ),
    (
        recall_gate,
        (0.38, 0.4),
        (0.3, 0.4),
        r"gate recall: recall@10 is 0\.3000, and was 0\.4000 .* bound: not significantly below 0\.3600",
    ),
    (recall_gate, (0.3, 0.4, 0.15), (0.24, 0.4, 0.15), r"0\.1500, and was 0\.2000; .* below 0\.2700"),
    (
        lambda recall: gates.ann_recall(recall, wanted=0.95, most_short=0.05),
        (0.91,),
        (0.85,),
        r"gate index recall: the index finds 0\.850 .* bound: at least 0\.900 \(index\.recall = 0\.95",
    ),
    (
        lambda recall: gates.ann_loss(measured(0.4), measured(recall), FIGURE, most_lost=0.05),
        (0.395,),
        (0.3,),
        r"gate approximate search: recall@10 by exact search is 0\.4000 and by the index 0\.3000, bound: .* 0\.05",
    ),
    (
        lambda recall: gates.ranking_recall(measured(recall), measured(0.4), FIGURE, most_lost=0.1),
        (0.37,),
        (0.3,),
        r"gate ranking recall: recall@10 in the neighbours' order is 0\.4000 and with ranking 0\.3000, bound: .*"
        r"gates\.max_ranking_loss\): .*candidates = 0",
    ),
    (
        lambda tonight: gates.users(before=1_000, tonight=tonight, most_lost=0.2),
        (800,),
        (640,),
        r"gate users: 640 users would be served, 1,000 were the night before \(-36\.0%\), bound: at most 0\.2 fewer",
    ),
    (coverage, (100,), (99,), r"gate coverage: 100 lists have 99 distinct videos of 1,000 possible \(0\.099\)"),
    (
        lambda value: gates.list_overlap_gate(value, most=0.8),
        (0.8,),
        (1.0,),
        r"gate sameness: .* two users' lists is 1\.000 .* bound: at most 0\.8 \(gates\.max_sameness\)",
    ),
    (
        lambda value: gates.retention(value, least=0.1, most=0.99, places=10_000),
        (0.5,),
        (0.05,),
        r"gate stayed: 5\.0% of a user's list stayed .* bound: 0\.1 to 0\.99",
    ),
    (
        lambda value: gates.retention(value, least=0.1, most=0.99, places=10_000),
        (0.1,),
        (1.0,),
        r"100\.0% .* not trained on a new day",
    ),
    (
        lambda n: gates.rejects(read=1_000, reasons={"watches: no time": n}, most=0.01),
        (10,),
        (20,),
        r"gate rejects: 20 of 1,000 rows were rejected \(2\.00%\), bound: at most 0\.01 .*: 20 x watches: no time",
    ),
    (
        lambda *problems: gates.same_night(problems),
        (),
        ("the index is old",),
        r"gate same night: the index is old, bound: all from one training .*: run the night again from train",
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
        r"gate skew of device: the inputs shifted by 1\.\d+ .*, bound: .* 0\.25.*training 1: 70, 2: 30",
    ),
]


@pytest.mark.parametrize(("gate", "good", "bad", "message"), CASES, ids=[str(n) for n in range(len(CASES))])
def test_every_gate_passes_and_fails(
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
        (gates.ranking(None, 7), "no lists were ranked, or no users were held out"),
        (gates.ranking(NOTHING_WATCHED, 7), "no lists were ranked, or no users were held out"),
        (
            gates.recall_before(
                MeasuredNight(measured(0.3), measured(0.2)),
                MeasuredNight(figures_of({"recall@20": 0.4}), figures_of({})),
                FIGURE,
                most_lost=0.1,
            ),
            "the nights have no recall@10 with replicates in common, nor recall at another k",
        ),
        (gates.ann_loss(figures_of({}), measured(0.3), FIGURE, most_lost=0.1), "search is exact"),
        (
            gates.ranking_recall(figures_of({}), measured(0.3), FIGURE, most_lost=0.1),
            "recall@10 of one of",
        ),
        (gates.list_overlap_gate(None, most=0.8), "nearly all videos"),
        (gates.volume("watches", [1, 2, 3], least=0.7, most=2), "fewer than 3 days"),
        (gates.skew("device", {}, {}, most=0.1), "no user is both"),
    ],
)
def test_a_gate_that_is_not_computed_has_no_value(gate: Gate, why: str) -> None:
    assert gate.state == "not computed" and gate.ok is None and gate.value is None
    assert why in gate.reason and gate.message == f"gate {gate.name}: not computed: {gate.reason}"


@given(st.lists(st.sets(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=8))
def test_list_overlap_is_the_mean_of_all_pairs_above_chance(lists: list[set[int]]) -> None:
    held = pl.Series([video for videos in lists for video in videos]).value_counts()["count"]
    overlaps = [len(one & other) / 3 for one, other in combinations(lists, 2)]
    chance = 3 / 31
    expected = (sum(overlaps) / len(overlaps) - chance) / (1 - chance)
    assert gates.list_overlap(held, lists=len(lists), candidates=31) == pytest.approx(expected, abs=1e-9)


def test_list_overlap_is_1_for_equal_lists_and_none_if_chance_dominates() -> None:
    assert gates.list_overlap(pl.Series([50] * 10), lists=50, candidates=1_000) == pytest.approx(1)
    assert gates.list_overlap(pl.Series([50] * 10), lists=50, candidates=15) is None
    assert gates.list_overlap(pl.Series([1] * 10), lists=1, candidates=1_000) is None
    assert gates.list_overlap(pl.Series([], dtype=pl.UInt32), lists=0, candidates=10) is None


def of_two_cuts(short: float, long: float | None = None) -> MeasuredFigures:
    """Return the figures of a night with recall@10 and, if it has longer lists, recall@20."""
    one = measured(short)
    if long is None:
        return one
    other = measured(long, figure="recall@20")
    return figures_of(one.figures | other.figures, one.replicates | other.replicates)


@pytest.mark.parametrize(("recall", "state"), [(0.39, "passed"), (0.2, "failed")])
def test_nights_with_different_k_are_compared_at_the_largest_common_k(recall: float, state: str) -> None:
    tonight = MeasuredNight(of_two_cuts(recall, 0.6), of_two_cuts(0.2, 0.3))
    before = MeasuredNight(of_two_cuts(0.4), of_two_cuts(0.2))
    for pair in ((tonight, before, "recall@20"), (before, tonight, "recall@10")):
        gate = gates.recall_before(*pair, most_lost=0.1)
        assert "gate recall: recall@10 is" in gate.message
    assert gates.recall_before(tonight, before, "recall@20", most_lost=0.1).state == state


def test_nights_without_common_replicates_are_unexpected() -> None:
    other = measured(0.4, figure="recall@30")
    tonight, before = MeasuredNight(measured(0.3), measured(0.2)), MeasuredNight(other, other)
    gate = gates.recall_before(tonight, before, FIGURE, most_lost=0.1)
    assert (gate.state, gate.expected) == ("not computed", False) and "was k changed?" in gate.reason


def holed(value: float, known: slice) -> MeasuredFigures:
    """Return figures whose replicates are null except for some."""
    values = measured(value).replicates[FIGURE]
    return figures_of({FIGURE: value}, {FIGURE: [v if n in range(41)[known] else None for n, v in enumerate(values)]})


def test_an_interval_without_replicates_is_not_computed() -> None:
    odd, even = holed(0.3, slice(1, None, 2)), holed(0.1, slice(0, None, 2))
    assert not set(range(41)[1::2]) & set(range(41)[0::2])  # so that every difference is null
    found = [
        gates.recall_before(
            MeasuredNight(even, measured(0.2)), MeasuredNight(odd, measured(0.2)), FIGURE, most_lost=0.1
        ),
        gates.ann_loss(odd, even, FIGURE, most_lost=0.1),
        gates.ranking_recall(odd, even, FIGURE, most_lost=0.1),
        popular_gate(-0.5, math.nan, math.nan),
        near_gate(-0.5, math.nan, math.nan),
        ranking_gate(-0.5, math.nan, math.nan),
    ]
    assert [(gate.state, gate.expected) for gate in found] == [("not computed", False)] * len(found)
    assert all("nan, which is not a finite number" in gate.reason for gate in found)


def test_gates_of_few_users_do_not_fail_by_chance() -> None:
    """If a few users' lists are as good as the popular videos, chance fails the gate in about 2.5 % of nights; if they
    are clearly worse, it fails in nearly every night."""
    rng = np.random.default_rng(7)

    def failed(users: int, shift: float) -> float:
        draws = rng.normal(shift, 0.2, (400, users))
        weights = rng.poisson(1, (1_000, users))
        known = weights.sum(1) > 0
        replicates = (draws @ weights[known].T) / weights[known].sum(1)
        bounds = np.percentile(replicates, [2.5, 97.5], axis=1).T
        found = [
            gates.most_popular(
                PairedDifference(value=own.mean(), low=low, high=high), 1.0, FIGURE, held_out=users
            ).state
            for own, (low, high) in zip(draws, bounds, strict=True)
        ]
        return found.count("failed") / len(found)

    for users in (2, 5, 8, 15, 40):
        assert failed(users, 0.0) <= 0.045, users
    assert failed(2, -1.0) == 0 and failed(8, -1.0) > 0.99 and failed(40, -0.2) > 0.99


WIDE = (-0.01, -0.06, 0.04)  # value, low, high: contains 0, and is wide compared with a tenth of 0.2
NARROW = (-0.001, -0.015, 0.013)
CLEARLY_ABOVE = (0.1, 0.01, 0.19)


@pytest.mark.parametrize("gate", [popular_gate, near_gate, ranking_gate])
def test_a_gate_whose_interval_is_too_wide_says_so(gate: Callable[..., Gate]) -> None:
    wide, narrow, above = gate(*WIDE), gate(*NARROW), gate(*CLEARLY_ABOVE)
    assert wide.state == "passed" and wide.note == gates.too_few_users(wide_users(gate))
    assert f": {wide.note}: the 95 % interval reaches 0.05" in wide.message and "holdout_users" in wide.message
    assert [(other.state, other.note) for other in (narrow, above)] == [("passed", "")] * 2


def wide_users(gate: Callable[..., Gate]) -> int | None:
    """Return the number of users that a gate of these tests has; None: not known."""
    return 10_000 if gate is ranking_gate else None


def test_gates_with_a_bound_say_that_an_interval_is_too_wide() -> None:
    """At their bounds, a tenth of 0.4 and a twentieth of it, intervals of 0.05 to either side are too wide, and
    narrower ones are not."""

    def recall(spread: float) -> Gate:
        tonight = MeasuredNight(measured(0.36, spread), measured(0.2, 0.0))
        return gates.recall_before(
            tonight, MeasuredNight(measured(0.4, 0.0), measured(0.2, 0.0)), FIGURE, most_lost=0.1
        )

    def loss(spread: float) -> Gate:
        return gates.ann_loss(measured(0.4, 0.0), measured(0.38, spread), FIGURE, most_lost=0.05)

    def ranked(spread: float) -> Gate:
        return gates.ranking_recall(measured(0.36, spread), measured(0.4, 0.0), FIGURE, most_lost=0.1)

    for gate, narrow in ((recall, 0.03), (loss, 0.015), (ranked, 0.03)):
        assert gate(0.05).state == gate(narrow).state == "passed"
        assert gate(0.05).note == "too few held-out users to tell" and gate(narrow).note == ""


@pytest.mark.parametrize(
    ("users", "difference", "expected"),
    [
        (57, WIDE, "too few users"),
        (4, (0.5, 0.4, 0.6), "too few users"),
        (57, (0.0, 0.0, 0.0), "no significant difference"),
        (57, NARROW, "no significant difference"),
        (57, CLEARLY_ABOVE, "above"),
        (6, CLEARLY_ABOVE, "too few users"),  # a wider interval
        (57, (-0.1, -0.19, -0.01), "below"),
        (6, (-0.1, -0.19, -0.01), "too few users"),
    ],
)
def test_a_comparison_is_above_below_equal_or_of_too_few_users(
    users: int, difference: tuple[float, float, float], expected: str
) -> None:
    value, low, high = difference
    assert gates.compare(PairedDifference(value=value, low=low, high=high), users, gates.notable_loss(0.2)) == expected
    assert gates.too_few_users(1_057) == "too few held-out users (1,057) to tell"


NUMBERS = st.one_of(
    st.integers(-3, 10_000), st.floats(), st.sampled_from([0, 1, -0.0, math.nan, math.inf, -math.inf, 1e308, -1e308])
)
COUNTS = st.dictionaries(st.sampled_from("abcd"), NUMBERS, max_size=4)
REPLICATES = st.lists(st.one_of(NUMBERS, st.none()), max_size=6)
MEASURED = st.builds(
    figures_of,
    st.fixed_dictionaries({FIGURE: NUMBERS}, optional={"users": st.integers(0, 9)}),
    st.fixed_dictionaries({FIGURE: REPLICATES}),
)
DIFFERENCE = st.builds(PairedDifference, value=NUMBERS, low=NUMBERS, high=NUMBERS)
RANKED = st.builds(
    MeasuredRanking,
    users=st.integers(0, 9) | st.just(1_000),
    wanted_seconds=st.integers(0, 9),
    neighbours=st.builds(RankedRecall, recall=NUMBERS, interval=st.just((0.0, 1.0))),
    difference=DIFFERENCE,
)
NIGHT = st.builds(MeasuredNight, MEASURED, MEASURED)


def whole(value: Any) -> bool:
    """Return whether all numbers in a value are finite, ignoring replicates."""
    if isinstance(value, MeasuredNight):
        return whole([value.lists, value.popular])
    if isinstance(value, BaseModel):
        return whole(value.model_dump())
    if isinstance(value, dict):
        return all(whole(of) for name, of in value.items() if name != "replicates")
    if isinstance(value, list | tuple):
        return all(whole(of) for of in value)
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize(
    ("gate", "inputs"),
    [
        (gates.most_popular, st.tuples(DIFFERENCE, NUMBERS, st.just(FIGURE))),
        (gates.item_to_item, st.tuples(DIFFERENCE, NUMBERS, st.just(FIGURE))),
        (gates.ranking, st.tuples(RANKED, st.just(7))),
        (lambda *of: gates.recall_before(of[0], of[1], FIGURE, most_lost=of[2]), st.tuples(NIGHT, NIGHT, NUMBERS)),
        (lambda *of: gates.ann_recall(of[0], wanted=of[1], most_short=of[2]), st.tuples(*[NUMBERS] * 3)),
        (lambda *of: gates.ann_loss(of[0], of[1], FIGURE, most_lost=of[2]), st.tuples(MEASURED, MEASURED, NUMBERS)),
        (lambda *of: gates.users(before=of[0], tonight=of[1], most_lost=of[2]), st.tuples(*[NUMBERS] * 3)),
        (
            lambda *of: gates.ranking_recall(of[0], of[1], FIGURE, most_lost=of[2]),
            st.tuples(MEASURED, MEASURED, NUMBERS),
        ),
        (
            lambda *of: gates.coverage(distinct=of[0], lists=of[1], length=of[2], candidates=of[3], least=of[4]),
            st.tuples(*[NUMBERS] * 5),
        ),
        (lambda *of: gates.list_overlap_gate(of[0], most=of[1]), st.tuples(*[NUMBERS] * 2)),
        (
            lambda *of: gates.retention(of[0], least=of[1], most=of[2], places=of[3]),
            st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
        ),
        (lambda *of: gates.rejects(read=of[0], reasons=of[1], most=of[2]), st.tuples(NUMBERS, COUNTS, NUMBERS)),
        (
            lambda *of: gates.volume("watches", of[0], least=of[1], most=of[2]),
            st.tuples(st.lists(NUMBERS, max_size=8), NUMBERS, NUMBERS),
        ),
        (lambda *of: gates.skew("device", *of[:2], most=of[2]), st.tuples(COUNTS, COUNTS, NUMBERS)),
    ],
)
@given(st.data())
def test_no_input_crashes_a_gate_or_passes_it_without_finite_numbers(
    gate: Callable[..., Gate], inputs: st.SearchStrategy[tuple[Any, ...]], data: st.DataObject
) -> None:
    given_ = data.draw(inputs)
    found = gate(*given_)
    assert found.state in ("passed", "failed", "not computed")
    assert found.ok is {"passed": True, "failed": False, "not computed": None}[found.state]
    assert bool(found.reason) == (found.state == "not computed")
    assert found.value is None or math.isfinite(found.value)
    assert whole(given_) or found.state != "passed"
    assert Gate.model_validate_json(found.model_dump_json()) == found


def test_gates_of_older_files_are_read() -> None:
    for ok, state in ((True, "passed"), (False, "failed"), (None, "not computed")):
        old = {"name": "users", "value": 0.5, "bound": "b", "ok": ok, "message": "m"}
        assert Gate.model_validate(old).state == state


def histogram(counts: Any) -> dict[str, int]:
    return {str(value): int(users) for value, users in enumerate(counts) if users}


@pytest.mark.parametrize("users", [20, 50, 200, 2_000])
@pytest.mark.parametrize("classes", [2, 5, 21])
def test_chance_does_not_fail_skew(users: int, classes: int) -> None:
    rng = np.random.default_rng(users + classes)

    def failed(most: float) -> float:
        found = []
        for _ in range(200):
            shares = rng.dirichlet(np.ones(classes))
            sides = [histogram(rng.multinomial(users, shares)) for _ in range(2)]
            found.append(gates.skew("device", *sides, most=most).state)
        return found.count("failed") / len(found)

    assert failed(0.25) <= 0.01
    assert failed(1e-9) <= 0.05  # a bound of no shift: 2.5 %, with the error of 200 draws


def test_a_real_shift_fails_skew() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        train, serving = rng.multinomial(5_000, [0.5, 0.3, 0.1, 0.1]), rng.multinomial(5_000, [0.25] * 4)
        assert gates.skew("device", histogram(train), histogram(serving), most=0.25).state == "failed"


def test_unchanged_lists_of_few_users_do_not_fail() -> None:
    """If one place in fifty changes, three lists of ten stay the same in every second night."""
    assert gates.retention(1.0, least=0.1, most=0.999, places=30).state == "passed"
    assert gates.retention(1.0, least=0.1, most=0.999, places=10_000).state == "failed"
    assert gates.retention(0.0, least=0.1, most=0.999, places=300).state == "failed"


def test_volume_after_days_without_events_is_not_computed() -> None:
    gate = gates.volume("watches", [0, 0, 0, 5], least=0.7, most=2)
    assert (gate.state, gate.expected) == ("not computed", False)
    assert gate.reason == "there are 5 watches on the newest day, but none on the 3 days before"


@pytest.mark.parametrize(
    ("days", "least", "most", "value"),
    [
        ([0, 0, 0, 0], 0.7, 2, 1),
        ([5, 5, 5, 5], 0.7, 2, 1),
        ([5, 5, 5, 5_000], 0, 0, 1_000),  # a bound of 0 is off
        ([5, 5, 5, 0], 0, 2, 0),
    ],
)
def test_volumes_that_pass(days: list[int], least: float, most: float, value: float) -> None:
    gate = gates.volume("watches", days, least=least, most=most)
    assert (gate.ok, gate.value) == (True, value)
