"""Midnights and local dates in every time zone."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.days import day_bounds, local_date, local_dates, midnight

DAY = dt.timedelta(days=1)
INSTANT = dt.timedelta(microseconds=1)
ZONES = st.sampled_from(sorted(zoneinfo.available_timezones()))
DAYS = st.dates(dt.date(1900, 1, 1), dt.date(2037, 12, 31))
MOMENTS = st.datetimes(dt.datetime(1900, 1, 3), dt.datetime(2037, 12, 31), timezones=st.just(dt.UTC))
# Zone, day and start of days whose midnight is skipped, repeated, or within a repeated hour, and of ordinary days.
HARD = [
    ("Asia/Beirut", dt.date(2021, 3, 28), "2021-03-27 22:00"),
    ("America/Sao_Paulo", dt.date(2017, 10, 15), "2017-10-15 03:00"),
    ("America/Sao_Paulo", dt.date(2018, 2, 18), "2018-02-18 03:00"),
    ("America/Havana", dt.date(2025, 3, 9), "2025-03-09 05:00"),
    ("America/Havana", dt.date(2025, 11, 2), "2025-11-02 04:00"),
    ("America/St_Johns", dt.date(2006, 10, 29), "2006-10-29 02:30"),
    ("Pacific/Apia", dt.date(2011, 12, 30), "2011-12-30 10:00"),
    ("Pacific/Apia", dt.date(2011, 12, 31), "2011-12-30 10:00"),
    ("America/Toronto", dt.date(1919, 3, 31), "1919-03-31 04:30"),
    ("Europe/Berlin", dt.date(2026, 11, 21), "2026-11-20 23:00"),
    ("UTC", dt.date(2026, 11, 21), "2026-11-21 00:00"),
]


def series(moments: Sequence[dt.datetime | None]) -> pl.Series:
    return pl.Series("time", moments, pl.Datetime("us", "UTC"))


@pytest.mark.parametrize(("zone", "day", "begins"), HARD)
def test_skipped_and_repeated_midnights(zone: str, day: dt.date, begins: str) -> None:
    moment = midnight(day, zone)
    assert f"{moment:%Y-%m-%d %H:%M}" == begins and moment.tzinfo is dt.UTC
    assert moment.astimezone(ZoneInfo(zone)).date() >= day > (moment - INSTANT).astimezone(ZoneInfo(zone)).date()
    around = [dt.datetime.combine(day - DAY, dt.time(), dt.UTC) + n * dt.timedelta(minutes=7) for n in range(700)]
    dates = local_dates(series(around), zone)
    assert dates.is_sorted() and dates.to_list() == [local_date(time, zone) for time in around]


@settings(max_examples=fewer(500))
@given(ZONES, DAYS)
def test_day_begins_when_clocks_first_show_it(zone: str, day: dt.date) -> None:
    moment, clocks = midnight(day, zone), ZoneInfo(zone)
    assert moment.astimezone(clocks).date() >= day
    for hours in range(30):
        assert (moment - INSTANT - dt.timedelta(hours=hours)).astimezone(clocks).date() < day


@settings(max_examples=fewer(500))
@given(ZONES, MOMENTS)
def test_every_time_belongs_to_exactly_one_day(zone: str, moment: dt.datetime) -> None:
    around = [moment.date() + n * DAY for n in range(-3, 4)]
    holding = [day for day in around if day_bounds(day, zone)[0] <= moment < day_bounds(day, zone)[1]]
    assert holding == [local_date(moment, zone)] == local_dates(series([moment]), zone).to_list()


@given(st.one_of(ZONES, st.sampled_from([zone for zone, _, _ in HARD])), st.lists(MOMENTS, max_size=20))
def test_local_dates_equal_local_date_of_each_time(zone: str, moments: list[dt.datetime]) -> None:
    found = local_dates(series([*moments, None]), zone)
    assert found.dtype == pl.Date and found.name == "time"
    assert found.to_list() == [*(local_date(moment, zone) for moment in moments), None]


def test_midnights_are_in_order_over_years_in_every_zone() -> None:
    """Cover recent transitions of every zone. As a day ends at the next midnight, order implies completeness."""
    days = [dt.date(2005, 1, 1) + n * DAY for n in range(0, 2_900, 29)]
    for zone in zoneinfo.available_timezones():
        begins = [midnight(day, zone) for day in days]
        assert begins == sorted(begins), zone
