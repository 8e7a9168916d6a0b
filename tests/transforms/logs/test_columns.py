"""Conversion of columns of any type, compared with plain Python."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.logs.columns import RawColumns

AT = dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)  # epoch second 1,700,000,000


def masks(columns: RawColumns, read: pl.DataFrame) -> dict[str, list[bool]]:
    """Return the rows that each reason rejects."""
    return {reason: read.select(rejected=mask)["rejected"].to_list() for mask, reason in columns.reasons(read)}


def times(values: Any, zone: str = "UTC") -> list[dt.datetime | None]:
    """Return each converted time; None if it is unreadable."""
    raw = pl.DataFrame({"time": values}, strict=False)
    columns = RawColumns(raw)
    read = raw.select(columns.time(zone))
    unreadable = masks(columns, read)["time cannot be read"]
    found = read["time"].to_list()
    assert [moment is None for moment in found] == unreadable
    return found


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[arg-type, misc]


ISO_TIMES = {
    "2024-01-02T03:04:05Z": utc(2024, 1, 2, 3, 4, 5),
    "2024-01-02 03:04:05": utc(2024, 1, 2, 3, 4, 5),
    "2024-01-02T03:04:05+02:00": utc(2024, 1, 2, 1, 4, 5),
    "2024-01-02T03:04:05-0530": utc(2024, 1, 2, 8, 34, 5),
    "2024-01-02T03:04:05 +02": utc(2024, 1, 2, 1, 4, 5),
    "2024-01-02T03:04": utc(2024, 1, 2, 3, 4),
    "2024-01-02": utc(2024, 1, 2),
    " 2024-01-02T03:04:05.5Z ": utc(2024, 1, 2, 3, 4, 5, 500_000),
    "2024-01-02T03:04:05.123456789Z": utc(2024, 1, 2, 3, 4, 5, 123_456),
    "2024-02-29T00:00:00Z": utc(2024, 2, 29),
    "1700000000": AT,
    "1700000000000": AT,
    "1700000000.25": AT + dt.timedelta(seconds=0.25),
    "700000000000": utc(1992, 3, 7, 20, 26, 40),
}


@pytest.mark.parametrize("text", ISO_TIMES)
def test_time_as_text(text: str) -> None:
    assert times([text]) == [ISO_TIMES[text]]


BAD_TIMES = ["yesterday", "2024-13-01", "2023-02-29", "2024-01-02T25:00", "nan", "inf", "1e15", "2024-01-02T03:04:05+2"]


@pytest.mark.parametrize("text", BAD_TIMES)
def test_unreadable_times(text: str) -> None:
    assert times([text]) == [None]


@given(st.datetimes(dt.datetime(1990, 1, 2), dt.datetime(2100, 1, 1)), st.integers(-14 * 60, 14 * 60), st.booleans())
def test_times_formatted_by_python_are_read(moment: dt.datetime, minutes: int, colon: bool) -> None:
    zone = dt.timezone(dt.timedelta(minutes=minutes))
    local = moment.replace(tzinfo=zone)
    text = local.isoformat(sep=" " if colon else "T", timespec="microseconds")
    assert times([text if colon else text[:-3] + text[-2:]]) == [local.astimezone(dt.UTC)]


@given(st.integers(-(10**10), 10**10 - 1), st.integers(0, 999_999))
def test_epoch_times_of_every_type_agree(seconds: int, micros: int) -> None:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds, microseconds=micros // 1000 * 1000)
    if not 1990 <= moment.year < 2200:
        moment = moment.replace(year=2004)  # has a 29 February
    exact = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)
    assert times([exact / 1000]) == times([str(Decimal(exact) / 1000)]) == [moment]
    assert times(pl.Series([Decimal(exact) / 1000], dtype=pl.Decimal(20, 3))) == [moment]
    if exact % 1000 == 0:
        assert times([exact // 1000]) == times([float(exact // 1000)]) == [moment]
    if abs(exact) >= 10**11:
        assert times([exact]) == times([float(exact)]) == times([str(exact)]) == [moment]


def test_timestamps_of_every_unit_and_zone_agree() -> None:
    naive = AT.replace(tzinfo=None)
    for unit in ("ms", "us", "ns"):
        assert times(pl.Series([naive], dtype=pl.Datetime(unit))) == [AT]
        assert times(pl.Series([AT], dtype=pl.Datetime(unit, "UTC")).dt.convert_time_zone("Asia/Tokyo")) == [AT]
    assert times([dt.date(2024, 1, 2)]) == [utc(2024, 1, 2)]
    assert times([dt.time(1, 2)]) == [None]


def test_times_without_offset_are_local_times_of_the_configured_zone() -> None:
    berlin = {
        "2024-07-01 12:00": utc(2024, 7, 1, 10),
        "2024-01-01 12:00": utc(2024, 1, 1, 11),
        "2024-01-01 12:00Z": utc(2024, 1, 1, 12),
        "2024-07-01": utc(2024, 6, 30, 22),
        "2024-03-31 02:30": None,  # the clocks went from 2 to 3
        "2024-10-27 02:30": utc(2024, 10, 27, 0, 30),  # came twice: the first
        "1700000000": AT,
    }
    assert times(list(berlin), "Europe/Berlin") == list(berlin.values())
    naive = [dt.datetime(2024, 7, 1, 12), dt.datetime(2024, 3, 31, 2, 30)]
    assert times(naive, "Europe/Berlin") == [utc(2024, 7, 1, 10), None]
    assert times([dt.date(2024, 7, 1)], "Europe/Berlin") == [utc(2024, 6, 30, 22)]


@given(
    st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2037, 1, 1)),
    st.sampled_from(["America/New_York", "Asia/Kolkata"]),
)
def test_local_times_agree_with_zoneinfo(moment: dt.datetime, zone: str) -> None:
    there = moment.replace(tzinfo=ZoneInfo(zone), fold=0)
    exists = there.astimezone(dt.UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == moment
    expected = there.astimezone(dt.UTC) if exists else None
    assert times([moment], zone) == times([moment.isoformat(timespec="microseconds")], zone) == [expected]


def test_durations_are_converted_to_seconds() -> None:
    units: list[tuple[Literal["ms", "us", "ns"], int]] = [("ms", 10**3), ("us", 10**6), ("ns", 10**9)]
    for unit, ticks in units:
        raw = pl.DataFrame({"watch_seconds": pl.Series([ticks * 3 // 2, None], dtype=pl.Int64).cast(pl.Duration(unit))})
        columns = RawColumns(raw)
        read = raw.select(columns.number("watch_seconds"))
        assert read["watch_seconds"].to_list() == [1.5, None]
        assert not any(any(mask) for mask in masks(columns, read).values())


def test_categories_are_read_as_their_values() -> None:
    values = {"watch_seconds": ["1.5", "x"], "completed": ["true", "no"], "time": ["2024-01-02", "1700000000"]}
    raw = pl.DataFrame(values).cast(pl.Categorical)
    columns = RawColumns(raw)
    read = raw.select(columns.number("watch_seconds"), columns.boolean("completed"), columns.time("UTC"))
    assert read.rows() == [(1.5, True, utc(2024, 1, 2)), (None, False, AT)]
    rejected = {reason: mask for reason, mask in masks(columns, read).items() if any(mask)}
    assert rejected == {"watch_seconds cannot be read": [False, True]}
