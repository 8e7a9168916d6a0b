"""Doctor's check of units and placeholder values: columns that parse, but whose values are implausible."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, problem, warning
from pipelines.logs.log_samples import TableSample
from transforms.logs.columns import RawColumns
from transforms.logs.plausible import FIRST_BIRTH_YEAR, HOUR, USUAL_SECONDS, unknown_countries

SECONDS = (
    *(("watches", "watch_seconds"), ("watches", "video_seconds")),
    *(("impressions", "watch_seconds"), ("videos", "video_seconds")),
)
COUNTRIES = (("watches", "country"), ("users", "country"), ("videos", "countries"))
FEWEST_VALUES = 3
LONG_SHARE = 1 / 3  # of the usual maximum: a median above this share causes a warning, above the maximum a problem
FEW_UNKNOWN = 0.01  # tolerated share of countries that are not codes


def units(request: DoctorRequest) -> Iterator[Finding]:
    """Check for seconds that are milliseconds, uploads in the future, and invalid birth years and countries."""
    samples = request.logs.samples
    for table, column in SECONDS:
        if table in samples:
            yield from _seconds(table, column, samples[table])
    if "videos" in samples:
        yield from _uploads(request, samples["videos"])
    if "users" in samples:
        yield from _birth_years(samples["users"])
    for table, column in COUNTRIES:
        if table in samples:
            yield from _countries(table, column, samples[table])


def _numbers(sample: TableSample, column: str) -> pl.Series:
    """Return a column of numbers from the raw rows."""
    parts = [
        part.raw.select(RawColumns(part.raw).number(column)) for part in sample.parts if column in part.raw.columns
    ]
    return pl.concat(parts).to_series().drop_nulls() if parts else pl.Series(column, [], pl.Float32)


def _seconds(table: str, column: str, sample: TableSample) -> Iterator[Finding]:
    numbers = _numbers(sample, column)
    given = numbers.filter(numbers > 0)
    typical = float(given.median() or 0)  # type: ignore[arg-type]
    if len(given) < FEWEST_VALUES or typical <= LONG_SHARE * USUAL_SECONDS[column]:
        return
    what = f"half of the values of {column} are above {typical / HOUR:,.1f} hours: they are probably milliseconds"
    fix = "divide them by 1,000 where the logs are written, or leave the column out"
    yield (problem if typical > USUAL_SECONDS[column] else warning)(f"units.{table}", what, fix)


def _uploads(request: DoctorRequest, sample: TableSample) -> Iterator[Finding]:
    times = sample.valid["upload_time"]
    ahead = int((times >= request.night.dates.future).sum())
    if ahead:
        what = f"{ahead:,} of {times.count():,} upload times are after the night of {request.night.date}"
        yield warning("units.videos", what, "these videos are not available yet; if they are, correct upload_time")


def _birth_years(sample: TableSample) -> Iterator[Finding]:
    given = len(_numbers(sample, "birth_year"))
    unknown = given - sample.valid["birth_year"].count()
    if unknown > 0:
        what = f"{unknown:,} of {given:,} values of birth_year are not a year from {FIRST_BIRTH_YEAR} to this one"
        yield warning("units.users", what, "these ages are unknown to the model; write only the year, such as 1990")


def _countries(table: str, column: str, sample: TableSample) -> Iterator[Finding]:
    values = sample.valid[column].drop_nulls()
    values = values.str.split(",").explode() if column == "countries" else values
    unknown = unknown_countries(values)
    if len(unknown) > FEW_UNKNOWN * len(values):
        shown = ", ".join(unknown.value_counts(sort=True)["country"].head(3).to_list())
        what = f"{len(unknown):,} of {len(values):,} values of {column} are not ISO 3166 codes, such as {shown}"
        fix = "write two letters, such as GB and US; watches, users and catalogue must use the same codes"
        yield warning(f"units.{table}", what, fix)
