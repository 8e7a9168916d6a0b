"""Ranking metrics compared with plain Python; metrics of parts merge into those of the whole."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.ranking.impression_metrics import ImpressionMetrics, PairLosses, merge_impressions, page_ndcg

ROW = st.tuples(
    st.integers(0, 3), st.integers(0, 2), st.booleans(), st.integers(0, 400), st.sampled_from([-2.0, -0.5, 0.0, 1.0, 3])
)
ROWS = st.lists(ROW, max_size=40)


def columns(rows: list[Any]) -> tuple[np.ndarray, ...]:
    """Return user, page, clicked, watch_seconds, log_odds of rows; seconds are 0 without a click."""
    user, page, clicked, seconds, score = (
        (np.array(column) for column in zip(*rows, strict=True))
        if rows
        else [np.zeros(0, kind) for kind in (int, int, bool, float, float)]
    )
    return user, page, clicked, seconds * clicked, score


def plain_loss(rows: list[Any]) -> tuple[float, float, int]:
    """Return mispredicted and total seconds and the number of pairs, computed pair by pair."""
    missed = total = 0.0
    pairs = 0
    for user, page, clicked, seconds, score in rows:
        for other in rows:
            if clicked and not other[2] and other[:2] == (user, page):
                pairs += 1
                total += seconds
                missed += seconds * (1 if other[4] > score else 0.5 if other[4] == score else 0)
    return missed, total, pairs


@given(ROWS)
def test_the_per_user_loss_equals_plain_python(rows: list[Any]) -> None:
    missed, total, pairs = plain_loss(rows)
    figures = ImpressionMetrics.from_impressions(*columns(rows)).compute()
    assert figures["pairs"] == pairs
    if total:
        assert figures["per_user_loss"] == pytest.approx(missed / total)
    else:
        assert "per_user_loss" not in figures


@given(ROWS)
def test_ndcg_equals_plain_python(rows: list[Any]) -> None:
    expected = []
    for _, group in groupby(sorted(rows, key=lambda row: row[:2]), key=lambda row: row[:2]):
        page = [(row[4], row[3] * row[2]) for row in group]
        ideal = sum(s / math.log2(i + 2) for i, s in enumerate(sorted((s for _, s in page), reverse=True)))
        gained, rank = 0.0, 0
        for score in sorted({score for score, _ in page}, reverse=True):
            tied = [seconds for other, seconds in page if other == score]
            shared = sum(1 / math.log2(rank + i + 2) for i in range(len(tied))) / len(tied)
            gained, rank = gained + shared * sum(tied), rank + len(tied)
        if ideal:
            expected.append(gained / ideal)
    user, page_of, _, seconds, score = columns(rows)
    np.testing.assert_allclose(page_ndcg(user, page_of, seconds, score), expected)


@given(ROWS)
def test_auc_equals_plain_python(rows: list[Any]) -> None:
    clicked = [row[4] for row in rows if row[2]]
    others = [row[4] for row in rows if not row[2]]
    figures = ImpressionMetrics.from_impressions(*columns(rows)).compute()
    if not clicked or not others:
        assert "auc" not in figures
        return
    right = sum((a > b) + (a == b) / 2 for a in clicked for b in others)
    assert figures["auc"] == pytest.approx(right / len(clicked) / len(others))


@given(ROWS, st.permutations(range(4)))
def test_parts_merge_into_the_whole_in_any_order(rows: list[Any], order: list[int]) -> None:
    parts = [ImpressionMetrics.from_impressions(*columns([row for row in rows if row[0] == user])) for user in order]
    whole, merged = ImpressionMetrics.from_impressions(*columns(rows)), merge_impressions(parts)
    assert merged.compute() == whole.compute()


def test_seconds_are_means_over_all_impressions() -> None:
    predicted, clicked, users = np.repeat(np.arange(1, 11.0), 20), np.arange(200) % 2, np.zeros(200, int)
    figures = ImpressionMetrics.from_impressions(
        users, users, clicked, clicked * predicted, np.log(predicted)
    ).compute()
    assert figures["predicted_seconds"] == pytest.approx(5.5, abs=1e-3)
    assert figures["watched_seconds"] == pytest.approx(2.75)


def test_no_impressions_and_extreme_predictions() -> None:
    assert ImpressionMetrics.empty().compute() == {"users": 0, "impressions": 0, "clicks": 0, "pages": 0, "pairs": 0}
    extreme = ImpressionMetrics.from_impressions(*columns([(0, 0, True, 5, 1e9), (0, 0, False, 0, -1e9)])).compute()
    assert (extreme["per_user_loss"], extreme["auc"]) == (0, 1)


def test_nan_scores_are_an_error() -> None:
    one = np.zeros(2, int)
    with pytest.raises(ValueError, match="scores must be numbers, but 1 of 2 are NaN"):
        PairLosses.from_impressions(one, one, one, one, np.array([0.0, np.nan]))
