"""What a day is: in a time zone, the moments from one midnight on and before the next.

    midnight(dt.date(2026, 11, 21), "Europe/Berlin")   # 2026-11-20 23:00 UTC
    day_of(events["time"], "Europe/Berlin")            # the day of each moment

The midnight of a day is the first moment at which clocks of the zone show that day or a later one. So days never
overlap, have no gaps, and come in order in every zone: where clocks skip 00:00 (Beirut), the day begins at the first
time they show; where they go back from 00:01 to 23:01 (St. John's until 2011), the day has begun at the first 00:00 and
the repeated hour belongs to it; a day that a zone skipped (Samoa, 2011-12-30) is empty.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

UTC = "UTC"
INSTANT = dt.timedelta(microseconds=1)  # what moments are counted in
_EPOCH = dt.date(1970, 1, 1)
_SECOND = dt.timedelta(seconds=1)
# Days around a moment's UTC day among which its day in any zone lies: clocks differ by up to 16 hours from UTC, and
# were once turned back by 24 hours.
_DAYS_AROUND = np.arange(-2, 4)


@lru_cache(maxsize=100_000)
def midnight(day: dt.date, zone: str) -> dt.datetime:
    """The first moment of a day in an IANA time zone, in UTC."""
    wall = dt.datetime.combine(day, dt.time(), ZoneInfo(zone))
    moment = wall.astimezone(dt.UTC)  # the first of two midnights: fold is 0
    if moment.astimezone(wall.tzinfo).replace(tzinfo=None) == wall.replace(tzinfo=None):
        return moment
    # Clocks skip 00:00. They did so after `before`, at which the offset behind the gap is read as if it held already.
    before = wall.replace(fold=1).astimezone(dt.UTC)
    skipped = wall.utcoffset()
    while moment - before > _SECOND:
        middle = before + (moment - before) // (2 * _SECOND) * _SECOND
        if middle.astimezone(wall.tzinfo).utcoffset() == skipped:
            before = middle
        else:
            moment = middle
    return moment


def span(day: dt.date, zone: str) -> tuple[dt.datetime, dt.datetime]:
    """The first moment of a day, and that of the next day, in UTC."""
    return midnight(day, zone), midnight(day + dt.timedelta(days=1), zone)


def day_at(moment: dt.datetime, zone: str) -> dt.date:
    """The day of one moment: midnight(day) <= moment < midnight(day + 1)."""
    if zone == UTC:
        return moment.astimezone(dt.UTC).date()
    around = [moment.astimezone(dt.UTC).date() + dt.timedelta(days=int(n)) for n in _DAYS_AROUND]
    return max(day for day in around if midnight(day, zone) <= moment)


def day_of(moments: pl.Series, zone: str) -> pl.Series:
    """The day of each moment (Datetime in UTC, microseconds) -> Date of the same name and length; null stays null."""
    utc = moments.dt.date()
    if zone == UTC or utc.null_count() == utc.len():
        return utc
    days = np.unique(utc.drop_nulls().unique().to_physical().to_numpy()[:, None] + _DAYS_AROUND)
    begins = np.array([_microseconds(midnight(_EPOCH + dt.timedelta(days=int(day)), zone)) for day in days])
    at = np.searchsorted(begins, moments.to_physical().fill_null(0).to_numpy(), side="right") - 1
    found = pl.Series(moments.name, days.astype(np.int32)[at]).cast(pl.Date)
    return found if not utc.null_count() else pl.select(pl.when(utc.is_not_null()).then(found)).to_series()


def _microseconds(moment: dt.datetime) -> int:
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // INSTANT
