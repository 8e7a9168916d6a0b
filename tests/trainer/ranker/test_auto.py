"""Settings of the ranker that follow from the counts of impressions."""

from __future__ import annotations

import pytest

from trainer.ranker.auto import replayed_share, resolve_epochs, unclicked_share


@pytest.mark.parametrize(
    ("impressions", "warm", "expected"),
    [
        (0, False, 3),
        (1_000_000, False, 3),
        (1_300_000, False, 2),
        (2_100_000, False, 1),
        (10**8, False, 1),
        (9, True, 1),
    ],
)
def test_epochs(impressions: int, warm: bool, expected: int) -> None:
    found, reason = resolve_epochs("auto", impressions=impressions, warm=warm)
    assert found == expected and (f"{impressions:,} impressions" in reason or warm)
    assert resolve_epochs(7, impressions=impressions, warm=warm) == (7, "")


@pytest.mark.parametrize(
    ("impressions", "clicked", "days", "expected"),
    [
        (14_000_000, 700_000, 28, 0.11),  # two for each click
        (14_000_000, 7_000, 28, 0.04),  # 20,000 a day
        (500_000, 9, 28, 1.0),
        (10, 10, 1, 1.0),
        (10_000_000, 5_000_000, 28, 1.0),
    ],
)
def test_the_share_of_unclicked_impressions(impressions: int, clicked: int, days: int, expected: float) -> None:
    found, reason = unclicked_share("auto", impressions=impressions, clicked=clicked, days=days)
    assert found == expected and f"of {clicked:,} clicks" in reason
    assert unclicked_share(0.5, impressions=impressions, clicked=clicked, days=days) == (0.5, "")


@pytest.mark.parametrize(
    ("new", "available", "expected"),
    [
        (600_000, 12_000_000, 0.05),  # as many as are new
        (100_000, 9_000_000, 0.1),  # a million in all
        (1_000, 50_000, 1.0),
        (1_000, 0, 0.0),
    ],
)
def test_the_share_of_earlier_records(new: int, available: int, expected: float) -> None:
    assert replayed_share(new=new, available=available) == expected
