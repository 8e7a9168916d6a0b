"""Doctor's check of clocks, time zones and units of time: errors that parsing does not detect."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator

import polars as pl

from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, problem, warning
from pipelines.logs.log_samples import FileSample, TableSample
from pipelines.night.night import Night
from transforms.core.days import local_date
from transforms.core.digests import FRAME_ROWS

TABLES = ("watches", "searches", "impressions")
AHEAD_SECONDS = 600  # tolerance for clocks of other machines
OWN_DAY = 0.9  # minimum share of the events of a day's file that are on that day
HOUR = dt.timedelta(hours=1)
_OFFSET = r"(Z|[+-]\d\d(:?\d\d)?)$"
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def times(request: DoctorRequest) -> Iterator[Finding]:
    """Check units, offsets, the time zone of days, times in the future, missing days, and this machine's clock."""
    night, before = request.night, 0
    for name in TABLES:
        sample = request.logs.samples.get(name)
        if sample is None or not sample.parts:
            continue
        for found in _of_table(request, name, sample):
            before += found.state != "ok"
            yield found
    watches = request.logs.samples.get("watches")
    if not before and watches is not None and watches.valid.height:
        newest = watches.valid["time"].max()
        zone = night.job.logs.time_zone
        yield ok("times", f"the newest sampled watch is from {_stamp(newest)}; days begin at 00:00 {zone}")


def _of_table(request: DoctorRequest, name: str, sample: TableSample) -> Iterator[Finding]:
    night = request.night
    yield from _units(name, sample)
    yield from _offsets(night, name, sample)
    yield from _future(night, name, sample)
    if sample.valid.height:
        yield from _days(night, name, sample)
        yield from _newest(request, name, sample)
        yield from _clock(name, sample)


def _units(name: str, sample: TableSample) -> Iterator[Finding]:
    """Check for numbers that are neither seconds nor milliseconds, or a mixture of both."""
    numbers = pl.concat(_numbers(part) for part in sample.parts).drop_nulls()
    if numbers.is_empty():
        return
    typical = float(numbers.abs().median() or 0)  # type: ignore[arg-type]
    seconds = int((numbers.abs() < 1e11).sum())
    example = f"such as {numbers[0]:.0f}"
    if typical >= 1e14:
        unit, by = ("nanoseconds", "1,000,000") if typical >= 1e17 else ("microseconds", "1,000")
        yield problem(f"times.{name}", f"time has numbers {example}: {unit}", f"divide them by {by}: milliseconds")
    elif 19_000_101 <= typical <= 21_001_231 and _are_dates(numbers):
        fix = "write them as 2024-01-31, or as epoch seconds"
        yield problem(f"times.{name}", f"time has numbers {example}: dates, which are read as seconds of 1970", fix)
    elif typical < 1e8:
        fix = "write epoch seconds, epoch milliseconds or ISO 8601"
        yield problem(f"times.{name}", f"time has numbers {example}: as seconds, these are before 1974", fix)
    elif 0 < seconds < len(numbers):
        what = f"{seconds:,} of {len(numbers):,} numbers in time are seconds (below 1e11), the others milliseconds"
        yield warning(f"times.{name}", what, "write all of them in one unit")


def _numbers(part: FileSample) -> pl.Series:
    """Return the times of a file that are numbers, or numbers as text."""
    raw = part.raw["time"] if "time" in part.raw.columns else pl.Series([], dtype=pl.Float64)
    has_numbers = raw.dtype.is_numeric() or raw.dtype == pl.String
    return raw.cast(pl.Float64, strict=False) if has_numbers else pl.Series([], dtype=pl.Float64)


def _are_dates(numbers: pl.Series) -> bool:
    texts = numbers.cast(pl.Int64).cast(pl.String)
    return bool(texts.str.to_date("%Y%m%d", strict=False).is_not_null().all())


def _offsets(night: Night, name: str, sample: TableSample) -> Iterator[Finding]:
    """Check for times without an offset if the job does not set their time zone."""
    without = sum(_without_offset(part) for part in sample.parts)
    if without and "time_zone" not in night.job.logs.model_fields_set:
        what = f"{without:,} times have no offset and are read as UTC, because the job does not set a time zone"
        fix = 'set time_zone = "UTC" ([logs]) if they are UTC, otherwise the time zone of the clocks that wrote them'
        yield warning(f"times.{name}", what, fix)


def _without_offset(part: FileSample) -> int:
    raw = part.raw["time"] if "time" in part.raw.columns else pl.Series([], dtype=pl.Null)
    if isinstance(raw.dtype, pl.Datetime):
        return raw.count() if raw.dtype.time_zone is None else 0
    if raw.dtype != pl.String:
        return 0
    written = raw.str.strip_chars()
    clock = written.str.contains(r"\d\d:\d\d").fill_null(False)
    return int((clock & ~written.str.contains(_OFFSET).fill_null(True)).sum())


def _future(night: Night, name: str, sample: TableSample) -> Iterator[Finding]:
    """Check for rows that would be rejected because they are after the night."""
    ahead = int(sample.rejected["reason"].str.contains("time lies in the future").sum())
    if ahead:
        what = f"{ahead:,} of {sample.valid.height + sample.rejected.height:,} rows are after the night of {night.date}"
        fix = "is --date correct? if these are local times, set time_zone ([logs]); else correct the writer's clock"
        yield warning(f"times.{name}", what, fix)


def _days(night: Night, name: str, sample: TableSample) -> Iterator[Finding]:
    """Check for files of one day whose events are on other days."""
    if "{date}" not in getattr(night.job.logs, name):
        return
    for part in sample.parts:
        named = _DAY.findall(part.file.path)
        if not named or part.valid.is_empty():
            continue
        start, end = night.dates.span(dt.date.fromisoformat(named[-1]))
        events = part.valid["time"]
        inside = int(events.is_between(start, end, closed="left").sum()) / len(events)
        if inside < OWN_DAY:
            first, last = events.sort()[0], events.sort()[-1]
            what = f"{inside:.0%} of the events in the file of {named[-1]} are on that day ({night.job.logs.time_zone})"
            fix = f"set time_zone ([logs]) to the time zone of these days; {_shift(first - start)}"
            yield warning(f"times.{name}", f"{what}: they run from {_stamp(first)} to {_stamp(last)}", fix)
            return


def _shift(since: dt.timedelta) -> str:
    """Return a hint for a first event that is `since` after the start of the file's day in the job's time zone."""
    hours = round(since / HOUR)
    if not -14 <= hours <= 14 or not hours:
        return "or the files are named after another day than that of their events"
    return f"the first event is {abs(hours)} h {'before' if hours < 0 else 'after'} 00:00 there"


def _newest(request: DoctorRequest, name: str, sample: TableSample) -> Iterator[Finding]:
    """Check how old the newest file or event is. Events of a file that was only sampled are not checked."""
    night, days = request.night, request.logs.found[name].days
    if not days and sample.parts[-1].raw.height >= FRAME_ROWS:
        return
    zone = night.job.logs.time_zone
    newest = dt.date.fromisoformat(days[-1]) if days else local_date(sample.valid["time"].sort()[-1], zone)
    past = (night.date - newest).days
    fix = "wait for the logs of the previous day, or set the night with --date"
    if past > night.job.examples.window_days:
        what = f"the newest is of {newest}, before the window of {night.date} ({night.job.examples.window_days} days)"
        yield problem(f"times.{name}", what, fix)
    elif past > 1:
        yield warning(f"times.{name}", f"the newest is of {newest}, {past} days before {night.date}", fix)


def _clock(name: str, sample: TableSample) -> Iterator[Finding]:
    """Check for events and files that are in the future according to this machine's clock."""
    now = time.time()
    here = _stamp(dt.datetime.fromtimestamp(now, dt.UTC))
    ahead = [event.timestamp() - now for event in sample.valid["time"].top_k(1)]
    files_ahead = max(file.changed for file in sample.files) - now
    if max(ahead) > AHEAD_SECONDS:
        what = f"the newest event is {max(ahead) / 3600:,.1f} h ahead of this machine's clock ({here})"
        fix = "if they are local times, set time_zone ([logs]) or write offsets; else set this machine's clock"
        yield warning(f"times.{name}", what, fix)
    elif files_ahead > AHEAD_SECONDS:
        what = f"a log file was changed {files_ahead / 3600:,.1f} h ahead of this machine's clock ({here})"
        yield warning(f"times.{name}", what, "set this machine's clock, or that of the machine that writes the logs")


def _stamp(moment: object) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
