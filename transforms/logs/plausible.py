"""Values that can be read but not be meant: seconds that are milliseconds, moments of 1970, years of birth that are
dates, countries that are no codes.

A single value beyond what can be is refused or taken as unknown; a column of which most values are beyond what is usual
is in another unit, and its rows are refused.
"""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytz  # type: ignore[import-untyped]

from transforms.logs.columns import Reason
from transforms.logs.countries import code

DAY, HOUR = 86_400.0, 3_600.0
LONGEST_SECONDS = {"watch_seconds": 7 * DAY, "video_seconds": 31 * DAY}  # of one row
USUAL_SECONDS = {"watch_seconds": 6 * HOUR, "video_seconds": 24 * HOUR}  # that most rows stay below
FEWEST_VALUES = 20  # from which most of them say something of their unit
FIRST_TIME = dt.datetime(1990, 1, 1, tzinfo=dt.UTC)  # 20240101, read as epoch seconds, lies in 1970
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
FIRST_BIRTH_YEAR = 1900
_FAR_FUTURE = dt.timedelta(days=5 * 365)  # that nobody schedules a premiere for
COUNTRY_CODES = frozenset(pytz.country_names)


def seconds_reasons(read: pl.DataFrame, *names: str) -> list[Reason]:
    """Reasons to refuse rows for columns of seconds: negative, too long, or all in another unit."""
    reasons: list[Reason] = []
    for name in names:
        longest = LONGEST_SECONDS[name]
        reasons += [
            (pl.col(name) < 0, f"{name} is negative"),
            (pl.col(name) > longest, f"{name} is above {longest / DAY:.0f} days: is it milliseconds?"),
        ]
        if _most_above(read[name], USUAL_SECONDS[name]):
            usual = USUAL_SECONDS[name] / HOUR
            why = f"{name} is above {usual:.0f} hours in most rows, so probably milliseconds: divide it by 1,000"
            reasons.append((read[name].is_not_null(), why))
    return reasons


def _most_above(values: pl.Series, bound: float) -> bool:
    given, above = int((values > 0).sum()), int((values > bound).sum())
    return given >= FEWEST_VALUES and 2 * above > given


def upload_reasons(zone: str, before: dt.datetime | None) -> list[Reason]:
    """Reasons to refuse videos for their `upload_time`: before 1990, but for dates of release, or years ahead.

    A moment before 1990 is a number in a wrong unit or a 0 for none. A day (00:00 in `zone` or UTC) is a film's date of
    release, but for 1970-01-01, which is 0.
    """
    time = pl.col("upload_time")
    days = [time.dt.convert_time_zone(place).dt.time() == dt.time() for place in ("UTC", zone)]
    is_day = pl.any_horizontal(days) & (time != _EPOCH)
    reasons: list[Reason] = [((time < FIRST_TIME) & ~is_day, "upload_time lies before 1990 and is no date")]
    if before is not None:
        reasons.append((time >= before + _FAR_FUTURE, "upload_time lies years in the future"))
    return reasons


def birth_years(read: pl.DataFrame, before: dt.datetime | None) -> tuple[pl.Expr, list[Reason]]:
    """(`birth_year`, null for what is no year of a living person; reasons to refuse rows if most are none)."""
    last = before.year if before is not None else 9999
    is_year = read["birth_year"].is_between(FIRST_BIRTH_YEAR, last)
    given = read["birth_year"].count()
    reasons: list[Reason] = []
    if given >= FEWEST_VALUES and 2 * int(is_year.sum()) < given:
        why = f"birth_year is not from {FIRST_BIRTH_YEAR} to {last} in most rows: write the year alone, such as 1990"
        reasons.append((read["birth_year"].is_not_null() & ~is_year, why))
    return pl.when(is_year).then("birth_year").alias("birth_year"), reasons


def unknown_countries(values: pl.Series) -> pl.Series:
    """The countries, in upper case, that are no code of ISO 3166 (two letters)."""
    codes = values.drop_nulls().to_frame("country").select(code(pl.col("country"))).to_series().drop_nulls()
    return codes.filter(~codes.is_in(sorted(COUNTRY_CODES)))
