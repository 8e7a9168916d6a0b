"""The evaluation of served lists on the next day: the lists that were served compared with the videos completed.

lists of the bucket, its watches of the day -> hits of each user -> figures with intervals, merged over the buckets
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import apache_beam as beam
import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.contracts.retrieval_metrics import UserMetrics
from transforms.core import files, progress
from transforms.core.bootstrap import weights
from transforms.core.digests import id_digests
from transforms.evaluation.night_metrics import ALL_USERS, OF_NEW, PLACES, WITH_A_LIST, Key, ServedPlaces
from transforms.evaluation.user_metrics import Measured
from transforms.logs.event_window import COMPLETED_COLUMNS, BucketFiles, Window
from transforms.search.new_videos import NewVideos, read_new_videos


def completed_since(window: Window, bucket: BucketFiles, since: dt.datetime) -> pl.DataFrame:
    """Return user_id, video_id of the distinct videos that users of a bucket completed from `since` to the end of the
    window, ordered by user and video.

    The days of robots are excluded. They are UTC days, so the whole day of `since` is read.
    """
    days = replace(window, start=max(window.start, since.replace(hour=0, minute=0, second=0, microsecond=0)))
    watches = days.unordered_events(bucket, COMPLETED_COLUMNS, ("user_id", "time")).watches
    completed = watches.filter("completed", pl.col("time") >= since)
    return completed.select("user_id", "video_id").unique().sort("user_id", "video_id")


@dataclass(frozen=True, kw_only=True)
class MatchedWatches:
    """The hits of lists, one row per user who completed anything, ordered by user."""

    user_ids: pl.Series
    hits: NDArray[np.bool_]  # [users, K], best first
    shown: NDArray[np.bool_]  # [users, K], whether the list has a video at this place ...
    new: NDArray[np.bool_]  # ... and whether that was a new one
    wanted: NDArray[np.int64]  # [users], number of completed videos
    wanted_new: NDArray[np.int64]  # [users], number of those that were new
    served: NDArray[np.bool_]  # [users], whether the user has a list

    @property
    def places(self) -> ServedPlaces:
        """The places of the lists, and how many of their videos were completed."""
        others = self.shown & ~self.new
        return ServedPlaces(
            new=int(self.new.sum()),
            new_completed=int((self.hits & self.new).sum()),
            others=int(others.sum()),
            others_completed=int((self.hits & others).sum()),
        )


def match_lists(lists: pl.DataFrame, pairs: pl.DataFrame, new_videos: pl.Series) -> MatchedWatches:
    """Compare lists with completed videos.

    lists: user_id, video_ids (best first), one row per user. pairs: user_id, video_id, distinct. new_videos: the videos
    that were new in the lists.
    """
    is_new = pl.col("video_id").is_in(new_videos.implode())
    users = pairs.group_by("user_id").agg(wanted=pl.len(), wanted_new=is_new.sum())
    users = users.sort("user_id").with_row_index("row")
    served_lists = lists.select("user_id", "video_ids").join(users.select("user_id", "row"), on="user_id")
    longest = max(served_lists["video_ids"].list.len(), default=0)
    shown = served_lists.select(
        "user_id", "row", rank=pl.int_ranges(pl.col("video_ids").list.len()), video_id="video_ids"
    )
    shown = shown.explode("rank", "video_id", empty_as_null=False)
    hit = shown.join(pairs, on=["user_id", "video_id"], how="semi")

    def mask(places: pl.DataFrame) -> NDArray[np.bool_]:
        found = np.zeros((users.height, longest), np.bool_)
        found[places["row"].to_numpy(), places["rank"].to_numpy()] = True
        return found

    served = np.zeros(users.height, np.bool_)
    served[served_lists["row"].to_numpy()] = True
    return MatchedWatches(
        user_ids=users["user_id"],
        hits=mask(hit),
        shown=mask(shown),
        new=mask(shown.filter(is_new)),
        wanted=users["wanted"].to_numpy().astype(np.int64),
        wanted_new=users["wanted_new"].to_numpy().astype(np.int64),
        served=served,
    )


@dataclass(frozen=True, kw_only=True)
class ServedBucket:
    """A bucket's files of the day, and the files with the lists that its users were served."""

    files: BucketFiles
    lists: tuple[str, ...]


@dataclass
class MeasureNextDay(beam.PTransform):
    """Measure `ServedBucket`s; return ("served", `ALL_USERS`, `WITH_A_LIST` or `OF_NEW`) and `Measured`, and if videos
    were new ("served", `PLACES`) and `ServedPlaces`, of all buckets.

    It is empty if no user completed anything. window: ends with the day. since: start of the day. ks: the cuts. new:
    the videos that were new in the lists. All labels of users without a list count as missed.
    """

    window: Window
    since: dt.datetime
    ks: Sequence[int]
    new: NewVideos | None = None

    def expand(self, buckets: beam.PCollection[ServedBucket]) -> beam.PCollection[tuple[Key, Measured | ServedPlaces]]:
        measured = beam.FlatMap(self._measure).with_output_types(tuple[Key, Measured | ServedPlaces])
        return buckets | beam.Reshuffle() | measured | beam.CombinePerKey(_merge)

    def _measure(self, bucket: ServedBucket) -> Iterator[tuple[Key, Measured | ServedPlaces]]:
        pairs = completed_since(self.window, bucket.files, self.since)
        progress.advance()
        if pairs.is_empty():
            return
        users = pairs.select("user_id").unique()
        lists = [pl.DataFrame(schema={"user_id": pl.String, "video_ids": pl.List(pl.String)})]
        for path in bucket.lists:
            lists.append(files.read_parquet(path, ["user_id", "video_ids"]).join(users, on="user_id", how="semi"))
        new_videos = read_new_videos(self.new)["video_id"] if self.new else pl.Series(dtype=pl.String)
        found = match_lists(pl.concat(lists), pairs, new_videos)
        metrics = UserMetrics.from_hits(found.hits, found.wanted, ks=self.ks)
        drawn = weights(id_digests(found.user_ids).to_numpy())
        yield ("served", ALL_USERS), Measured.from_users(metrics, drawn)
        yield ("served", WITH_A_LIST), Measured.from_users(metrics.select(found.served), drawn[found.served])
        if self.new:
            of_new = UserMetrics.from_hits(found.hits & found.new, found.wanted_new, ks=self.ks)
            yield ("served", OF_NEW), Measured.from_users(of_new, drawn)
            yield ("served", PLACES), found.places


def _merge(values: Iterable[Measured | ServedPlaces]) -> Measured | ServedPlaces:
    return reduce(lambda one, other: one.merge(other), values)  # type: ignore[arg-type]  # values of a key are alike
