"""Drop the events of user-days with too many events to be human (paper, 3.4: few users must not dominate the loss).

events = drop_robot_days(watches, searches, max_events=1_000, zone="Europe/Berlin")
events.watches, events.searches
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from transforms.core import days
from transforms.logs.schemas import IMPRESSION_SCHEMA


@dataclass(frozen=True, kw_only=True)
class Events:
    """Watches, searches and impressions without those of robots, in their original order, and what was dropped."""

    watches: pl.DataFrame
    searches: pl.DataFrame
    impressions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=IMPRESSION_SCHEMA))
    robot_days: int = 0  # user-days
    robot_watches: int = 0
    robot_searches: int = 0


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
    robots = robot_days(watches, searches, max_events=max_events, zone=zone)
    if robots.is_empty():
        return Events(watches=watches, searches=searches, impressions=impressions)
    kept = [_drop_days(events, robots, zone) for events in (watches, searches, impressions)]
    return Events(
        watches=kept[0],
        searches=kept[1],
        impressions=kept[2],
        robot_days=robots.height,
        robot_watches=watches.height - kept[0].height,
        robot_searches=searches.height - kept[1].height,
    )


def robot_days(watches: pl.DataFrame, searches: pl.DataFrame, *, max_events: int, zone: str = days.UTC) -> pl.DataFrame:
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


def _drop_days(events: pl.DataFrame, robots: pl.DataFrame, zone: str) -> pl.DataFrame:
    dated = _with_day(events, zone)
    return dated.join(robots, on=["user_id", "day"], how="anti", maintain_order="left").drop("day")


def _with_day(events: pl.DataFrame, zone: str) -> pl.DataFrame:
    return events.with_columns(days.local_dates(events["time"], zone).alias("day"))
