"""The impressions of earlier nights that a ranker learns again, besides the new ones of its own night.

A warm training that saw only the newest day would forget what that day does not contain. A share of the users of
earlier nights' records, another one each night, is drawn by a digest of the night and the user.

A record file holds a part of the users, and only some files of each earlier night are read: to read all of them for a
few users would cost more with each night of a chain.

    shards, share = draw_shards(8, share=0.05, salt="2026-11-21/2026-11-20")  # 1 of 8 files, 0.4 of its users
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import xxhash

from trainer.batch import IMPRESSION_DAY, RECORD_NIGHT
from transforms.core.tensorflow_import import tf

PLACES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class RankingReplay:
    """Record files of earlier nights, and what to learn again from them.

    `days`: night that wrote the records -> the days of its impressions that are still valid, both in days since
    1970-01-01. `shares`: night -> share of the users in its files, drawn by `salt`. `lacks`: features of the spec that
    these records may lack, because an earlier ranker did not have them; their values are unknown.
    """

    paths: tuple[str, ...]
    days: Mapping[int, tuple[int, ...]]
    shares: Mapping[int, float]
    salt: str
    lacks: frozenset[str] = field(default_factory=frozenset)

    def keeps_records(self, serialized: tf.Tensor) -> tf.Tensor:
        """Return bool [records]: those of other nights than `shares` has, and those of the users that are drawn."""
        features = {"user_id": tf.io.FixedLenFeature([], tf.string), RECORD_NIGHT: tf.io.FixedLenFeature([], tf.int64)}
        parsed = tf.io.parse_example(serialized, features)
        key = tf.strings.join([self.salt, parsed["user_id"]], separator="/")
        limit = tf.fill(tf.shape(key), tf.constant(PLACES, tf.int64))
        for night, share in self.shares.items():
            limit = tf.where(parsed[RECORD_NIGHT] == night, tf.constant(round(share * PLACES), tf.int64), limit)
        return tf.strings.to_hash_bucket_fast(key, PLACES) < limit

    def keeps_impressions(self, serialized: tf.Tensor) -> tf.Tensor:
        """Return bool [impressions]: those of other nights than `days` has, and those of valid days."""
        days = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
        features = {IMPRESSION_DAY: days, RECORD_NIGHT: tf.io.FixedLenFeature([], tf.int64)}
        parsed = tf.io.parse_example(serialized, features)
        night = tf.repeat(parsed[RECORD_NIGHT], parsed[IMPRESSION_DAY].row_lengths())
        pair = _pair(night, parsed[IMPRESSION_DAY].values)
        valid = [_pair(night, day) for night, days in self.days.items() for day in days]
        return _is_in(pair, valid) | ~self._is_earlier(night)

    def _is_earlier(self, nights: tf.Tensor) -> tf.Tensor:
        return _is_in(nights, list(self.days))


def draw_shards(count: int, *, share: float, salt: str) -> tuple[list[int], float]:
    """Draw the fewest of `count` record files that hold `share` of a night's users.

    Returns their numbers, ascending, and the share of the users in them that is replayed. The draw depends on `salt`
    and the numbers, so it is the same for the files of another attempt.
    """
    wanted = math.ceil(share * count)
    order = sorted(range(count), key=lambda shard: xxhash.xxh64_intdigest(f"{salt}/{shard}".encode()))
    return sorted(order[:wanted]), share * count / wanted if wanted else 0.0


def _pair(night: tf.Tensor | int, day: tf.Tensor | int) -> tf.Tensor | int:
    return night * (1 << 24) + day


def _is_in(values: tf.Tensor, members: list[int]) -> tf.Tensor:
    """Return whether each value is one of the members, which are few."""
    found = tf.zeros_like(values, tf.bool)
    for member in members:
        found |= values == member
    return found
