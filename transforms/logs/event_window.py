"""The window of one user bucket, read from the store: what every stage behind ingest works on, with no shuffle."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from transforms.core import files
from transforms.core.days import UTC
from transforms.core.event_order import sort_events
from transforms.core.frames import id_digests, mix
from transforms.logs.robots import Events, without_robots
from transforms.logs.schemas import HIDDEN_SCHEMA, IMPRESSION_SCHEMA, SEARCH_SCHEMA, WATCH_SCHEMA

_DRAW_OF_HELD_OUT_USERS = 0x686F6C646F7574  # "holdout": keeps this draw apart from the others of the same seed


@dataclass(frozen=True, kw_only=True)
class BucketFiles:
    """Paths of the files that hold one bucket's part of the window."""

    bucket: int
    watches: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    impressions: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickled as small as can be: the graph of a job holds this of every bucket."""
        tables = (self.watches, self.searches, self.users, self.hidden, self.impressions)
        return _bucket_files, (self.bucket, *map(files.pack_paths, tables))


def _bucket_files(bucket: int, *tables: Any) -> BucketFiles:
    watches, searches, users, hidden, impressions = map(files.unpack_paths, tables)
    return BucketFiles(
        bucket=bucket, watches=watches, searches=searches, users=users, hidden=hidden, impressions=impressions
    )


@dataclass(frozen=True, kw_only=True)
class Window:
    """The events of a night: start <= time < end."""

    start: dt.datetime
    end: dt.datetime
    time_zone: str = UTC  # of the days that `max_events_per_day` is counted on
    max_events_per_day: int = 0  # above it a user's day counts as no events in `events`; 0: without limit

    def events(self, bucket: BucketFiles) -> Events:
        """What is learned and served from: watches and searches of the bucket, in their order, but those of robots.

        `user_id` is an Enum of the users there are, in order: comparing and grouping numbers is what makes this fast.
        """
        found = self.unordered_events(bucket)
        users = pl.concat([found.watches["user_id"].unique(), found.searches["user_id"].unique()]).unique().sort()
        coded = pl.col("user_id").cast(pl.Enum(users))
        return replace(
            found,
            watches=sort_events(found.watches.with_columns(coded)),
            searches=sort_events(found.searches.with_columns(coded)),
        )

    def unordered_events(
        self, bucket: BucketFiles, watches: Sequence[str] = (), searches: Sequence[str] = ()
    ) -> Events:
        """The same in no particular order, all columns or some (user_id and time among them): for counting."""
        return without_robots(
            self.unordered(bucket.watches, WATCH_SCHEMA, watches),
            self.unordered(bucket.searches, SEARCH_SCHEMA, searches),
            most=self.max_events_per_day,
            zone=self.time_zone,
        )

    def events_with_impressions(self, bucket: BucketFiles) -> Events:
        """All events of the bucket in no particular order, impressions too, but for those of robots."""
        return without_robots(
            self.unordered(bucket.watches, WATCH_SCHEMA),
            self.unordered(bucket.searches, SEARCH_SCHEMA),
            self.unordered(bucket.impressions, IMPRESSION_SCHEMA),
            most=self.max_events_per_day,
            zone=self.time_zone,
        )

    def watches(self, bucket: BucketFiles) -> pl.DataFrame:
        """Watch events of the bucket, `WATCH_SCHEMA`, by user, time and the rest."""
        return sort_events(self.unordered(bucket.watches, WATCH_SCHEMA))

    def searches(self, bucket: BucketFiles) -> pl.DataFrame:
        """Search events of the bucket, `SEARCH_SCHEMA`, by user, time and query."""
        return sort_events(self.unordered(bucket.searches, SEARCH_SCHEMA))

    def unordered(self, paths: Sequence[str], schema: pl.Schema, columns: Sequence[str] = ()) -> pl.DataFrame:
        """The events of some files, all columns or some (`time` among them), in no particular order: for counting."""
        names = list(columns) or schema.names()
        if not paths:
            return pl.DataFrame(schema={name: schema[name] for name in names})
        events = files.read_parquets(paths, names)
        return events.filter(pl.col("time").is_between(self.start, self.end, closed="left"))


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Which events are kept out of everything learned: those from `start` on, of a share of users drawn by digest."""

    start: dt.datetime
    share: float
    seed: int

    def users(self, user_ids: pl.Series) -> pl.Series:
        """For each user id, whether the user is held out: boolean of the same length."""
        drawn = mix(self.seed, _DRAW_OF_HELD_OUT_USERS, id_digests(user_ids).to_numpy())
        return pl.Series((drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53 < self.share)

    def learnable(self, events: pl.DataFrame) -> pl.DataFrame:
        """The events (with `user_id` and `time`) that may be learned from."""
        late = (events["time"] >= self.start).arg_true()
        held_out = late.filter(self.users(events["user_id"].gather(late)))
        if held_out.is_empty():
            return events
        kept = np.ones(events.height, np.bool_)
        kept[held_out.to_numpy()] = False
        return events.filter(kept)


def read_users(bucket: BucketFiles) -> pl.DataFrame:
    """The bucket's rows of the users table, one a user; empty, with `user_id` alone, where there is no such table."""
    if not bucket.users:
        return pl.DataFrame(schema={"user_id": pl.String})
    return pl.concat([files.read_parquet(path) for path in bucket.users])


def read_hidden(bucket: BucketFiles) -> pl.DataFrame:
    """user_id, video_id of the bucket's pairs that are never to be shown."""
    return pl.concat([pl.DataFrame(schema=HIDDEN_SCHEMA), *(files.read_parquet(path) for path in bucket.hidden)])
