"""The order of lists by a weight, the figures of held-out users by weight, and the choice among them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.bootstrap import PairedDifference
from transforms.core.records import encode
from transforms.ranking.calibration import user_halves
from transforms.ranking.order import (
    DEFAULT_WEIGHT,
    GRID,
    LEAST_USERS,
    NEIGHBOURS,
    ChosenOrder,
    OrderPoint,
    OrderSums,
    OrderWeight,
    as_numbers,
    choose_order,
    choose_weight,
    losing_no_recall,
    order_scores,
)

ROWS = st.lists(st.tuples(st.floats(0.01, 1e5), st.floats(-9, 9)), min_size=1, max_size=9)
Row = tuple[float, float]


def columns_of(rows: list[Row]) -> tuple[Any, Any, Any]:
    """Expected seconds, falling scores and ranks."""
    seconds, scores = np.array(rows).T
    return seconds, np.sort(scores)[::-1], np.arange(1, len(rows) + 1)


@given(ROWS, st.floats(0, 9))
def test_scores_are_those_of_the_formula(rows: list[Row], weight: float) -> None:
    seconds, generator, rank = columns_of(rows)
    found = order_scores(seconds, generator, rank, weight)
    expected = [math.log(of) + weight * score for of, score in zip(seconds, generator, strict=True)]
    assert found.dtype == np.float32 and found == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(ROWS)
def test_weights_go_from_the_seconds_to_the_neighbours_order(rows: list[Row]) -> None:
    seconds, generator, rank = columns_of(rows)
    assert order_scores(seconds, generator, rank, math.inf).tolist() == [-n for n in rank]
    assert order_scores(seconds, generator, rank, 0.0).tolist() == np.log(seconds).astype(np.float32).tolist()
    each = order_scores(seconds, generator, rank, np.where(rank % 2, 2.0, math.inf))
    expected = np.where(rank % 2, order_scores(seconds, generator, rank, 2.0), -rank)
    assert each.tolist() == expected.tolist()


def candidates_of(lists: dict[str, list[str]]) -> tuple[pl.Series, pl.DataFrame]:
    """The users, and their candidates in another order than that of the lists."""
    rows = [
        (n, user, video, rank) for n, (user, videos) in enumerate(lists.items()) for rank, video in enumerate(videos, 1)
    ]
    schema = {"list": pl.Int64, "user_id": pl.String, "video_id": pl.String, "rank": pl.Float32}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(generator=-pl.col("rank").log())
    return pl.Series("user_id", list(lists)), frame.sort("video_id", "user_id")


def wanted_of(rows: list[tuple[str, str, int]]) -> pl.DataFrame:
    schema = {"user_id": pl.String, "video_id": pl.String, "seconds": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


LISTS = {"a": ["v", "w", "x", "y"], "b": ["x", "v", "y"], "c": [], "d": ["w", "x"]}
LENGTH = {"v": 10.0, "w": 20.0, "x": 400.0, "y": 900.0}
WANTED = [
    ("a", "y", 300),
    ("a", "v", 10),
    ("a", "out of reach", 90),
    ("b", "x", 60),
    ("c", "v", 5),
    ("stranger", "v", 7),
]


def sums_of(lists: dict[str, list[str]]) -> OrderSums:
    users, frame = candidates_of(lists)
    seconds = frame["video_id"].replace_strict(LENGTH, return_dtype=pl.Float64).to_numpy()
    return OrderSums.from_candidates(users, frame, seconds, wanted_of(WANTED), cut=1)


def test_the_curve_counts_what_is_in_the_first_places_by_each_weight() -> None:
    curve = {of.weight: of for of in sums_of(LISTS).curve((0, 1))}
    assert list(curve) == list(GRID)
    for weight, number in zip(GRID, as_numbers(GRID), strict=True):
        videos, seconds = 0, 0
        for user, listed in LISTS.items():
            places = np.arange(1, len(listed) + 1)
            seconds_of = np.array([LENGTH[video] for video in listed])
            scores = -order_scores(seconds_of, -np.log(places), places, number)
            for _, _, video in sorted(zip(scores, places, listed, strict=True))[:1]:
                found = [of for who, what, of in WANTED if (who, what) == (user, video)]
                videos, seconds = videos + len(found), seconds + sum(found)
        assert (curve[weight].recall, curve[weight].watch_time) == (videos / 5, seconds / 465)
    assert curve[0.0].watch_time > curve[NEIGHBOURS].watch_time and curve[0.0].recall_difference.value == -1 / 5
    assert curve[NEIGHBOURS].watch_time_difference == PairedDifference(value=0, low=0, high=0)


def test_halves_and_parts_add_up() -> None:
    whole = sums_of(LISTS)
    parts = [sums_of({user: videos}) for user, videos in LISTS.items()]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    assert merged.sums == whole.sums and merged.users == whole.users and sum(whole.users) == 3
    assert (merged.replicates.sums == whole.replicates.sums).all()
    halves = user_halves(pl.Series(list(LISTS)))
    for half in (0, 1):
        own = {user: videos for (user, videos), of in zip(LISTS.items(), halves, strict=True) if of == half}
        assert whole.sums[f"seconds_of_{half}"] == sum(of for user, _, of in WANTED if user in own)


def point(weight: OrderWeight, recall: tuple[float, float], watch_time: float, error: float = 0.0) -> OrderPoint:
    """recall: the difference to the neighbours' recall of 0.5, and half the width of its interval."""
    value, half = recall
    return OrderPoint(
        weight=weight,
        recall=0.5 + value,
        watch_time=watch_time,
        recall_difference=PairedDifference(value=value, low=value - half, high=value + half),
        watch_time_difference=PairedDifference(value=watch_time - 0.2, low=0, high=0),
        watch_time_error=error,
    )


def test_the_most_watch_time_is_chosen_of_the_weights_that_lose_no_recall() -> None:
    last = point(NEIGHBOURS, (0, 0), 0.2)
    significant = point(0.0, (-0.004, 0.003), 0.9)
    large = point(DEFAULT_WEIGHT, (-0.04, 0.03), 0.8)
    small = point(DEFAULT_WEIGHT, (-0.04, 0.05), 0.7)
    gain = point(8.0, (0.1, 0.01), 0.6)
    assert choose_weight([significant, large, small, gain, last]) == DEFAULT_WEIGHT
    assert choose_weight([significant, large, gain, last]) == 8.0
    assert choose_weight([significant, large, last]) == NEIGHBOURS
    assert choose_weight([gain, point(12.0, (0, 0.01), 0.6), last]) == 12.0, "ties go to the neighbours' order"
    assert choose_weight([point(1.0, (0, 0.01), 0.1), last]) == NEIGHBOURS
    assert choose_weight([point(1.0, (-0.0001, 0.3), 0.9), point(2.0, (0, 0.3), 0.8), last]) == 2.0


def test_of_weights_within_a_standard_error_of_the_most_watch_time_the_largest_is_chosen() -> None:
    best, last = point(1.0, (0, 0.01), 0.6), point(NEIGHBOURS, (0, 0), 0.2, error=0.1)
    near, far = point(2.0, (0, 0.01), 0.55, error=0.06), point(3.0, (0, 0.01), 0.5, error=0.09)
    assert choose_weight([best, near, far, last]) == 2.0
    losing = point(2.5, (-0.1, 0.01), 0.59, error=0.06)
    assert choose_weight([best, near, losing, far, last]) == 2.0


def test_the_standard_error_is_that_of_the_difference_to_the_best_weight() -> None:
    sums = many(600)
    curve = sums.curve((0, 1))
    best = max(losing_no_recall(curve), key=lambda of: of.watch_time)
    assert best.watch_time_error == 0 and best.watch_time > curve[-1].watch_time
    names = ("seconds", f"seconds_{GRID.index(best.weight)}", f"seconds_{len(GRID) - 1}")
    every, first, last = (np.sum([sums.replicates.values(f"{name}_of_{h}") for h in (0, 1)], axis=0) for name in names)
    assert curve[-1].watch_time_error == pytest.approx(((last - first) / every).std())


def many(users: int) -> OrderSums:
    """Users who complete the first video of their list; half of them also the last one, which is the longest."""
    lists = {f"u{n}": ["v", "w", "y"] for n in range(users)}
    listed, frame = candidates_of(lists)
    seconds = frame["video_id"].replace_strict(LENGTH, return_dtype=pl.Float64).to_numpy()
    rows = [row for n, user in enumerate(lists) for row in ((user, "v", 10), *(((user, "y", 500),) if n % 2 else ()))]
    return OrderSums.from_candidates(listed, frame, seconds, wanted_of(rows), cut=2)


def test_each_half_has_the_choice_of_the_other() -> None:
    found = choose_order(many(600), cut=2)
    assert found.users == 600 and len(found.curve) == len(GRID)
    assert found.weight == choose_weight(found.curve)
    sums = many(600)
    assert found.halves == (choose_weight(sums.curve((1,))), choose_weight(sums.curve((0,))))
    assert f"recall@2 {next(of.recall for of in found.curve if of.weight == found.weight):.4f}" in found.reason
    both = [of.weight for of in found.curve if of.recall == 1]
    assert found.weight == both[-1] != NEIGHBOURS, "the largest of those that have both videos in the first places"


@pytest.mark.parametrize("sums", [None, many(LEAST_USERS // 2)])
def test_few_users_choose_nothing(sums: OrderSums | None) -> None:
    found = choose_order(sums, cut=2)
    assert (found.weight, found.halves) == (DEFAULT_WEIGHT, (DEFAULT_WEIGHT, DEFAULT_WEIGHT))
    assert not found.curve and "too few to choose by" in found.reason


@pytest.mark.parametrize("weight", [0.0, 1.5, NEIGHBOURS])
def test_a_choice_is_read_as_it_was_written(weight: Any) -> None:
    order = ChosenOrder.fixed(weight, "by hand").model_copy(update={"curve": (point(weight, (0, 0), 0.1),)})
    assert ChosenOrder.model_validate_json(order.model_dump_json()) == order
    assert "ChosenOrder" in encode(order)
