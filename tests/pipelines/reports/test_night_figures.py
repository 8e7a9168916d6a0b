"""Comparisons of figures: with baselines, and between nights."""

from __future__ import annotations

import pytest
from night_measured import measured

from pipelines.reports import night_figures


def test_baselines_are_compared_with_the_interval_of_the_pairs() -> None:
    (found,) = night_figures.against_baselines(measured(0.5))
    assert (found.figure, found.other, found.value, found.other_value) == ("recall@100", "most popular", 0.5, 0.1)
    assert (found.low, found.high, found.verdict) == (0.35, 0.45, "significantly better")
    assert found.in_words("+.2f") == "+0.40 [+0.35, +0.45] significantly better"


def test_the_neighbours_of_ranked_lists_are_no_baseline() -> None:
    systems = measured(0.5).to_dict()["systems"]
    ranked = measured(0.5, systems={"ranking": systems["neighbours"], **systems}, served_system="ranking")
    assert [found.other for found in night_figures.against_baselines(ranked)] == ["most popular"]


@pytest.mark.parametrize(
    ("before", "users", "verdict"),
    [
        (0.4, 500, "significantly better"),
        (0.6, 500, "significantly worse"),
        (0.5, 500, "no significant difference"),
        (0.5, 3, "too few held-out users (3) to tell"),
    ],
)
def test_nights_are_compared_user_by_user(before: float, users: int, verdict: str) -> None:
    found = night_figures.between_nights(measured(0.5), measured(before, users=users), "recall@100", "before")
    assert found is not None and found.difference == pytest.approx(0.5 - before) and found.verdict == verdict
    assert found.low == pytest.approx(0.5 - before) == found.high  # the replicates move together


def test_figures_without_replicates_have_no_interval() -> None:
    found = night_figures.between_nights(measured(0.5), measured(0.4), "users", "before")
    assert found is not None and (found.low, found.verdict, found.in_words("+.1f")) == (None, "", "+0.0")
    assert night_figures.between_nights(measured(0.5), measured(0.4), "recall@7", "before") is None
    assert night_figures.between_nights(measured(0.5), measured(0.4, systems={}), "users", "before") is None
