"""Implausible values in every column with a unit."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pytest

from transforms.logs.parsing import Parsed, ParseRules, parse_impressions, parse_users, parse_videos, parse_watches
from transforms.logs.plausible import unknown_countries

BEFORE = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
AT = dt.datetime(2026, 11, 20, 10, tzinfo=dt.UTC)
RULES = ParseRules(before=BEFORE)
HOUR, DAY = 3_600.0, 86_400.0


def table(**columns: list[Any]) -> pl.DataFrame:
    height = max(map(len, columns.values()))
    usual = {"user_id": ["u"] * height, "video_id": [f"v{at}" for at in range(height)], "time": [AT] * height}
    return pl.DataFrame({**usual, **columns}, strict=False).with_row_index("row", 1).cast({"row": pl.Int64})


def reasons(parsed: Parsed) -> list[str]:
    return sorted(set(parsed.rejected["reason"]))


def test_too_large_value_is_rejected() -> None:
    parsed = parse_watches(table(watch_seconds=[7 * DAY, 7 * DAY + 1, 8 * HOUR, None]), RULES)
    assert parsed.valid["watch_seconds"].to_list() == [7 * DAY, 8 * HOUR, None]
    assert reasons(parsed) == ["watch_seconds is above 7 days: is it milliseconds?"]
    lengths = parse_videos(table(video_seconds=[31 * DAY, 32 * DAY]))
    assert lengths.valid.height == 1 and reasons(lengths) == ["video_seconds is above 31 days: is it milliseconds?"]


IN_HOURS = "{} is above {} hours in most rows, so probably milliseconds: divide it by 1,000"


@pytest.mark.parametrize("long", [10, 11])
def test_column_in_milliseconds_is_rejected(long: int) -> None:
    """More than half of the values are unusual. Rows without a value stay valid, and so do few long watches."""
    seconds = [45_000.0] * long + [30.0] * (21 - long - 1) + [None, 0.0]
    watches = parse_watches(table(watch_seconds=seconds), RULES)
    shown = parse_impressions(
        table(watch_seconds=seconds, page_id=["p"] * 22, clicked=[True] * 20 + [False] * 2), RULES
    )
    lengths = parse_videos(table(video_seconds=[value and value * 4 for value in seconds]))
    if long == 10:
        assert not reasons(watches) + reasons(shown) + reasons(lengths)
    else:
        assert reasons(watches) == reasons(shown) == [IN_HOURS.format("watch_seconds", 6)]
        assert reasons(lengths) == [IN_HOURS.format("video_seconds", 24)]
        assert watches.valid["watch_seconds"].to_list() == [None]


def test_few_long_watches_are_accepted() -> None:
    assert not reasons(parse_watches(table(watch_seconds=[45_000.0] * 19), RULES))


def uploads(values: list[Any], zone: str = "UTC", before: dt.datetime | None = BEFORE) -> Parsed:
    return parse_videos(table(upload_time=values).drop("user_id", "time"), zone, before)


NO_DATE, AHEAD = "upload_time is before 1990 and is not a date", "upload_time lies years in the future"


@pytest.mark.parametrize(
    ("value", "zone", "reason"),
    [
        (0, "UTC", NO_DATE),
        ("1970-01-01", "UTC", NO_DATE),
        (dt.datetime(1970, 1, 20, 16, 13, 20), "UTC", NO_DATE),
        (20240101, "UTC", NO_DATE),
        ("1939-12-15", "UTC", None),
        ("1975-06-20", "America/New_York", None),
        ("1989-12-31T23:00:00Z", "UTC", NO_DATE),
        ("1990-01-01T00:00:01Z", "UTC", None),
        ("2035-01-01T00:00:01Z", "UTC", AHEAD),
        ("9999-12-31", "UTC", AHEAD),
        (None, "UTC", None),
    ],
)
def test_upload_times_before_1990_must_be_dates(value: Any, zone: str, reason: str | None) -> None:
    assert reasons(uploads([value], zone)) == ([reason] if reason else [])


def test_future_premiere_is_not_available() -> None:
    values = ["2026-11-21T23:59:59Z", "2026-11-22T00:00:00Z", None]
    assert uploads(values).valid["available"].to_list() == [True, False, True]
    assert uploads(values, before=None).valid["available"].to_list() == [True] * 3


def test_implausible_birth_year_is_unknown() -> None:
    years = [1899, 1900, 2026, 2027, 0, 85, 19900101, None]
    parsed = parse_users(table(birth_year=years), before=BEFORE)
    assert parsed.valid["birth_year"].to_list() == [None, 1900, 2026, *[None] * 5] and not reasons(parsed)


def test_column_of_birth_dates_is_rejected() -> None:
    parsed = parse_users(table(birth_year=[19900101] * 20 + [1990, None]), before=BEFORE)
    assert parsed.valid["birth_year"].to_list() == [1990, None]
    assert reasons(parsed) == ["birth_year is not from 1900 to 2026 in most rows: write only the year, such as 1990"]


def test_unknown_countries() -> None:
    values = pl.Series(["de", " US ", "UK", "Germany", None, ""])
    assert unknown_countries(values).to_list() == ["UK", "GERMANY"]
