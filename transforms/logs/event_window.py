"""Read the events of one user bucket within a night's window from the store, without a shuffle and without robots.

Robots are user-days with too many events to be human (paper, 3.4: few users must not dominate the loss).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from transforms.core import days, files
from transforms.core.digests import in_share
from transforms.core.event_order import sort_events
from transforms.logs.schemas import HIDDEN_SCHEMA, IMPRESSION_SCHEMA, SEARCH_SCHEMA, WATCH_SCHEMA

COMPLETED_COLUMNS = ("user_id", "time", "video_id", "completed")  # columns of watches
_HOLDOUT_SEED = 0x686F6C646F7574  # "holdout": makes this draw independent of others with the same seed


@dataclass(frozen=True, kw_only=True)
class Events:
    """Watches, searches and impressions without those of robots, in their original order, and what was dropped."""

    watches: pl.DataFrame
    searches: pl.DataFrame
    impressions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=IMPRESSION_SCHEMA))
    robot_days: int = 0  # user-days
    robot_watches: int = 0
    robot_searches: int = 0

    def of_users(self, users: pl.Series) -> Events:
        """Return the events of some users, with the counts of all. users: ids of the same type as those of events."""
        own = pl.col("user_id").is_in(users.implode())
        tables = {name: getattr(self, name).filter(own) for name in ("watches", "searches", "impressions")}
        return replace(self, **tables)


@dataclass(frozen=True, kw_only=True)
class BucketFiles:
    """Paths of the files that contain one bucket's events of the window."""

    bucket: int
    watches: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    impressions: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle paths in a compact form, because a job's graph contains this object for every bucket."""
        tables = (self.watches, self.searches, self.users, self.hidden, self.impressions)
        return _bucket_files, (self.bucket, *map(files.pack_paths, tables))


def _bucket_files(bucket: int, *tables: files.PackedPaths) -> BucketFiles:
    watches, searches, users, hidden, impressions = map(files.unpack_paths, tables)
    return BucketFiles(
        bucket=bucket, watches=watches, searches=searches, users=users, hidden=hidden, impressions=impressions
    )


@dataclass(frozen=True, kw_only=True)
class Window:
    """The events of a night: start <= time < end."""

    start: dt.datetime
    end: dt.datetime
    time_zone: str = days.UTC  # of the days for `max_events_per_day`
    max_events_per_day: int = 0  # user-days with more events are robots and dropped; 0: no limit

    def events(self, bucket: BucketFiles) -> Events:
        """Return the bucket's watches and searches without those of robots, sorted by user, time and the rest.

        `user_id` is an Enum with sorted categories, because comparing and grouping integers is fast.
        """
        events = self.unordered_events(bucket)
        users = pl.concat([events.watches["user_id"].unique(), events.searches["user_id"].unique()]).unique().sort()
        coded = pl.col("user_id").cast(pl.Enum(users))
        return replace(
            events,
            watches=sort_events(events.watches.with_columns(coded)),
            searches=sort_events(events.searches.with_columns(coded)),
        )

    def unordered_events(
        self, bucket: BucketFiles, watches: Sequence[str] = (), searches: Sequence[str] = ()
    ) -> Events:
        """Return the same events as `events`, unsorted. watches, searches: columns to read, with user_id and time."""
        return drop_robot_days(
            self.read_events(bucket.watches, WATCH_SCHEMA, watches),
            self.read_events(bucket.searches, SEARCH_SCHEMA, searches),
            max_events=self.max_events_per_day,
            zone=self.time_zone,
        )

    def events_with_impressions(self, bucket: BucketFiles) -> Events:
        """Return the bucket's watches, searches and impressions without those of robots, unsorted."""
        return drop_robot_days(
            self.read_events(bucket.watches, WATCH_SCHEMA),
            self.read_events(bucket.searches, SEARCH_SCHEMA),
            self.read_events(bucket.impressions, IMPRESSION_SCHEMA),
            max_events=self.max_events_per_day,
            zone=self.time_zone,
        )

    def read_events(
        self,
        paths: Sequence[str],
        schema: pl.Schema,
        columns: Sequence[str] = (),
        where: pl.Expr | None = None,
    ) -> pl.DataFrame:
        """Return the events of some files within the window, unsorted. columns: all if empty, else with `time`. where:
        a condition on these columns."""
        names = list(columns) or schema.names()
        if not paths:
            return pl.DataFrame(schema={name: schema[name] for name in names})
        events = files.read_parquets(paths, names, schema, where)
        return events.filter(pl.col("time").is_between(self.start, self.end, closed="left"))


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Events that are excluded from training: those at or after `start` of a share of users, drawn by digest."""

    start: dt.datetime
    share: float
    seed: int

    def contains(self, user_ids: pl.Series) -> pl.Series:
        """Return whether each user is held out: Boolean, of the same length as `user_ids`."""
        return in_share(user_ids, self.share, self.seed, _HOLDOUT_SEED)

    def learnable(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return the events (with `user_id` and `time`) that are not held out."""
        late = (events["time"] >= self.start).arg_true()
        held_out = late.filter(self.contains(events["user_id"].gather(late)))
        if held_out.is_empty():
            return events
        keep = np.ones(events.height, np.bool_)
        keep[held_out.to_numpy()] = False
        return events.filter(keep)


def drop_robot_days(
    watches: pl.DataFrame,
    searches: pl.DataFrame,
    impressions: pl.DataFrame | None = None,
    *,
    max_events: int,
    zone: str = days.UTC,
) -> Events:
    """Drop the events of user-days with more than `max_events` watches and searches; 0 means no limit.

    All frames have user_id and time, in any order. Impressions are not counted, but dropped with the other events of
    such a day. Days are those of the time zone `zone`.
    """
    impressions = pl.DataFrame(schema=IMPRESSION_SCHEMA) if impressions is None else impressions
    robots = _robot_days(watches, searches, max_events=max_events, zone=zone)
    if robots.is_empty():
        return Events(watches=watches, searches=searches, impressions=impressions)
    kept_watches, kept_searches, kept_impressions = (
        _with_day(events, zone).join(robots, on=["user_id", "day"], how="anti", maintain_order="left").drop("day")
        for events in (watches, searches, impressions)
    )
    return Events(
        watches=kept_watches,
        searches=kept_searches,
        impressions=kept_impressions,
        robot_days=robots.height,
        robot_watches=watches.height - kept_watches.height,
        robot_searches=searches.height - kept_searches.height,
    )


def _robot_days(watches: pl.DataFrame, searches: pl.DataFrame, *, max_events: int, zone: str) -> pl.DataFrame:
    """Return `user_id` and `day` of user-days with more than `max_events` events, unsorted; none if it is 0."""
    events = [frame.select("user_id", "time") for frame in (watches, searches)] if max_events else []
    users = pl.concat([_with_more_than(frame, max_events // 2) for frame in events]) if max_events else pl.DataFrame()
    if users.is_empty():
        return pl.DataFrame(schema={"user_id": pl.String, "day": pl.Date})
    candidates = pl.concat(events).join(users, on="user_id", how="semi")
    return _with_day(candidates, zone).group_by("user_id", "day").len().filter(pl.col("len") > max_events).drop("len")


def _with_more_than(events: pl.DataFrame, n: int) -> pl.DataFrame:
    """Return the `user_id` of users with more than n events: a user with more than 2n in two tables is one of them.

    Counting by day takes four times as long, so only these users are counted by day.
    """
    return events.group_by("user_id").len().filter(pl.col("len") > n).select("user_id")


def _with_day(events: pl.DataFrame, zone: str) -> pl.DataFrame:
    return events.with_columns(days.local_dates(events["time"], zone).alias("day"))


def read_users(bucket: BucketFiles) -> pl.DataFrame:
    """Return the bucket's rows of the users table, one per user; without such a table, an empty `user_id` column."""
    if not bucket.users:
        return pl.DataFrame(schema={"user_id": pl.String})
    return pl.concat([files.read_parquet(path) for path in bucket.users])


def read_hidden(bucket: BucketFiles) -> pl.DataFrame:
    """Return the bucket's pairs of user_id and video_id that must never be shown."""
    return pl.concat([pl.DataFrame(schema=HIDDEN_SCHEMA), *(files.read_parquet(path) for path in bucket.hidden)])
