from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from findings import only, request_of, request_with_watches
from nights import DATE, watch_rows
from stores import impressions_of

from pipelines.checks import times as doctor_times
from pipelines.checks.findings import Finding

NOW = dt.datetime(2026, 11, 21, 4, tzinfo=dt.UTC)  # when the night of DATE would run


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_times.time, "time", lambda: NOW.timestamp() + 10**9)  # files are of today


def found_in(folder: Path, rows: pl.DataFrame, logs: str = "", name: str = "w.parquet") -> list[Finding]:
    folder.mkdir(exist_ok=True)
    rows.write_parquet(folder / name)
    path = "{date}.parquet" if name == f"{DATE - dt.timedelta(days=1)}.parquet" else name
    request = request_of(folder, f'watches = "{path}"\nmax_reject_fraction = 1.0\n{logs}')
    return list(doctor_times.times(request))


def with_time(values: pl.Expr) -> pl.DataFrame:
    return watch_rows().with_columns(time=values)


def test_good_times_are_ok(tmp_path: Path) -> None:
    found = only(found_in(tmp_path, watch_rows()))
    assert found.state == "ok"
    assert found.what == "the newest sampled watch is from 2026-11-20 21:36 UTC; days begin at 00:00 UTC"


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_epoch_seconds_and_milliseconds_are_ok(unit: Any, tmp_path: Path) -> None:
    assert only(found_in(tmp_path, with_time(pl.col("time").dt.epoch(unit)))).state == "ok"


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("time", "what", "fix"),
    [
        (pl.col("time").dt.epoch("us"), "microseconds", "divide them by 1,000: milliseconds"),
        (pl.col("time").dt.epoch("ns"), "nanoseconds", "divide them by 1,000,000: milliseconds"),
        (pl.col("time").dt.strftime("%Y%m%d").cast(pl.Int64), "dates, which are read as seconds of 1970", "2024-01-31"),
        (pl.col("time").dt.epoch("s") // 60, "as seconds, these are before 1974", "ISO 8601"),
        (pl.col("time").dt.epoch("d").cast(pl.Int64), "as seconds, these are before 1974", "ISO 8601"),
    ],
)
def test_numbers_of_another_unit_are_reported(
    time: pl.Expr, what: str, fix: str, as_text: bool, tmp_path: Path
) -> None:
    rows = with_time(time.cast(pl.String) if as_text else time)
    found = only(found_in(tmp_path, rows))
    assert found.state == "problem" and what in found.what and fix in found.fix
    assert f"such as {rows['time'][0]}" in found.what


def test_seconds_among_milliseconds_are_reported(tmp_path: Path) -> None:
    mixed = pl.when(pl.int_range(40) < 7).then(pl.col("time").dt.epoch("s")).otherwise(pl.col("time").dt.epoch("ms"))
    found = only(found_in(tmp_path, with_time(mixed)))
    assert found.state == "warning" and found.what.startswith("7 of 40 numbers in time are seconds")


@pytest.mark.parametrize(
    "time",
    [
        pl.col("time").dt.replace_time_zone(None),
        pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S"),
        pl.col("time").dt.strftime("%Y-%m-%d %H:%M"),
    ],
)
def test_times_without_an_offset_are_reported_unless_the_job_has_a_time_zone(time: pl.Expr, tmp_path: Path) -> None:
    found = only(found_in(tmp_path, with_time(time)))
    assert found.state == "warning" and found.what.startswith("40 times have no offset and are read as UTC")
    assert 'time_zone = "UTC"' in found.fix
    assert only(found_in(tmp_path, with_time(time), 'time_zone = "UTC"')).state == "ok"


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%d %H:%M:%S+0000"])
def test_times_with_an_offset_are_ok(form: str, tmp_path: Path) -> None:
    assert only(found_in(tmp_path, with_time(pl.col("time").dt.strftime(form)))).state == "ok"


def test_rows_after_the_night_are_reported(tmp_path: Path) -> None:
    rows = with_time(pl.col("time") + pl.when(pl.int_range(40) < 3).then(pl.duration(days=30)).otherwise(None))
    shifted = watch_rows().with_columns(time=rows["time"].fill_null(watch_rows()["time"]))
    found = only(found_in(tmp_path, shifted))
    assert found.state == "warning" and found.what == "3 of 40 rows are after the night of 2026-11-21"
    assert found.fix.startswith("is --date correct?")


def test_a_day_s_file_with_events_of_another_day_is_reported(tmp_path: Path) -> None:
    yesterday = DATE - dt.timedelta(days=1)
    start = dt.datetime.combine(yesterday, dt.time(), dt.UTC)
    whole = watch_rows().with_columns(time=pl.Series([start + dt.timedelta(minutes=36 * n) for n in range(40)]))
    assert only(found_in(tmp_path / "a", whole, name=f"{yesterday}.parquet")).state == "ok"
    shifted = whole.with_columns(pl.col("time") - pl.duration(hours=8))
    found = only(found_in(tmp_path / "b", shifted, name=f"{yesterday}.parquet"))
    assert found.state == "warning" and "65% of the events in the file of 2026-11-20 are on that day" in found.what
    assert "from 2026-11-19 16:00 UTC to 2026-11-20 15:24 UTC" in found.what
    assert found.fix.endswith("the first event is 8 h before 00:00 there")
    zone = 'time_zone = "Asia/Shanghai"'
    assert only(found_in(tmp_path / "c", shifted, zone, name=f"{yesterday}.parquet")).state == "ok"


@pytest.mark.parametrize(
    ("days", "state", "what"), [(1, "warning", "2 days before"), (30, "problem", "before the window")]
)
def test_a_missing_day_is_reported(days: int, state: str, what: str, tmp_path: Path) -> None:
    found = only(found_in(tmp_path, with_time(pl.col("time") - pl.duration(days=days))))
    assert found.state == state and what in found.what and "--date" in found.fix


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Los_Angeles", "Pacific/Auckland", "Asia/Kolkata"])
def test_the_newest_day_is_one_of_the_job_s_time_zone(zone: str, tmp_path: Path) -> None:
    clocks, days = ZoneInfo(zone), [DATE - dt.timedelta(days=n) for n in (1, 2, 3)]
    times = pl.Series([dt.datetime.combine(day, dt.time(hour), clocks).isoformat() for day in days for hour in (0, 23)])
    rows = pl.DataFrame({"user_id": "u", "video_id": "v", "time": times, "watch_seconds": 1.0})
    assert only(found_in(tmp_path / "whole", rows, f'time_zone = "{zone}"')).state == "ok"
    found = only(found_in(tmp_path / "late", rows.slice(2), f'time_zone = "{zone}"'))
    assert (found.state, found.what) == ("warning", "the newest is of 2026-11-19, 2 days before 2026-11-21")


def test_local_times_ahead_of_the_clock_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_times.time, "time", lambda: NOW.timestamp())
    ahead = with_time(pl.col("time") + pl.duration(hours=14, minutes=24))  # the last is of 12:00 on DATE
    found = only(found_in(tmp_path, ahead))
    assert found.state == "warning" and "is 8.0 h ahead of this machine's clock (2026-11-21 04:00 UTC)" in found.what
    assert "set time_zone ([logs])" in found.fix


def test_a_clock_that_is_behind_the_files_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_times.time, "time", lambda: NOW.timestamp())
    request = request_with_watches(tmp_path)
    os.utime(tmp_path / "w.parquet", (NOW.timestamp() + 7_200, NOW.timestamp() + 7_200))
    found = only(doctor_times.times(request))
    assert found.state == "warning" and "a log file was changed 2.0 h ahead of this machine's clock" in found.what


@pytest.mark.parametrize("table", ["searches", "impressions"])
def test_other_tables_of_events_are_checked_too(tmp_path: Path, table: str) -> None:
    searches = watch_rows().select("user_id", "time", query=pl.lit("jazz"))
    rows = searches if table == "searches" else impressions_of(watch_rows())
    watch_rows().write_parquet(tmp_path / "w.parquet")
    rows.with_columns(pl.col("time").dt.replace_time_zone(None)).write_parquet(tmp_path / "other.parquet")
    request = request_of(tmp_path, f'watches = "w.parquet"\n{table} = "other.parquet"')
    found = only(doctor_times.times(request))
    assert (found.check, found.state) == (f"times.{table}", "warning")


def test_unreadable_logs_are_reported_once(tmp_path: Path) -> None:
    assert list(doctor_times.times(request_of(tmp_path))) == []
