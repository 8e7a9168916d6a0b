"""User-days with too many events to be human: none of their events counts (paper, 3.4: a few users must not rule what
is learned).

    events = without_robots(watches, searches, most=1_000, zone="Europe/Berlin")
    events.watches, events.searches  # what counts
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from transforms.core import days
from transforms.logs.schemas import IMPRESSION_SCHEMA


@dataclass(frozen=True, kw_only=True)
class Events:
    """Watches, searches and impressions that count, in the order they came in; and how much was left out."""

    watches: pl.DataFrame
    searches: pl.DataFrame
    impressions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=IMPRESSION_SCHEMA))
    robot_days: int = 0  # days of users
    robot_watches: int = 0
    robot_searches: int = 0


def without_robots(
    watches: pl.DataFrame,
    searches: pl.DataFrame,
    impressions: pl.DataFrame | None = None,
    *,
    most: int,
    zone: str = days.UTC,
) -> Events:
    """Events without the days of users who have more than `most` watches and searches on them; 0: without limit.

    All with user_id and time, in any order; impressions do not count, they are left out with the rest of such a day.
    Days are those of the time zone `zone`.
    """
    shown = pl.DataFrame(schema=IMPRESSION_SCHEMA) if impressions is None else impressions
    busy = robot_days(watches, searches, most=most, zone=zone)
    if busy.is_empty():
        return Events(watches=watches, searches=searches, impressions=shown)
    kept, asked, shown = (_leave_out(events, busy, zone) for events in (watches, searches, shown))
    return Events(
        watches=kept,
        searches=asked,
        impressions=shown,
        robot_days=busy.height,
        robot_watches=watches.height - kept.height,
        robot_searches=searches.height - asked.height,
    )


def robot_days(watches: pl.DataFrame, searches: pl.DataFrame, *, most: int, zone: str = days.UTC) -> pl.DataFrame:
    """user_id, day of more than `most` events, in no particular order; none if `most` is 0."""
    events = [frame.select("user_id", "time") for frame in (watches, searches)] if most else []
    busy = pl.concat([_with_more_than(frame, most // 2) for frame in events]) if most else pl.DataFrame()
    if busy.is_empty():
        return pl.DataFrame(schema={"user_id": pl.String, "day": pl.Date})
    theirs = pl.concat(events).join(busy, on="user_id", how="semi")
    return _with_day(theirs, zone).group_by("user_id", "day").len().filter(pl.col("len") > most).drop("len")


def _with_more_than(events: pl.DataFrame, n: int) -> pl.DataFrame:
    """user_id of those with more than n of the events: whoever has more than 2n in two tables is among those of one.

    Spares all others a count by day, which takes four times as long.
    """
    return events.group_by("user_id").len().filter(pl.col("len") > n).select("user_id")


def _leave_out(events: pl.DataFrame, busy: pl.DataFrame, zone: str) -> pl.DataFrame:
    dated = _with_day(events, zone)
    return dated.join(busy, on=["user_id", "day"], how="anti", maintain_order="left").drop("day")


def _with_day(events: pl.DataFrame, zone: str) -> pl.DataFrame:
    return events.with_columns(days.local_dates(events["time"], zone).alias("day"))
