"""Sample about a given number of users by reading only some buckets, and a share of the users in them.

Both choices depend on digests of user ids, so the sample is uniform and the same every time.

    sample = UserSample.from_size(users=10_000_000, buckets=4_096, max_users=100_000)
    [bucket for bucket in buckets if bucket.bucket < sample.buckets]  # read only these
    sampled = events.filter(sample.contains(events["user_id"]))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from transforms.core.digests import in_share

_SAMPLE_SEED = 0x73616D706C65  # "sample"


@dataclass(frozen=True, kw_only=True)
class UserSample:
    """A `share` of the users in the first `buckets` buckets."""

    buckets: int
    share: float

    @classmethod
    def from_size(cls, *, users: int, buckets: int, max_users: int) -> UserSample:
        """Sample about `max_users` of `users` users in `buckets` buckets; all if there are no more."""
        share = min(1.0, max_users / max(1, users))
        sampled_buckets = math.ceil(buckets * share)
        return cls(buckets=sampled_buckets, share=share * buckets / max(1, sampled_buckets))

    def contains(self, user_ids: pl.Series) -> pl.Series:
        """Return which users of the sampled buckets are in the sample: Boolean, of the same length as `user_ids`."""
        return in_share(user_ids, self.share, _SAMPLE_SEED)
