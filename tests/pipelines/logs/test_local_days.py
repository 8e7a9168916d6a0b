"""Days of the store, of gates, of reports, of robots and of retention are those of the job's time zone."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from made_frames import search, searches_frame, watch, watches_frame
from nights import DATE, night, write_job
from stores import counts, events, ingested, newest

from pipelines import ingest, rebucket
from pipelines.base import snapshot_store
from pipelines.config.gate_settings import Gates
from pipelines.gates import _volumes
from pipelines.night.night import Night
from pipelines.reports import report_history
from pipelines.runs import dry_run
from transforms.logs.event_window import drop_robot_days

BERLIN, TOKYO = "Europe/Berlin", "Asia/Tokyo"
DAY = dt.timedelta(days=1)


def local_logs(folder: Path, zone: str, days: int, more: str = "", *, missing: tuple[int, ...] = ()) -> Path:
    """Logs with an event of each hour of the last local days before DATE, one file, times with offsets; and their job.

    missing: days that have no events, 1 for the last one.
    """
    clocks, rows = ZoneInfo(zone), []
    for back in range(days, 0, -1):
        first = dt.datetime.combine(DATE - back * DAY, dt.time(), clocks)
        times = [first + dt.timedelta(hours=hour) for hour in range(24)] if back not in missing else []
        rows += [f"u{at.hour % 3},v{at.hour % 5},{at.isoformat()},60\n" for at in times]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "w.csv").write_text("user_id,video_id,time,watch_seconds\n" + "".join(rows))
    logs = f'watches = "w.csv"\ntime_zone = "{zone}"\nmax_reject_fraction = 0.5'
    return write_job(folder, logs, f"[examples]\nwindow_days = {days}\n{more}")


def as_of_an_older_version(of: Night) -> None:
    """Make the store's newest snapshot one that lists the same events by UTC days and does not name a time zone."""
    done = rebucket.rewriting.rearrange(of, newest(of), buckets=newest(of).buckets, zone="UTC")
    path = Path(snapshot_store.path_of(of.root.snapshots, done.number))
    snapshot_store.commit(of.root.snapshots, done)
    content = json.loads(path.read_text())
    del content["time_zone"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("zone", [BERLIN, TOKYO, "America/Los_Angeles", "UTC"])
def test_files_lie_under_local_days(tmp_path: Path, zone: str) -> None:
    of = ingested(local_logs(tmp_path, zone, 3))
    days = [(DATE - back * DAY).isoformat() for back in (3, 2, 1)]
    assert newest(of).rows_by_day == {"watches": dict.fromkeys(days, 24)} and newest(of).time_zone == zone
    listed = newest(of).files_between(*of.dates.span(DATE - DAY))
    assert {file.day for file in listed} == {days[-1]} and sum(file.file.rows for file in listed) == 24


@pytest.mark.parametrize("zone", [BERLIN, TOKYO, "America/Los_Angeles", "Pacific/Auckland", "Asia/Kolkata", "UTC"])
def test_the_volume_gate_misses_the_newest_local_day(tmp_path: Path, zone: str) -> None:
    whole = ingested(local_logs(tmp_path / "whole", zone, 8))
    assert [gate.ok for gate in _volumes(whole, Gates())] == [True]
    without = ingested(local_logs(tmp_path / "without", zone, 8, missing=(1,)))
    assert [gate.ok for gate in _volumes(without, Gates())] == [False]


def test_the_report_counts_local_days(tmp_path: Path) -> None:
    found = report_history.volumes(ingested(local_logs(tmp_path, TOKYO, 3)))
    assert found["days"] == [(DATE - back * DAY).isoformat() for back in (3, 2, 1)]
    assert found["events"] == {"watches": [24, 24, 24]}


@pytest.mark.parametrize("zone", [BERLIN, "America/Los_Angeles"])
def test_keep_days_are_local_days(tmp_path: Path, zone: str) -> None:
    job = local_logs(tmp_path, zone, 9, "[storage]\nkeep_days = 5\n")
    job.write_text(job.read_text().replace("window_days = 9", "window_days = 4"))
    of = ingested(job)
    days = [(DATE - back * DAY).isoformat() for back in range(5, 0, -1)]
    assert newest(of).rows_by_day == {"watches": dict.fromkeys(days, 24)}


def test_a_store_in_utc_days_is_put_into_local_days_with_all_its_events(tmp_path: Path) -> None:
    of = ingested(local_logs(tmp_path, BERLIN, 4))
    before = events(of)
    as_of_an_older_version(of)
    old = newest(of)
    assert old.time_zone == "UTC" and len(old.rows_by_day["watches"]) == 5, "23:00 UTC is the next day in Berlin"
    assert ingest.plan(of).due == "the store to rearrange into days of Europe/Berlin"
    assert dry_run.outlooks(of, ["ingest"])[0].why == ingest.plan(of).due
    ingest.run(of)
    assert newest(of).rows_by_day == {"watches": {(DATE - back * DAY).isoformat(): 24 for back in (4, 3, 2, 1)}}
    assert events(of).equals(before) and ingest.plan(of).is_done(of)
    assert snapshot_store.load(snapshot_store.path_of(of.root.snapshots, old.number)) == old, (
        "earlier nights keep what they refer to"
    )
    assert counts(of)["removed"] == {}


def test_a_local_day_of_a_store_in_utc_days_is_replaced_whole(tmp_path: Path) -> None:
    of = ingested(local_logs(tmp_path, TOKYO, 4))
    before = events(of)
    as_of_an_older_version(of)
    text = (tmp_path / "w.csv").read_text()
    (tmp_path / "w.csv").write_text("".join(line for line in text.splitlines(True) if not line.startswith("u0")))
    day = DATE - 2 * DAY
    ingest.run(Night(of.job, DATE, reingest=(day,)))
    start, end = of.dates.span(day)
    gone = pl.col("time").is_between(start, end, closed="left") & (pl.col("user_id") == "u0")
    assert events(of).equals(before.filter(~gone)) and before.filter(gone).height == 8


def test_robots_are_found_by_local_days() -> None:
    """Ten events in two local days that lie in one UTC day, and eleven in one local day."""
    night_of_tokyo = [watch("one", 10 + n, f"v{n}") for n in range(10)]  # 19:00 to 04:00, from 2024-03-01
    day_of_tokyo = [watch("two", 15 + n, f"v{n}") for n in range(10)]  # 00:00 to 09:00 on 2024-03-02
    watches, searches = watches_frame([*night_of_tokyo, *day_of_tokyo]), searches_frame([search("two", 16, "cat")])
    found = drop_robot_days(watches, searches, max_events=9, zone=TOKYO)
    assert found.watches["user_id"].unique().to_list() == ["one"] and found.searches.is_empty()
    assert (found.robot_days, found.robot_watches, found.robot_searches) == (1, 10, 1)
    assert drop_robot_days(watches, searches, max_events=9).robot_days == 2, "in UTC both users are"


def test_a_night_s_window_counts_robots_by_the_job_s_days(tmp_path: Path) -> None:
    of = night(write_job(tmp_path, f'watches = "w"\ntime_zone = "{TOKYO}"'))
    assert of.dates.window.time_zone == TOKYO
