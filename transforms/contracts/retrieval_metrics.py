"""Metrics of ranked lists of videos: values that are computed from batches of users, merged, and summarised at the end.

The trainer merges batches of users and Beam merges frames of users; both report the same figures. Counts are integers,
and sums over users are integers in a fixed unit, so that merging is exact: figures do not depend on how the users were
split or in which order the parts were merged. Imports only numpy.

    metrics = RankingMetrics.empty(ks=(10, 50))
    for ranked, offsets, labels in batches:
        hits = hits_from_ids(ranked, offsets=offsets, labels=labels)
        metrics = metrics.merge(RankingMetrics.from_hits(hits, np.diff(offsets), ks=(10, 50)))
    metrics.compute()["recall@50"]

`UserMetrics` has the values of each user, for confidence intervals and slices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT = 2**-40  # of the sums over users; rounding a value to it changes it by at most 5e-13
DENOMINATORS = ("users", "pairs")
_MAX_USERS_A_BATCH = 2**22  # 2**22 users x 1.0 / 2**-40 fits an int64


@dataclass(frozen=True, kw_only=True)
class RankingMetrics:
    """Recall@k, hit rate@k, NDCG@k, mean average precision and mean reciprocal rank of lists, best first (paper, 3.5).

    Cuts are ascending.
    """

    ks: tuple[int, ...]
    sums: dict[str, int]  # over users, of each of `UserMetrics.columns`; those of fractions are in units of 2**-40

    @classmethod
    def empty(cls, *, ks: Iterable[int]) -> RankingMetrics:
        """Return the metrics of no users. Sorts the cuts. Raises ValueError without cuts and for a cut below 1."""
        return cls.from_hits(np.zeros((0, 0), np.bool_), np.zeros(0, np.int64), ks=ks)

    @classmethod
    def from_hits(cls, hits: NDArray[np.bool_], wanted: NDArray[Any], *, ks: Iterable[int]) -> RankingMetrics:
        """Return the metrics of one batch of users: the total of `UserMetrics.from_hits`."""
        return UserMetrics.from_hits(hits, wanted, ks=ks).total()

    def merge(self, other: RankingMetrics) -> RankingMetrics:
        """Return the exact metrics of the users of both, who must be disjoint. Associative and commutative.

        Raises ValueError if the cuts differ.
        """
        if self.ks != other.ks:
            raise ValueError(f"only metrics with the same cuts can be merged, but these have {self.ks} and {other.ks}")
        return RankingMetrics(ks=self.ks, sums={name: total + other.sums[name] for name, total in self.sums.items()})

    def compute(self) -> dict[str, float]:
        """Return the figures by name: users, pairs, recall@k, hit@k and ndcg@k for each cut, map, mrr.

        recall@k is found pairs / all pairs; the others are means over users. map divides a user's sum of precisions by
        min(wanted, max(ks)). Without users there are only users and pairs, both 0.
        """
        figures: dict[str, float] = {name: self.sums[name] for name in DENOMINATORS}
        for name, total in self.sums.items():
            if name not in DENOMINATORS and self.sums["users"]:
                unit = 1 if name.startswith(("recall@", "hit@")) else UNIT
                figures[name] = total * unit / self.sums[denominator(name)]
        return figures


@dataclass(frozen=True, kw_only=True)
class UserMetrics:
    """The values of each user of a batch. Row i of every column is the same user.

    columns: [users] each: the denominators `users` (whether the user has a wanted video) and `pairs` (the number of
    distinct wanted videos, found or not), and the numerator of each figure under its name. Users with no wanted videos
    have zeros everywhere, and do not count.
    """

    ks: tuple[int, ...]
    columns: dict[str, NDArray[Any]]

    @classmethod
    def from_hits(cls, hits: NDArray[np.bool_], wanted: NDArray[Any], *, ks: Iterable[int]) -> UserMetrics:
        """Return the metrics of each user of one batch.

        hits: bool [users, K], best first: whether the video at that rank is one of the user's wanted videos. A user
        without a list has a row of False; a list shorter than K is padded with False. wanted: int [users]: number of
        distinct wanted videos, found or not. ks: the cuts. Only the first max(ks) columns count, also for average
        precision and reciprocal rank, so that parts with lists of different lengths merge into the figures of all users
        at once. Raises ValueError if there is no cut or one below 1, if shapes disagree, or if a user has more hits
        than wanted videos (a list with repetitions).
        """
        cuts = tuple(sorted(set(ks)))
        if not cuts or cuts[0] < 1:
            raise ValueError(f"ks must be one or more positive cuts, but is {cuts}")
        hits, wanted = _checked(hits, wanted)[:, : cuts[-1]], np.asarray(wanted, np.int64)
        found_so_far = np.cumsum(hits, axis=1, dtype=np.int64)
        gains = np.cumsum(hits * _discounts(hits.shape[1]), axis=1)
        ideal = np.cumsum(_discounts(cuts[-1]))
        some = np.maximum(wanted, 1)  # users with no wanted videos have gains of 0, and any divisor will do
        columns: dict[str, NDArray[Any]] = {"users": wanted > 0, "pairs": wanted}
        for k in cuts:
            found = _after_rank(found_so_far, k)
            columns |= {f"recall@{k}": found, f"hit@{k}": found > 0}
            columns[f"ndcg@{k}"] = _after_rank(gains, k) / ideal[np.minimum(some, k) - 1]
        columns["map"] = _average_precisions(hits, found_so_far, np.minimum(some, cuts[-1]))
        columns["mrr"] = _reciprocal_ranks(hits)
        return cls(ks=cuts, columns=columns)

    def select(self, users: NDArray[Any]) -> UserMetrics:
        """Return the metrics of some of the users, given as row indices or a mask."""
        return UserMetrics(ks=self.ks, columns={name: column[users] for name, column in self.columns.items()})

    def total(self) -> RankingMetrics:
        """Return the metrics of all users together."""
        return RankingMetrics(ks=self.ks, sums={name: _sum(column) for name, column in self.columns.items()})


def denominator(figure: str) -> str:
    """Return the column of `UserMetrics.columns` that is the denominator of a figure."""
    return "pairs" if figure.startswith("recall@") else "users"


def merge_metrics(parts: Iterable[RankingMetrics], *, ks: Iterable[int]) -> RankingMetrics:
    """Return the merged parts; `empty(ks=ks)` without parts."""
    return reduce(RankingMetrics.merge, parts, RankingMetrics.empty(ks=ks))


def hits_from_ids(ranked: NDArray[Any], *, offsets: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which of the ranked ids are labels of the user: bool [users, K].

    ranked: int [users, K], best first, padded with negative numbers. offsets: int [users + 1]: the labels of user u are
    labels[offsets[u]:offsets[u + 1]], in any order. Negative ids match nothing on either side, so a label that cannot
    be found may be negative: it counts as a miss. Raises ValueError if the offsets do not cover the labels.
    """
    if len(offsets) != len(ranked) + 1 or offsets[0] != 0 or offsets[-1] != len(labels):
        raise ValueError(f"offsets must go from 0 to {len(labels)} in {len(ranked)} steps, but are {offsets!r:.200}")
    top = max(int(ranked.max(initial=0)), int(labels.max(initial=0))) + 1
    user = np.repeat(np.arange(len(ranked), dtype=np.int64), np.diff(offsets))
    wanted = (user * top + labels)[labels >= 0]
    keys = np.arange(len(ranked), dtype=np.int64)[:, None] * top + ranked
    hits: NDArray[np.bool_] = np.isin(keys, wanted) & (ranked >= 0)
    return hits


def _checked(hits: NDArray[np.bool_], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    if hits.ndim != 2 or wanted.shape != hits.shape[:1]:
        raise ValueError(f"hits must be [users, K] and wanted [users], but are {hits.shape} and {wanted.shape}")
    if len(hits) > _MAX_USERS_A_BATCH:
        raise ValueError(
            f"a batch holds at most {_MAX_USERS_A_BATCH} users, but this one has {len(hits)}: merge smaller ones"
        )
    too_many = np.flatnonzero(hits.sum(axis=1) > wanted)
    if len(too_many):
        row = int(too_many[0])
        raise ValueError(
            f"row {row} has {hits[row].sum()} hits but only {wanted[row]} wanted videos: a list must not repeat a video"
        )
    return np.asarray(hits, np.bool_)


def _after_rank(cumulated: NDArray[Any], k: int) -> NDArray[Any]:
    """Return [users] after k ranks of [users, K] cumulated over ranks, or after all ranks if there are fewer."""
    last = min(k, cumulated.shape[1]) - 1
    return cumulated[:, last] if last >= 0 else np.zeros(len(cumulated), cumulated.dtype)


def _discounts(ranks: int) -> NDArray[np.float64]:
    return 1 / np.log2(np.arange(ranks) + 2.0)


def _average_precisions(hits: NDArray[Any], found_so_far: NDArray[Any], ideal: NDArray[Any]) -> NDArray[np.float64]:
    precisions = hits * found_so_far / np.arange(1.0, hits.shape[1] + 1)
    # A cumulative sum adds in order of rank for any batch; the order of np.sum depends on the width.
    return np.asarray(_after_rank(np.cumsum(precisions, axis=1), hits.shape[1]) / ideal)


def _reciprocal_ranks(hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not hits.shape[1]:
        return np.zeros(len(hits))
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1.0), 0.0)


def _sum(values: NDArray[Any]) -> int:
    """Return the sum of counts, or that of fractions in units of 2**-40."""
    return int((np.rint(values / UNIT).astype(np.int64) if values.dtype.kind == "f" else values).sum())
