"""A sample of users that is about as large as wanted whatever the number of users: some buckets, and a share of theirs.

Buckets are by digest, so the users of some are a fair sample of all; the share is by another digest.

    some = Sample.of(users=10_000_000, buckets=4_096, most=100_000)
    [bucket for bucket in buckets if bucket.bucket < some.buckets]  # only these are read
    rows = some.drawn(user_ids)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from transforms.core.frames import id_digests, mix

_DRAW_OF_USERS = 0x73616D706C65  # "sample"


@dataclass(frozen=True, kw_only=True)
class UserSample:
    """Users of the first `buckets` buckets, a `share` of them."""

    buckets: int
    share: float

    @classmethod
    def of(cls, *, users: int, buckets: int, most: int) -> UserSample:
        """About `most` of `users` users, all of them where there are fewer."""
        share = min(1.0, most / max(1, users))
        taken = math.ceil(buckets * share)
        return cls(buckets=taken, share=share * buckets / max(1, taken))

    def drawn(self, user_ids: pl.Series) -> pl.Series:
        """For each user id of these buckets, whether the user is in the sample: boolean of the same length."""
        digests = mix(_DRAW_OF_USERS, id_digests(user_ids).to_numpy())
        return pl.Series((digests >> np.uint64(11)).astype(np.float64) * 2.0**-53 < self.share)
