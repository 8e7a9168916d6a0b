"""How good lists of videos are: a value that is made from a batch of users, merged, and computed once at the end.

The trainer merges batches of it and Beam merges frames of it, so both report the same figures. Counts are integers,
and the means over users are kept as integer sums of a fixed unit: merging is exact, so the figures do not depend on how
the users were split or in which order the parts arrived. Imports nothing but numpy.

    metrics = RankingMetrics.empty(ks=(10, 50))
    for shown, offsets, labels in batches:
        hits = hits_from_ids(shown, offsets=offsets, labels=labels)
        metrics = metrics.merge(RankingMetrics.from_hits(hits, np.diff(offsets), ks=(10, 50)))
    metrics.compute()["recall@50"]

`UserMetrics` is what each user adds to it: intervals and slices are made of that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT = 2**-40  # of the sums over users: rounding a user's value costs at most 5e-13, far below what is reported
_MAX_USERS_A_BATCH = 2**22  # 2**22 users x 1.0 / 2**-40 fits an int64


@dataclass(frozen=True, kw_only=True)
class RankingMetrics:
    """Recall@k, hit rate@k, NDCG@k, mean average precision and mean reciprocal rank of lists, best first (paper, 3.5).

    Cuts are ascending; sums[...] of user-level values are in units of 2**-40.
    """

    ks: tuple[int, ...]
    users: int
    pairs: int  # all (user, wanted video) pairs
    found: tuple[int, ...]  # pairs found in the first k, one a cut
    hit_users: tuple[int, ...]  # users with at least one, one a cut
    ndcg_sums: tuple[int, ...]  # one a cut
    average_precision_sum: int
    reciprocal_rank_sum: int

    @classmethod
    def empty(cls, *, ks: Iterable[int]) -> RankingMetrics:
        """No users yet: what every merge may start from. Cuts are sorted; ValueError for none or one below 1."""
        cuts = tuple(sorted(set(ks)))
        if not cuts or cuts[0] < 1:
            raise ValueError(f"ks must be one or more positive cuts, but is {cuts}")
        none = (0,) * len(cuts)
        return cls(
            ks=cuts,
            users=0,
            pairs=0,
            found=none,
            hit_users=none,
            ndcg_sums=none,
            average_precision_sum=0,
            reciprocal_rank_sum=0,
        )

    @classmethod
    def from_hits(cls, hits: NDArray[np.bool_], wanted: NDArray[Any], *, ks: Iterable[int]) -> RankingMetrics:
        """The metrics of one batch of users: `UserMetrics.from_hits`, added up."""
        return UserMetrics.from_hits(hits, wanted, ks=ks).total()

    def merge(self, other: RankingMetrics) -> RankingMetrics:
        """The metrics of the users of both, exactly: associative and commutative. The users must be disjoint."""
        if self.ks != other.ks:
            raise ValueError(f"only metrics with the same cuts merge, but these have {self.ks} and {other.ks}")
        return RankingMetrics(
            ks=self.ks,
            users=self.users + other.users,
            pairs=self.pairs + other.pairs,
            found=_add(self.found, other.found),
            hit_users=_add(self.hit_users, other.hit_users),
            ndcg_sums=_add(self.ndcg_sums, other.ndcg_sums),
            average_precision_sum=self.average_precision_sum + other.average_precision_sum,
            reciprocal_rank_sum=self.reciprocal_rank_sum + other.reciprocal_rank_sum,
        )

    def compute(self) -> dict[str, float]:
        """The figures by name: users, pairs, recall@k, hit@k and ndcg@k for each cut, map, mrr.

        recall@k is found pairs / all pairs; the others are means over users. map divides a user's sum of precisions by
        min(wanted, max(ks)). Without users there is nothing to divide by: only users and pairs, both 0.
        """
        figures: dict[str, float] = {"users": self.users, "pairs": self.pairs}
        if not self.users:
            return figures
        for k, found, hit, ndcg in zip(self.ks, self.found, self.hit_users, self.ndcg_sums, strict=True):
            figures[f"recall@{k}"] = found / self.pairs
            figures[f"hit@{k}"] = hit / self.users
            figures[f"ndcg@{k}"] = ndcg * UNIT / self.users
        figures["map"] = self.average_precision_sum * UNIT / self.users
        figures["mrr"] = self.reciprocal_rank_sum * UNIT / self.users
        return figures


@dataclass(frozen=True, kw_only=True)
class UserMetrics:
    """What each user of a batch adds to `RankingMetrics`: row i of every array is the same user.

    Users who wanted none have zeros everywhere, and do not count.
    """

    ks: tuple[int, ...]
    wanted: NDArray[np.int64]  # [users]: distinct videos wanted, found or not
    found: NDArray[np.int64]  # [users, cuts]: how many of them are in the first k
    ndcg: NDArray[np.float64]  # [users, cuts]
    average_precision: NDArray[np.float64]  # [users]
    reciprocal_rank: NDArray[np.float64]  # [users]

    @classmethod
    def from_hits(cls, hits: NDArray[np.bool_], wanted: NDArray[Any], *, ks: Iterable[int]) -> UserMetrics:
        """The metrics of each user of one batch.

        hits: bool [users, K], best first: whether the r-th video shown to the user is one of the wanted. A user
        without a list has a row of False; a list shorter than K is filled up with False.
        wanted: int [users]: how many distinct videos the user wanted, found or not.
        ks: the cuts. Only the first max(ks) columns count, for average precision and reciprocal rank too, so that
        parts with lists of different lengths merge into the figures of one pass.
        Raises ValueError where shapes disagree or a user has more hits than wanted videos (a list with repeats).
        """
        cuts = RankingMetrics.empty(ks=ks).ks
        hits, wanted = _checked(hits, wanted)[:, : cuts[-1]], np.asarray(wanted, np.int64)
        found_so_far = np.cumsum(hits, axis=1, dtype=np.int64)
        gains = np.cumsum(hits * _discounts(hits.shape[1]), axis=1)
        ideal = np.cumsum(_discounts(cuts[-1]))
        some = np.maximum(wanted, 1)  # of users who wanted none all gains are 0, whatever they are divided by
        return cls(
            ks=cuts,
            wanted=wanted,
            found=np.stack([_after_rank(found_so_far, k) for k in cuts], axis=1),
            ndcg=np.stack([_after_rank(gains, k) / ideal[np.minimum(some, k) - 1] for k in cuts], axis=1),
            average_precision=_average_precisions(hits, found_so_far, np.minimum(some, cuts[-1])),
            reciprocal_rank=_reciprocal_ranks(hits),
        )

    def of(self, users: NDArray[Any]) -> UserMetrics:
        """Those of some of the users: rows or a mask."""
        return UserMetrics(
            ks=self.ks,
            wanted=self.wanted[users],
            found=self.found[users],
            ndcg=self.ndcg[users],
            average_precision=self.average_precision[users],
            reciprocal_rank=self.reciprocal_rank[users],
        )

    def total(self) -> RankingMetrics:
        """All users as one value, to be merged with that of others."""
        return RankingMetrics(
            ks=self.ks,
            users=int((self.wanted > 0).sum()),
            pairs=int(self.wanted.sum()),
            found=tuple(int(found) for found in self.found.sum(axis=0)),
            hit_users=tuple(int(users) for users in (self.found > 0).sum(axis=0)),
            ndcg_sums=tuple(_sum(ndcg) for ndcg in self.ndcg.T),
            average_precision_sum=_sum(self.average_precision),
            reciprocal_rank_sum=_sum(self.reciprocal_rank),
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """What the figures are made of, [users] each: `users` and `pairs`, which they are divided by, and a numerator
        of each figure under its name."""
        columns: dict[str, NDArray[Any]] = {"users": self.wanted > 0, "pairs": self.wanted}
        for at, k in enumerate(self.ks):
            columns |= {f"recall@{k}": self.found[:, at], f"hit@{k}": self.found[:, at] > 0}
            columns |= {f"ndcg@{k}": self.ndcg[:, at]}
        return columns | {"map": self.average_precision, "mrr": self.reciprocal_rank}


def denominator(figure: str) -> str:
    """The column of `UserMetrics.columns` that a figure's numerator is divided by."""
    return "pairs" if figure.startswith("recall@") else "users"


def merge_metrics(parts: Iterable[RankingMetrics], *, ks: Iterable[int]) -> RankingMetrics:
    """All parts as one; `empty(ks=ks)` where there are none."""
    return reduce(RankingMetrics.merge, parts, RankingMetrics.empty(ks=ks))


def hits_from_ids(shown: NDArray[Any], *, offsets: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the ids shown are among the user's labels: bool [users, K].

    shown: int [users, K], best first, filled up with negative numbers. offsets: int [users + 1]: the labels of user u
    are labels[offsets[u]:offsets[u + 1]], in any order. Negative ids match nothing on either side, so an unreachable
    label may be negative: it stays one to be missed. Raises ValueError where offsets do not cover the labels.
    """
    if len(offsets) != len(shown) + 1 or offsets[0] != 0 or offsets[-1] != len(labels):
        raise ValueError(f"offsets must go from 0 to {len(labels)} in {len(shown)} steps, but are {offsets!r:.200}")
    top = max(int(shown.max(initial=0)), int(labels.max(initial=0))) + 1
    user = np.repeat(np.arange(len(shown), dtype=np.int64), np.diff(offsets))
    wanted = (user * top + labels)[labels >= 0]
    keys = np.arange(len(shown), dtype=np.int64)[:, None] * top + shown
    found: NDArray[np.bool_] = np.isin(keys, wanted) & (shown >= 0)
    return found


def _checked(hits: NDArray[np.bool_], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    if hits.ndim != 2 or wanted.shape != hits.shape[:1]:
        raise ValueError(f"hits must be [users, K] and wanted [users], but are {hits.shape} and {wanted.shape}")
    if len(hits) > _MAX_USERS_A_BATCH:
        raise ValueError(
            f"a batch holds at most {_MAX_USERS_A_BATCH} users, but this one {len(hits)}: merge smaller ones"
        )
    too_many = np.flatnonzero(hits.sum(axis=1) > wanted)
    if len(too_many):
        row = int(too_many[0])
        raise ValueError(
            f"row {row} has {hits[row].sum()} hits but only {wanted[row]} wanted videos: lists must not repeat a video"
        )
    return np.asarray(hits, np.bool_)


def _after_rank(cumulated: NDArray[Any], k: int) -> NDArray[Any]:
    """[users, K] cumulated over ranks -> [users] after k ranks, or after all where there are fewer."""
    last = min(k, cumulated.shape[1]) - 1
    return cumulated[:, last] if last >= 0 else np.zeros(len(cumulated), cumulated.dtype)


def _discounts(ranks: int) -> NDArray[np.float64]:
    return 1 / np.log2(np.arange(ranks) + 2.0)


def _average_precisions(hits: NDArray[Any], found_so_far: NDArray[Any], ideal: NDArray[Any]) -> NDArray[np.float64]:
    precisions = hits * found_so_far / np.arange(1.0, hits.shape[1] + 1)
    # A cumulated sum adds in rank order whatever the batch; np.sum's order depends on the width.
    return np.asarray(_after_rank(np.cumsum(precisions, axis=1), hits.shape[1]) / ideal)


def _reciprocal_ranks(hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not hits.shape[1]:
        return np.zeros(len(hits))
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1.0), 0.0)


def _sum(values: NDArray[np.float64]) -> int:
    return int(np.rint(values / UNIT).astype(np.int64).sum())


def _add(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))
