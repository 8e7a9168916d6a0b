"""Detect implausible values: milliseconds in columns of seconds, times in 1970, birth dates instead of birth years,
and countries that are not ISO codes.

A single impossible value is rejected or becomes unknown. If most values of a column are unusual, the column is in the
wrong unit, and its rows are rejected.
"""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytz  # type: ignore[import-untyped]

from transforms.logs.columns import Reason
from transforms.logs.countries import country_code

DAY, HOUR = 86_400.0, 3_600.0
MAX_SECONDS = {"watch_seconds": 7 * DAY, "video_seconds": 31 * DAY}  # larger values are rejected
USUAL_SECONDS = {"watch_seconds": 6 * HOUR, "video_seconds": 24 * HOUR}  # most values are smaller
MIN_VALUES = 20  # fewer values do not show the unit of a column
FIRST_TIME = dt.datetime(1990, 1, 1, tzinfo=dt.UTC)  # 20240101, read as epoch seconds, is in 1970
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
FIRST_BIRTH_YEAR = 1900
_FAR_FUTURE = dt.timedelta(days=5 * 365)  # premieres are not scheduled so early
COUNTRY_CODES = frozenset(pytz.country_names)


def seconds_reasons(read: pl.DataFrame, *names: str) -> list[Reason]:
    """Return reasons to reject values of columns in seconds: negative, too long, or a column in the wrong unit."""
    reasons: list[Reason] = []
    for name in names:
        longest = MAX_SECONDS[name]
        reasons += [
            (pl.col(name) < 0, f"{name} is negative"),
            (pl.col(name) > longest, f"{name} is above {longest / DAY:.0f} days: is it milliseconds?"),
        ]
        if _most_above(read[name], USUAL_SECONDS[name]):
            usual = USUAL_SECONDS[name] / HOUR
            reason = f"{name} is above {usual:.0f} hours in most rows, so probably milliseconds: divide it by 1,000"
            reasons.append((read[name].is_not_null(), reason))
    return reasons


def _most_above(values: pl.Series, bound: float) -> bool:
    positive, above = int((values > 0).sum()), int((values > bound).sum())
    return positive >= MIN_VALUES and 2 * above > positive


def upload_reasons(zone: str, before: dt.datetime | None) -> list[Reason]:
    """Return reasons to reject videos for their `upload_time`: before 1990 and not a release date, or years ahead.

    A time before 1990 is a number in the wrong unit or a 0 that means missing. Midnight (in `zone` or UTC) is the
    release date of a film, except 1970-01-01, which is 0.
    """
    time = pl.col("upload_time")
    midnights = [time.dt.convert_time_zone(name).dt.time() == dt.time() for name in ("UTC", zone)]
    is_date = pl.any_horizontal(midnights) & (time != _EPOCH)
    reasons: list[Reason] = [((time < FIRST_TIME) & ~is_date, "upload_time is before 1990 and is not a date")]
    if before is not None:
        reasons.append((time >= before + _FAR_FUTURE, "upload_time lies years in the future"))
    return reasons


def birth_years(read: pl.DataFrame, before: dt.datetime | None) -> tuple[pl.Expr, list[Reason]]:
    """Return `birth_year` with implausible years as null, and reasons to reject them if most years are implausible."""
    last = before.year if before is not None else 9999
    is_year = read["birth_year"].is_between(FIRST_BIRTH_YEAR, last)
    present = read["birth_year"].count()
    reasons: list[Reason] = []
    if present >= MIN_VALUES and 2 * int(is_year.sum()) < present:
        reason = f"birth_year is not from {FIRST_BIRTH_YEAR} to {last} in most rows: write only the year, such as 1990"
        reasons.append((read["birth_year"].is_not_null() & ~is_year, reason))
    return pl.when(is_year).then("birth_year").alias("birth_year"), reasons


def unknown_countries(values: pl.Series) -> pl.Series:
    """Return the countries, in upper case, that are not two-letter codes of ISO 3166."""
    codes = values.drop_nulls().to_frame("country").select(country_code(pl.col("country"))).to_series().drop_nulls()
    return codes.filter(~codes.is_in(sorted(COUNTRY_CODES)))
