"""What lists are made of: how much of the catalogue, how old, how new, how popular, beside what people watched.

Videos are counted by vocabulary id, whose order is that of popularity; what is computed of the counts does not depend
on how lists were split. 0 counts what is out of vocabulary.

    shown = Tally.of(ids_of_the_lists, videos=videos).merge(those_of_other_lists)
    figures(shown, uploads, as_of)["mean_age_days"]
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.evaluation.slices import NEW

Counts = NDArray[np.int64]
_DAY = dt.timedelta(days=1)
DAYS = 28  # since upload, that `by_day` tells apart


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How often each vocabulary id occurs in some lists: counts[id], [videos + 1]."""

    counts: Counts

    @classmethod
    def of(cls, ids: NDArray[Any], *, videos: int) -> Tally:
        """Of ids from 0 to `videos`, in any order."""
        return cls(counts=np.bincount(ids, minlength=videos + 1))

    def merge(self, other: Tally) -> Tally:
        """Those of the lists of both."""
        return Tally(counts=self.counts + other.counts)


def uploads_of(videos: pl.DataFrame) -> pl.Series:
    """When each vocabulary id was uploaded, null where not known, as for 0: [videos + 1].

    videos: id (null: out of vocabulary), upload_time.
    """
    known = videos.drop_nulls("id").sort("id")["upload_time"]
    return known.clear(1).append(known)


def figures(tally: Tally, uploads: pl.Series, as_of: dt.datetime) -> dict[str, float]:
    """What the counted videos are like.

    videos: how many, each as often as it is there; distinct; mean_log2_rank: of their places by popularity, from 1 (a
    video out of vocabulary comes after all that are in it); mean_age_days and new_uploads (the share uploaded in the
    seven days before `as_of`) of those whose upload is known. What there is nothing to take the mean of is left out.
    """
    counts = tally.counts
    total = int(counts.sum())
    found: dict[str, float] = {"videos": total, "distinct": int((counts[1:] > 0).sum())}
    if total:
        rank = np.arange(len(counts), dtype=np.float64)
        rank[0] = len(counts)
        found["mean_log2_rank"] = float(counts @ np.log2(rank)) / total
    days, of_days = _by_age(tally, uploads, as_of)
    dated = int(of_days.sum())
    if dated:
        found["mean_age_days"] = float(of_days @ days) / dated
        found["new_uploads"] = int(of_days[days <= NEW / _DAY].sum()) / dated
    return found


def by_day(tally: Tally, uploads: pl.Series, as_of: dt.datetime) -> list[float]:
    """The freshness curve: of the counted videos that were uploaded before `as_of`, the share of each of the first
    `DAYS` days since upload, from day 0 on; empty where there is none of them."""
    days, counts = _by_age(tally, uploads, as_of)
    days, counts = days[days >= 0], counts[days >= 0]
    total = int(counts.sum())
    within = days < DAYS
    by_age = np.bincount(days[within].astype(np.int64), counts[within], minlength=DAYS)
    return (by_age / total).tolist() if total else []


def _by_age(tally: Tally, uploads: pl.Series, as_of: dt.datetime) -> tuple[NDArray[np.float64], Counts]:
    """Days since upload, and how often it was counted, of each id whose upload is known."""
    known = uploads.is_not_null().to_numpy()
    ages = (pl.lit(as_of) - pl.col("upload_time")).dt.total_microseconds() / (_DAY / dt.timedelta(microseconds=1))
    days = uploads.to_frame("upload_time").select(ages).to_series().to_numpy()
    return days[known], tally.counts[known]
