"""The held-out users of a bucket: their labels, and the slices they belong to.

records of the holdout (context and history), the bucket's events (completed videos, first event of a user), the
catalogue (age of the videos) -> HeldOut, in the order of the records
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.contracts.example_spec import FeatureSpec
from transforms.contracts.retrieval_metrics import UserMetrics, hits_from_ids
from transforms.evaluation.item_to_item import LAST
from transforms.evaluation.slices import by_category, by_first_event, by_history, by_upload

SLICED_BY = ("country", "device")  # categories whose values are slices, if the model has them
RECORD: dict[str, pl.DataType | type[pl.DataType]] = {
    "user_id": pl.String(),
    "watches": pl.List(pl.Int64),
    **{name: pl.List(pl.Int64) for name in SLICED_BY},
}


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Some held-out users. Rows count from 0 in the order of `user_ids`."""

    user_ids: pl.Series
    kinds: dict[str, NDArray[np.str_]]  # kind of slice -> the slice of each user
    labels: pl.DataFrame  # row, id (0: out of vocabulary), upload (`by_upload`), ordered by row
    recent: pl.DataFrame  # row, id: the last `LAST` distinct completed videos in vocabulary

    @classmethod
    def from_records(
        cls,
        records: pl.DataFrame,
        watches: pl.DataFrame,
        searches: pl.DataFrame,
        videos: pl.DataFrame,
        spec: FeatureSpec,
        as_of: dt.datetime,
    ) -> HeldOut:
        """Build the held-out users of a bucket.

        records: `RECORD`. watches (user_id, time, video_id, completed), searches (user_id, time): of the whole window.
        videos: video_id, id, upload_time of all that have one of the two. as_of: start of the held-out days.
        """
        users = records.select("user_id").with_row_index("row")
        watches, searches = (frame.join(users, on="user_id") for frame in (watches, searches))
        events = pl.concat([watches.select("row", "time"), searches.select("row", "time")])
        first = events.filter(pl.col("time") < as_of).group_by("row").agg(pl.col("time").min())
        since = users.join(first, on="row", how="left", maintain_order="left")["time"]
        kinds = {
            name: by_category(records[name].list.first().fill_null(0).to_numpy(), spec.categories[name])
            for name in SLICED_BY
            if name in spec.categories
        }
        kinds["history"] = by_history(records["watches"].list.len().to_numpy())
        kinds["user"] = by_first_event(since, as_of)
        wanted = watches.filter("completed", pl.col("time") >= as_of).select("row", "video_id").unique()
        found = wanted.join(videos, on="video_id", how="left").sort("row", "video_id")
        labels = found.select(
            "row", pl.col("id").fill_null(0), upload=pl.Series(by_upload(found["upload_time"], as_of))
        )
        return cls(user_ids=records["user_id"], kinds=kinds, labels=labels, recent=_recent_videos(records, spec.videos))

    def batch(self, first: int, count: int) -> HeldOut:
        """Return `count` users from row `first` on."""
        rows = slice(first, first + count)
        inside, row = pl.col("row").is_between(first, first + count, closed="left"), pl.col("row") - first
        return HeldOut(
            user_ids=self.user_ids[rows],
            kinds={kind: values[rows] for kind, values in self.kinds.items()},
            labels=self.labels.filter(inside).with_columns(row),
            recent=self.recent.filter(inside).with_columns(row),
        )

    def metrics(self, shown: NDArray[np.int64], ks: tuple[int, ...], counted: pl.Expr | None = None) -> UserMetrics:
        """Return the metrics of lists. shown: ids [users, K], best first, padded with -1. counted: which rows of
        `labels` count; None: all."""
        labels = self.labels if counted is None else self.labels.filter(counted)
        wanted = np.bincount(labels["row"].to_numpy(), minlength=len(shown))
        ids = labels["id"].to_numpy()
        offsets = np.concatenate([[0], np.cumsum(wanted)])
        hits = hits_from_ids(shown, offsets=offsets, labels=np.where(ids > 0, ids, -1))
        return UserMetrics.from_hits(hits, wanted, ks=ks)


def _recent_videos(records: pl.DataFrame, videos: int) -> pl.DataFrame:
    """Return row, id of each user's last `LAST` distinct videos of `watches`, which records have oldest first."""
    flat = records.select("watches").with_row_index("row").explode("watches", empty_as_null=False, keep_nulls=False)
    known = flat.filter(pl.col("watches").is_between(1, videos))
    last = known.unique(["row", "watches"], keep="last", maintain_order=True)
    return last.group_by("row", maintain_order=True).tail(LAST).select(pl.col("row").cast(pl.Int64), id="watches")
