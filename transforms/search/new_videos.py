"""New videos: uploaded in the last days and not yet completed by anybody. They get places reserved in every list.

A new video has no trained vector, so it is not in the index. Stage index writes the vectors that follow from what the
catalogue says (`content_vectors`) to the file `NEW_VIDEOS`. Few videos are new, so they are searched exactly, under the
same rules as all others, and the best of a user's new videos take every 1/share-th place of the list:

    top = insert_new(ordinary, new, k=200, share=0.05, cap=cap)   # places 20, 40, ..., 200

Positions of new videos follow those of the index.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from transforms.core import files
from transforms.core.process_cache import process_cache
from transforms.search.exact_search import Candidates
from transforms.search.exclusions import ChannelCap, first_kept

NEW_VIDEOS = pl.Schema(
    {
        "video_id": pl.String(),
        "id": pl.Int64(),  # in the vocabulary, null: not in it
        "upload_time": pl.Datetime("us", "UTC"),
        "count": pl.Int64(),  # completed watches that were learned from
        "vector": pl.List(pl.Float32()),  # [v; b], the content part
    }
)


@dataclass(frozen=True, kw_only=True)
class NewVideos:
    """Which videos are new at some moment, and their share of the places of a list."""

    path: str  # of `NEW_VIDEOS`
    share: float = 0.0
    since: dt.datetime  # uploaded from then on ...
    until: dt.datetime  # ... and before
    later_counts: str = ""  # path of `COUNTS` of completed watches after `until`, which do not count; "": none

    def places(self, k: int) -> int:
        """Return the number of reserved places in a list of k."""
        return reserved_places(self.share, k)


@process_cache
def read_new_videos(new: NewVideos) -> pl.DataFrame:
    """Return the rows of `NEW_VIDEOS` that are new, ordered by video_id; read once per process."""
    videos = files.read_parquet(new.path)
    recent = videos.filter(pl.col("upload_time").is_between(new.since, new.until, closed="left"))
    if new.later_counts:
        later = files.read_parquet(new.later_counts).select(video_id="token", later="count")
        recent = recent.join(later, on="video_id", how="left").with_columns(
            pl.col("count") - pl.col("later").fill_null(0)
        )
    return recent.filter(pl.col("count") <= 0).select(NEW_VIDEOS.names()).sort("video_id")


def reserved_places(share: float, k: int) -> int:
    """Return the largest number of k places that is at most `share` of them."""
    return math.floor(share * k + 1e-9)  # the float nearest to a share such as 0.29 may be a little less


def insert_new(
    ordinary: Candidates, new: Candidates, *, k: int, share: float, cap: ChannelCap | None = None
) -> Candidates:
    """Return lists of k in which new videos have reserved places: [b, k].

    ordinary: [b, at least k], new: [b, at most `reserved_places`], disjoint, each best first and under the cap. The
    n-th new video of a list has place n / share, rounded up, so that no beginning of a list has more than `share` of
    new videos, except a list that is too short for that, which ends with them. All other places have the ordinary
    videos in their order, less those that the cap forbids beside the new ones; a list is as long as that allows, at
    most k.

    A new video has the score of the ordinary video before it, so that scores fall as those of the ordinary videos do:
    its own score, without a row of its own, is not comparable with theirs. In a list of new videos only, they keep
    their scores.
    """
    joined = Candidates(
        positions=np.concatenate([new.positions, ordinary.positions], axis=1),
        scores=np.concatenate([new.scores, ordinary.scores], axis=1),
    )
    # New videos come first, so the cap keeps them all. Each can displace one ordinary video of its channel.
    kept = first_kept(joined, joined.positions >= 0, k, cap)
    is_new = np.zeros(kept.positions.shape, np.bool_)
    for number in range(new.positions.shape[1]):
        row = np.flatnonzero(new.lengths > number)
        latest = kept.lengths[row] - new.lengths[row] + number
        is_new[row, np.minimum(math.ceil((number + 1) / share - 1e-9) - 1, latest)] = True
    rank, column = np.cumsum(is_new, axis=1), np.arange(1, k + 1)
    source = np.where(is_new, rank, new.lengths[:, None] + column - rank) - 1
    scores = np.take_along_axis(kept.scores, source, axis=1)
    before = np.maximum.accumulate(np.where(is_new, -1, column - 1), axis=1)  # the ordinary video at or before a place
    return Candidates(
        positions=np.take_along_axis(kept.positions, source, axis=1),
        scores=np.where(before < 0, scores, np.take_along_axis(scores, np.maximum(before, 0), axis=1)),
    )
