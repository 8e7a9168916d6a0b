"""The calibration of the ranker: isotonic regression against an oracle, the limits of seconds, and cross-fitting."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from transforms.ranking.calibration import (
    KNOT_CLICKS,
    LONGEST_SECONDS,
    Calibration,
    CalibrationBins,
    SecondsMap,
    fit_calibration,
    load_calibration,
    pool_adjacent_violators,
    user_halves,
    write_calibration,
)

MEANS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=9)
LOG_ODDS = arrays(np.float64, st.integers(1, 30), elements=st.floats(-30, 30))


def isotonic(means: list[float], weights: list[float]) -> list[float]:
    """Weighted isotonic regression by its min-max formula."""

    def mean(start: int, end: int) -> float:
        return float(np.average(means[start:end], weights=weights[start:end]))

    count = len(means)
    return [max(min(mean(i, j) for j in range(n + 1, count + 1)) for i in range(n + 1)) for n in range(count)]


@given(MEANS)
def test_blocks_are_those_of_isotonic_regression(rows: list[tuple[int, int]]) -> None:
    means, weights = np.array(rows, np.float64).T
    blocks = pool_adjacent_violators(means, weights)
    assert [row for block in blocks for row in range(len(means))[block]] == list(range(len(means)))
    pooled = [float(np.average(means[block], weights=weights[block])) for block in blocks]
    assert all(one < other for one, other in pairwise(pooled))
    found = [mean for block, mean in zip(blocks, pooled, strict=True) for _ in means[block]]
    assert found == pytest.approx(isotonic(means.tolist(), weights.tolist()))


def impressions(count: int, *, slope: float, shift: float, seed: int = 1) -> CalibrationBins:
    """Impressions whose seconds are exp(slope * log-odds + shift) on average; users alternate between the halves."""
    draw = np.random.default_rng(seed)
    log_odds = draw.uniform(-2, 5, count)
    clicked = draw.random(count) < 0.3
    seconds = clicked * np.exp(slope * log_odds + shift) / 0.3
    return CalibrationBins.from_impressions(log_odds, clicked, seconds, np.arange(count) % 2)


def test_the_map_finds_what_the_odds_mean() -> None:
    found = fit_calibration(impressions(200_000, slope=0.7, shift=-1.0), longest_seconds=900)
    log_odds = np.linspace(-2, 5, 50)
    for fitted in (found.whole, *found.halves):
        assert np.abs(fitted(log_odds) - (0.7 * log_odds - 1.0)).max() < 0.15
        assert (np.diff(fitted(np.linspace(-20, 20, 400))) > 0).all()
    assert found.longest_seconds == 900 and found.is_fitted


def test_the_map_keeps_the_sum_of_the_watch_time() -> None:
    bins = impressions(5_000, slope=1.3, shift=0.5)
    fitted, centres = fit_calibration(bins, longest_seconds=1e6).whole, np.arange(4096) * 0.01 - 20.475
    predicted = (np.sum(bins.impressions, axis=0) * np.exp(fitted(centres))).sum()
    assert predicted == pytest.approx(np.sum(bins.watched) / 1_000)


def test_each_half_has_the_map_of_the_other() -> None:
    one, other = impressions(20_000, slope=1.0, shift=1.0), impressions(20_000, slope=1.0, shift=-1.0)
    mixed = CalibrationBins(**{name: [getattr(one, name)[0], getattr(other, name)[1]] for name in vars(one)})
    found = fit_calibration(mixed, longest_seconds=1e6)
    assert found.halves[0](np.zeros(1)) == pytest.approx(-1.0, abs=0.1)
    assert found.halves[1](np.zeros(1)) == pytest.approx(1.0, abs=0.1)
    seconds = found.seconds(np.zeros(2), np.full(2, np.nan), np.array([0, 1]))
    assert seconds == pytest.approx(np.exp([-1, 1]), rel=0.15)


def test_with_too_few_clicks_the_map_is_the_identity() -> None:
    few = int(KNOT_CLICKS / 0.3)  # about half of what either half needs
    found = fit_calibration(impressions(few, slope=2.0, shift=1.0), longest_seconds=7.0)
    assert found == Calibration(longest_seconds=7.0) and not found.is_fitted
    assert fit_calibration(CalibrationBins.empty(), longest_seconds=7.0) == found
    unwatched = impressions(9_000, slope=1.0, shift=-99.0)
    assert not fit_calibration(unwatched, longest_seconds=7.0).is_fitted


@given(LOG_ODDS, st.data())
def test_seconds_are_positive_and_within_all_limits(log_odds: np.ndarray, data: st.DataObject) -> None:
    lengths = np.array(
        data.draw(
            st.lists(st.sampled_from([np.nan, 0.0, 0.1, 60.0, 7e5 / 3]), min_size=len(log_odds), max_size=len(log_odds))
        )
    )
    longest = data.draw(st.sampled_from([0.7, 1e3 / 3, LONGEST_SECONDS, 1e9]))
    calibration = Calibration(longest_seconds=longest, whole=SecondsMap(log_odds=(0.0, 1.0), log_seconds=(-0.5, 3.0)))
    found = calibration.seconds(log_odds, lengths)
    assert found.dtype == np.float32 and (found > 0).all()
    known = lengths > 0
    assert (found[known].astype(np.float64) <= lengths[known]).all()
    assert (found.astype(np.float64) <= min(longest, LONGEST_SECONDS)).all()
    below = found.astype(np.float64) < 0.999 * np.fmin(np.where(known, lengths, np.nan), min(longest, LONGEST_SECONDS))
    assert np.log(found[below]) == pytest.approx(
        np.clip(calibration.whole(log_odds[below]), *np.log([1e-6, 1e6])), abs=1e-5
    )


def test_parts_merge_to_the_whole() -> None:
    draw = np.random.default_rng(2)
    log_odds, clicked, seconds = draw.normal(0, 9, 50), draw.integers(0, 2, 50), draw.integers(0, 99, 50)
    half = draw.integers(0, 2, 50)

    def bins(part: slice) -> CalibrationBins:
        return CalibrationBins.from_impressions(log_odds[part], clicked[part], seconds[part], half[part])

    parts = bins(slice(0, 20)).merge(bins(slice(20, 50)))
    assert CalibrationBins.empty().merge(parts) == bins(slice(None))


def test_halves_are_those_of_the_users() -> None:
    users = pl.Series([f"u{n}" for n in range(1_000)])
    halves = user_halves(users)
    assert abs(halves.sum() - 500) < 60 and set(halves) == {0, 1}
    assert (user_halves(users[::-1]) == halves[::-1]).all()


def test_it_is_stored_with_its_ranker(tmp_path: Path) -> None:
    calibration = fit_calibration(impressions(9_000, slope=0.5, shift=0.0), longest_seconds=99.5)
    entry = write_calibration(calibration, str(tmp_path), "training/ranker-1")
    assert entry.name == "training/ranker-1/calibration.json" and (tmp_path / entry.name).exists()
    assert load_calibration(f"{tmp_path}/training/ranker-1") == calibration
    assert load_calibration(f"{tmp_path}/training/ranker-2") == Calibration()
