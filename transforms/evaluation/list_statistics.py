"""Statistics of the videos in lists, and of the videos watched: coverage, age, length and popularity.

Videos are counted by vocabulary id, which is their rank by popularity; 0 counts videos out of vocabulary. The
statistics do not depend on how lists are split into parts.

    counts = VideoCounts.from_ids(ids_of_lists, videos=videos).merge(counts_of_other_lists)
    list_figures(counts, uploads, as_of)["mean_age_days"]
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
DAYS = 28  # since upload, in the freshness curve
LENGTHS = (60, 180, 600, 1_800)  # seconds at which the classes of `length_shares` begin, after the first


@dataclass(frozen=True, kw_only=True)
class VideoCounts:
    """The number of occurrences of each vocabulary id in some lists: counts[id], [videos + 1]."""

    counts: Counts

    @classmethod
    def from_ids(cls, ids: NDArray[Any], *, videos: int) -> VideoCounts:
        """Count ids from 0 to `videos`, in any order."""
        return cls(counts=np.bincount(ids, minlength=videos + 1))

    def merge(self, other: VideoCounts) -> VideoCounts:
        """Return the counts of the lists of both."""
        return VideoCounts(counts=self.counts + other.counts)


def by_id(videos: pl.DataFrame, column: str) -> pl.Series:
    """Return a column's value of each vocabulary id, null if unknown and for 0: [videos + 1].

    videos: id (null: out of vocabulary) and the column.
    """
    known = videos.drop_nulls("id").sort("id")[column]
    return known.clear(1).append(known)


def list_figures(video_counts: VideoCounts, uploads: pl.Series, as_of: dt.datetime) -> dict[str, float]:
    """Return statistics of the counted videos.

    videos: number with repeats. distinct: number of distinct ids. mean_log2_rank: of ranks by popularity, from 1;
    videos out of vocabulary rank after all others. mean_age_days, new_uploads (share uploaded in the seven days before
    `as_of`): of those with a known upload time. A mean over no videos is omitted.
    """
    counts = video_counts.counts
    total = int(counts.sum())
    found: dict[str, float] = {"videos": total, "distinct": int((counts[1:] > 0).sum())}
    if total:
        rank = np.arange(len(counts), dtype=np.float64)
        rank[0] = len(counts)
        found["mean_log2_rank"] = float(counts @ np.log2(rank)) / total
    days, of_days = _counts_by_age(video_counts, uploads, as_of)
    dated = int(of_days.sum())
    if dated:
        found["mean_age_days"] = float(of_days @ days) / dated
        found["new_uploads"] = int(of_days[days <= NEW / _DAY].sum()) / dated
    return found


def freshness_curve(video_counts: VideoCounts, uploads: pl.Series, as_of: dt.datetime) -> list[float]:
    """Return, for each of the first `DAYS` days since upload, the share of the counted videos that have this age.

    Only videos uploaded before `as_of` are counted; the curve is empty if there are none.
    """
    days, counts = _counts_by_age(video_counts, uploads, as_of)
    days, counts = days[days >= 0], counts[days >= 0]
    total = int(counts.sum())
    recent = days < DAYS
    by_age = np.bincount(days[recent].astype(np.int64), counts[recent], minlength=DAYS)
    return (by_age / total).tolist() if total else []


def length_shares(video_counts: VideoCounts, lengths: pl.Series) -> list[float]:
    """Return the share of the counted videos in each class of lengths: below the first of `LENGTHS`, from each on.

    lengths: seconds of each id, null or 0 if unknown. Only videos of a known length are counted; empty if there are
    none.
    """
    known = (lengths > 0).fill_null(False).to_numpy()
    classes = np.searchsorted(LENGTHS, lengths.to_numpy()[known], side="right")
    by_class = np.bincount(classes, video_counts.counts[known], minlength=len(LENGTHS) + 1)
    return (by_class / by_class.sum()).tolist() if by_class.sum() else []


def _counts_by_age(
    video_counts: VideoCounts, uploads: pl.Series, as_of: dt.datetime
) -> tuple[NDArray[np.float64], Counts]:
    """Return (days since upload, count) of each id with a known upload time."""
    known = uploads.is_not_null().to_numpy()
    ages = (pl.lit(as_of) - pl.col("upload_time")).dt.total_microseconds() / (_DAY / dt.timedelta(microseconds=1))
    days = uploads.to_frame("upload_time").select(ages).to_series().to_numpy()
    return days[known], video_counts.counts[known]
