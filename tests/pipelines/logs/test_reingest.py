"""Days that are sent again, days without a file, and days that grow too old."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, nightly
from stores import DAYS, PATHS, below, counts, daily, day_of_watches, events, ingested, newest, same, write_day

from pipelines import ingest
from pipelines.base import snapshot_store
from pipelines.config.jobs import load_job
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from transforms.logs.readers import LogError

GLOBS = PATHS.replace("{date}", "*")


def resend(folder: Path, day: str) -> pl.DataFrame:
    """Replace a day's file by other watches, fewer; the new ones."""
    rows = day_of_watches(day, 10, mark="new")
    write_day(folder, day, rows)
    return rows


@pytest.mark.parametrize("logs", [PATHS, GLOBS])
def test_a_day_sent_again_is_replaced_whole(tmp_path: Path, logs: str) -> None:
    job = daily(tmp_path, logs=logs)
    ingested(job)
    late = day_of_watches(DAYS[1], 3, mark="late")
    write_day(tmp_path, DAYS[2], pl.concat([day_of_watches(DAYS[2]), late]))
    ingested(job)
    rows = resend(tmp_path, DAYS[1])
    of = ingested(job, DATE, DAYS[1])
    others = [day_of_watches(day) for day in DAYS if day != DAYS[1]]
    assert same(events(of), pl.concat([rows, late, *others])), "events of the day in other files are the day's too"
    fresh = ingested(write_again(job, tmp_path / "fresh"))
    assert events(fresh).equals(events(of)) and events(fresh, "searches").equals(events(of, "searches"))
    removed = counts(of)["removed"]
    assert removed == {"watches": {"reingested": 21}, "searches": {"reingested": 7}}


def write_again(job: Path, folder: Path) -> Path:
    """The same job with another ROOT."""
    text = job.read_text().replace('"w/', f'"{job.parent}/w/').replace('"s/', f'"{job.parent}/s/')
    folder.mkdir()
    (folder / "job.toml").write_text(text.replace('"users.csv"', f'"{job.parent}/users.csv"'))
    return folder / "job.toml"


def test_without_reingest_a_day_sent_again_is_added_to(tmp_path: Path) -> None:
    job = daily(tmp_path)
    ingested(job)
    rows = resend(tmp_path, DAYS[1])
    of = ingested(job)
    assert same(events(of), pl.concat([*(day_of_watches(day) for day in DAYS), rows]))


def test_a_day_of_another_zone_is_replaced_from_its_midnight_to_its_midnight(tmp_path: Path) -> None:
    job = daily(tmp_path, logs=GLOBS + '\ntime_zone = "Asia/Tokyo"')
    of = ingested(job)
    before = events(of)
    for day in DAYS:
        write_day(tmp_path, day, day_of_watches(day, mark="x"))
    start, end = (dt.datetime(2026, 11, day, 15, tzinfo=dt.UTC) for day in (17, 18))
    again = Night(of.job, DATE, reingest=(dt.date(2026, 11, 18),))
    found = ingest.IngestPlan.from_night(again)
    assert found.spans == ((start, end),) and len(found.pending) == 8
    ingest.run(again)
    after = events(of)
    within = pl.col("time").is_between(start, end, closed="left")
    assert set(after.filter(within)["video_id"]) == {f"{n}vx" for n in range(5)}
    assert before.filter(~within).join(after, on=before.columns, how="anti", nulls_equal=True).is_empty()


def test_a_day_may_be_sent_again_and_again(tmp_path: Path) -> None:
    job = daily(tmp_path)
    first = ingested(job)
    digest = newest(first).digest
    of = Night(first.job, DATE, reingest=(dt.date.fromisoformat(DAYS[0]),))
    assert not ingest.plan(of).is_done(of) and ingest.plan(first).is_done(first)
    for times in (1, 2):
        ingest.run(of)
        assert newest(of).digest == digest and newest(of).number == 1 + times
    assert ingest.plan(first).is_done(first)


@pytest.mark.parametrize("logs", [PATHS, GLOBS])
def test_a_day_whose_raw_files_are_gone_is_not_emptied(tmp_path: Path, logs: str) -> None:
    job = daily(tmp_path, logs=logs)
    before = newest(ingested(job))
    for table in ("w", "s"):
        (tmp_path / table / f"{DAYS[1]}.parquet").unlink()
    with pytest.raises((LogError, StageError), match="would empty that day"):
        ingested(job, DATE, DAYS[1])
    assert snapshot_store.latest(str(tmp_path / "runs" / "store" / "snapshots")) == before
    job.write_text(job.read_text().replace("[examples]", "allow_missing_days = true\n[examples]"))
    of = ingested(job, DATE, DAYS[1])
    assert same(events(of), pl.concat([day_of_watches(day) for day in DAYS if day != DAYS[1]]))


def test_reingest_on_the_command_line(tmp_path: Path) -> None:
    job = daily(tmp_path)
    rows = resend(tmp_path, DAYS[0])
    done = nightly(job, "--only", "ingest", "--reingest", DAYS[0], f"--reingest={DAYS[3]}")
    assert done.returncode == 0, done.stderr
    of = Night(load_job(str(job)), DATE)
    assert same(events(of), pl.concat([rows, *(day_of_watches(day) for day in DAYS[1:])]))
    done = nightly(job, "--from", "vocabulary", "--reingest", DAYS[0])
    assert done.returncode == 2 and "--reingest requires stage ingest" in done.stderr
    done = nightly(job, "--only", "ingest", "--reingest", "2026-11-22")
    assert done.returncode == 2 and "lies after the night of 2026-11-21" in done.stderr


def test_a_day_without_a_file_is_named(tmp_path: Path) -> None:
    job = daily(tmp_path, days=[DAYS[0], DAYS[3]])
    with pytest.raises(LogError, match=rf"logs.watches = .*no file for {DAYS[1]}, {DAYS[2]}, although the logs begin"):
        ingested(job)
    job.write_text(job.read_text().replace("[examples]", "allow_missing_days = true\n[examples]"))
    assert same(events(ingested(job)), pl.concat([day_of_watches(DAYS[0]), day_of_watches(DAYS[3])]))


def test_the_rule_holds_for_each_table_and_for_files_that_were_taken_before(tmp_path: Path) -> None:
    job = daily(tmp_path)
    of = ingested(job)
    (tmp_path / "w" / f"{DAYS[1]}.parquet").unlink()
    assert ingest.plan(of).is_done(of), "what was taken may be gone"
    write_day(tmp_path, DATE.isoformat(), day_of_watches(DATE.isoformat()))
    (tmp_path / "s" / f"{DATE}.parquet").unlink()
    with pytest.raises(LogError, match=rf"logs.searches = .*no file for {DATE}, although the logs begin on {DAYS[0]}"):
        ingested(job, DATE + dt.timedelta(days=1))


def test_logs_shorter_than_the_window_are_reported_once(tmp_path: Path) -> None:
    job = daily(tmp_path, days=DAYS[2:])
    said = f"the logs begin on {DAYS[2]}: the window of {DATE} is 2 days, not 4"
    done = nightly(job, "--only", "ingest")
    assert done.stderr.splitlines().count(said) == 1, done.stderr
    assert counts(ingested(job))["notes"] == [said]
    assert said not in nightly(job, "--only", "ingest").stderr
    whole = ingested(daily(tmp_path / "whole"))
    assert counts(whole)["notes"] == []


def keeping(folder: Path, days: int, count: int) -> Path:
    """A job that keeps some days, with logs of many; every day a night was run."""
    every = [(DATE - dt.timedelta(days=n)).isoformat() for n in range(count, 0, -1)]
    job = daily(folder, f"[storage]\nkeep_days = {days}\n", days=every)
    for night_of in range(count - 4, -1, -1):
        ingested(job, DATE - dt.timedelta(days=night_of))
    return job


def test_days_beyond_keep_days_leave_the_snapshot_and_their_files_are_swept_later(tmp_path: Path) -> None:
    job = keeping(tmp_path, 5, 12)
    of = ingested(job)
    days = sorted({file.day for file in newest(of).files})
    assert days == [(DATE - dt.timedelta(days=n)).isoformat() for n in range(5, 0, -1)]
    listed = set()
    for path in snapshot_store.list_snapshots(of.root.snapshots):
        listed |= {f"{of.root.store}/{file.file.name}" for file in snapshot_store.load(path).files}
    assert listed <= below(of), "a snapshot that is kept lists files that are gone"
    oldest = DATE - dt.timedelta(days=8)
    dates = [date for date in range(9) if (tmp_path / "runs" / "nights" / str(DATE - dt.timedelta(days=date))).exists()]
    assert len(dates) == 9 and 4 <= len(snapshot_store.list_snapshots(of.root.snapshots)) <= 7
    assert not ingest.plan(Night(of.job, oldest)).is_done(Night(of.job, oldest)), "its snapshot was let go"
    assert counts(of)["removed"] == {"watches": {"expired": 18}, "searches": {"expired": 6}}


def test_a_clock_in_the_future_empties_no_store(tmp_path: Path) -> None:
    job = keeping(tmp_path, 5, 6)
    before = newest(ingested(job))
    far = DATE + dt.timedelta(days=4000)
    with pytest.raises(LogError, match=r"no log files found on a day from .* the window of 2037"):
        ingested(job, far)
    job.write_text(job.read_text().replace("{date}", "*"))
    of = ingested(job, far)
    assert newest(of).digest == before.digest
    assert counts(of)["notes"] == [f"the newest watch is from 2026-11-20, 4001 days before {far}: is --date right?"]


def test_a_clock_in_the_past_is_an_error(tmp_path: Path) -> None:
    job = daily(tmp_path, logs=GLOBS.replace("0.5", "0.001"))
    with pytest.raises(StageError, match=r"96 of 105 .*time lies in the future.*nothing was ingested. Is --date 1999-"):
        ingested(job, dt.date(1999, 1, 1))
    job = daily(tmp_path / "dated")
    with pytest.raises(LogError, match="no log files found on a day from 1998-12-28 to 1998-12-31, the window of 1"):
        ingested(job, dt.date(1999, 1, 1))


def test_a_file_changed_in_time_alone_changes_nothing(tmp_path: Path) -> None:
    job = daily(tmp_path)
    of = ingested(job)
    digest = newest(of).digest
    os.utime(tmp_path / "w" / f"{DAYS[0]}.parquet", (1_700_000_000, 1_700_000_000))
    of = ingested(job)
    assert newest(of).digest == digest and len(newest(of).taken) == 8


@pytest.mark.parametrize("logs", [PATHS, pytest.param(GLOBS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", ["lost", "cut", pytest.param("empty", marks=pytest.mark.slow)])
def test_reingest_of_a_day_replaces_a_lost_or_damaged_file(tmp_path: Path, logs: str, damage: str) -> None:
    job = daily(tmp_path, logs=logs)
    of = ingested(job)
    before = (events(of), events(of, "searches"), newest(of).digest)
    for file in (file for file in newest(of).files if file.day == DAYS[1]):
        path = Path(of.root.store) / file.file.name
        content = path.read_bytes()
        path.unlink() if damage == "lost" else path.write_bytes(b"" if damage == "empty" else content[:-9])
    of = ingested(job, DATE, DAYS[1])
    assert newest(of).digest == before[2]
    assert events(of).equals(before[0]) and events(of, "searches").equals(before[1])
    assert counts(of)["removed"] == {"watches": {"reingested": 18}, "searches": {"reingested": 6}}
