"""Samples of users: as large as wanted, the same users every time."""

from __future__ import annotations

import polars as pl
import pytest

from transforms.core.frames import bucket_of
from transforms.core.user_sampling import UserSample


@pytest.mark.parametrize(
    ("users", "buckets", "expected"),
    [
        (0, 8, (8, 1.0)),
        (100_000, 8, (8, 1.0)),
        (800_000, 8, (1, 1.0)),
        (1_000_000, 8, (1, 0.8)),
        (300_000, 16, (6, 8 / 9)),
    ],
)
def test_no_more_buckets_are_read_than_are_needed(users: int, buckets: int, expected: tuple[int, float]) -> None:
    some = UserSample.of(users=users, buckets=buckets, most=100_000)
    assert (some.buckets, some.share) == (expected[0], pytest.approx(expected[1]))


def test_the_sample_is_about_as_large_as_wanted() -> None:
    users = pl.Series([f"user {n}" for n in range(20_000)])
    some = UserSample.of(users=len(users), buckets=16, most=700)
    theirs = users.filter(pl.Series([bucket_of(user, 16) < some.buckets for user in users]))
    assert 600 < theirs.filter(some.drawn(theirs)).len() < 800


def test_a_larger_share_keeps_the_users_of_a_smaller() -> None:
    users = pl.Series([f"user {n}" for n in range(3_000)])
    few, more = (set(users.filter(UserSample(buckets=8, share=share).drawn(users))) for share in (0.1, 0.3))
    assert few < more
    assert (
        UserSample(buckets=8, share=1.0).drawn(users).all() and not UserSample(buckets=8, share=0.0).drawn(users).any()
    )
    assert UserSample(buckets=8, share=0.5).drawn(users[:0]).len() == 0
