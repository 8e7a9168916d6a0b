"""Calendar days in a time zone: a day lasts from its midnight to the next day's, exclusive.

    midnight(dt.date(2026, 11, 21), "Europe/Berlin")   # 2026-11-20 23:00 UTC
    local_dates(events["time"], "Europe/Berlin")       # the local date of each time

The midnight of a day is the first time at which local clocks show that day or a later one. Days therefore are ordered
and have no gaps or overlaps in any zone:

- If clocks skip 00:00 (Beirut), the day begins at the first time that clocks show.
- If clocks go back from 00:01 to 23:01 (St. John's until 2011), the day begins at the first 00:00 and includes the
  repeated hour.
- A day that a zone skipped (Samoa, 2011-12-30) is empty.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

UTC = "UTC"
INSTANT = dt.timedelta(microseconds=1)  # the resolution of times
_EPOCH = dt.date(1970, 1, 1)
_SECOND = dt.timedelta(seconds=1)
# The local date differs from the UTC date by no more than these days: offsets from UTC reach 16 hours, and clocks were
# once turned back by 24 hours.
_DAYS_AROUND = np.arange(-2, 4)


@lru_cache(maxsize=100_000)
def midnight(day: dt.date, zone: str) -> dt.datetime:
    """Return the start of a day in an IANA time zone, in UTC."""
    wall = dt.datetime.combine(day, dt.time(), ZoneInfo(zone))
    time = wall.astimezone(dt.UTC)  # the first of two midnights: fold is 0
    if time.astimezone(wall.tzinfo).replace(tzinfo=None) == wall.replace(tzinfo=None):
        return time
    # Clocks skip 00:00. Search the transition between the results of the offsets after (fold=1) and before it.
    before = wall.replace(fold=1).astimezone(dt.UTC)
    offset_before = wall.utcoffset()
    while time - before > _SECOND:
        middle = before + (time - before) // (2 * _SECOND) * _SECOND
        if middle.astimezone(wall.tzinfo).utcoffset() == offset_before:
            before = middle
        else:
            time = middle
    return time


def day_bounds(day: dt.date, zone: str) -> tuple[dt.datetime, dt.datetime]:
    """Return the start of a day (inclusive) and its end (exclusive), in UTC."""
    return midnight(day, zone), midnight(day + dt.timedelta(days=1), zone)


def local_date(time: dt.datetime, zone: str) -> dt.date:
    """Return the day that contains a time: midnight(day) <= time < midnight(day + 1)."""
    if zone == UTC:
        return time.astimezone(dt.UTC).date()
    around = [time.astimezone(dt.UTC).date() + dt.timedelta(days=int(n)) for n in _DAYS_AROUND]
    return max(day for day in around if midnight(day, zone) <= time)


def local_dates(times: pl.Series, zone: str) -> pl.Series:
    """Return `local_date` of each time (Datetime in UTC, microseconds): Date, with the same name and nulls."""
    utc = times.dt.date()
    if zone == UTC or utc.null_count() == utc.len():
        return utc
    days = np.unique(utc.drop_nulls().unique().to_physical().to_numpy()[:, None] + _DAYS_AROUND)
    starts = np.array([_microseconds(midnight(_EPOCH + dt.timedelta(days=int(day)), zone)) for day in days])
    positions = np.searchsorted(starts, times.to_physical().fill_null(0).to_numpy(), side="right") - 1
    dates = pl.Series(times.name, days.astype(np.int32)[positions]).cast(pl.Date)
    return dates if not utc.null_count() else pl.select(pl.when(utc.is_not_null()).then(dates)).to_series()


def _microseconds(time: dt.datetime) -> int:
    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // INSTANT
