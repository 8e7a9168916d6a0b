"""Samples of users: the requested size, and the same users every time."""

from __future__ import annotations

import polars as pl
import pytest

from transforms.core.digests import bucket_of
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
def test_only_the_necessary_buckets_are_sampled(users: int, buckets: int, expected: tuple[int, float]) -> None:
    some = UserSample.from_size(users=users, buckets=buckets, max_users=100_000)
    assert (some.buckets, some.share) == (expected[0], pytest.approx(expected[1]))


def test_sample_has_about_the_requested_size() -> None:
    users = pl.Series([f"user {n}" for n in range(20_000)])
    some = UserSample.from_size(users=len(users), buckets=16, max_users=700)
    theirs = users.filter(pl.Series([bucket_of(user, 16) < some.buckets for user in users]))
    assert 600 < theirs.filter(some.contains(theirs)).len() < 800


def test_larger_share_contains_the_users_of_a_smaller_one() -> None:
    users = pl.Series([f"user {n}" for n in range(3_000)])
    few, more = (set(users.filter(UserSample(buckets=8, share=share).contains(users))) for share in (0.1, 0.3))
    assert few < more
    everybody, nobody = (UserSample(buckets=8, share=share).contains(users) for share in (1.0, 0.0))
    assert everybody.all() and not nobody.any()
    assert UserSample(buckets=8, share=0.5).contains(users[:0]).len() == 0
