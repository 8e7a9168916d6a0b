"""Expected and watched seconds by class: against plain numpy, merged, and with intervals over users."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from transforms.ranking.calibration import Calibration, CalibrationBins, SecondsMap
from transforms.ranking.measured_calibration import DECILES, CalibrationSums, class_edges

EDGES = [0.0, 2.0]


def sums(user_ids: list[str], rows: list[tuple[int, float, int, float]]) -> CalibrationSums:
    """Rows: user, expected seconds, clicked, watched seconds."""
    user, seconds, clicked, watched = (np.array(column) for column in zip(*rows, strict=True))
    return CalibrationSums.from_impressions(pl.Series(user_ids), user, seconds, clicked, watched, EDGES)


ROWS = [(0, 0.5, 0, 0.0), (0, 2.0, 1, 3.0), (1, 7.5, 0, 0.0), (1, 9.0, 1, 30.0), (2, 2.0, 0, 0.0)]


def test_means_are_those_of_the_impressions_of_a_class() -> None:
    found = sums(["a", "b", "c"], ROWS).compute(fitted=True)
    assert (found.users, found.fitted) == (3, True)
    assert [(of.impressions, of.clicks, of.predicted_seconds, of.watched_seconds) for of in found.classes] == [
        (1, 0, 0.5, 0.0),
        (2, 1, 2.0, 1.5),
        (2, 1, 8.25, 15.0),
    ]
    total = found.total
    assert (total.impressions, total.clicks, total.predicted_seconds) == (5, 2, pytest.approx(21 / 5))
    assert total.ratio == pytest.approx(21 / 33) and found.classes[0].ratio is None
    assert found.classes[0].interval is None and total.interval is not None


def test_classes_without_impressions_are_left_out() -> None:
    found = sums(["a"], [(0, 100.0, 1, 5.0)]).compute(fitted=False)
    assert len(found.classes) == 1 and found.classes[0] == found.total


def test_users_merge_exactly() -> None:
    parts = sums(["a"], ROWS[:2]).merge(sums(["b", "c"], [(of[0] - 1, *of[1:]) for of in ROWS[2:]]))
    assert parts.compute(fitted=True) == sums(["a", "b", "c"], ROWS).compute(fitted=True)


def test_the_interval_covers_the_ratio_and_narrows_with_users() -> None:
    draw = np.random.default_rng(3)
    widths = []
    for users in (100, 1_600):
        watched = draw.exponential(10, users)
        rows = [(n, 11.0, 1, float(of)) for n, of in enumerate(watched)]
        found = sums([f"u{n}" for n in range(users)], rows).compute(fitted=True).total
        assert found.ratio and found.interval and found.interval[0] < found.ratio < found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)


def test_edges_divide_the_predictions_of_the_other_half_s_map() -> None:
    draw = np.random.default_rng(4)
    log_odds, half = draw.normal(0, 2, 20_000), np.arange(20_000) % 2
    bins = CalibrationBins.from_impressions(log_odds, np.zeros(20_000), np.zeros(20_000), half)
    shift = SecondsMap(log_odds=(0.0, 1.0), log_seconds=(1.0, 2.0))
    calibration = Calibration(halves=(SecondsMap(), shift))
    edges = class_edges(bins, calibration)
    assert len(edges) == DECILES - 1 and sorted(edges) == edges
    values = np.where(half == 0, log_odds, log_odds + 1)
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=DECILES)
    assert np.abs(counts - 2_000).max() < 60
