"""A setting that changes what stored rows would be: they are decided or read again, or the night is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from nights import DATE, night, nightly, write_job
from stores import counts, events, newest

from pipelines import ingest
from pipelines.base import snapshot_store
from pipelines.config.jobs import JobError, load_job
from pipelines.logs import reading_settings
from pipelines.night.night import Night
from pipelines.runs import dry_run
from transforms.core import files
from transforms.logs.schemas import WATCH_SCHEMA

ROWS = [("a", "s0", "v0", 10, 20), ("b", "s1", "v1", 11, 40), ("c", "s2", "v0", 12, 5), ("d", "s3", "v1", 13, 90)]
LOGS = 'watches = "w/*.csv"\n'
OTHER = {  # what is changed -> further lines of [logs]
    "logs.columns.user_id": '[logs.columns]\nuser_id = "session"\n',
    "logs.columns.video_id": '[logs.columns.watches]\nvideo_id = "session"\n',
    "logs.time_zone": 'time_zone = "Asia/Tokyo"\n',
}
CATALOGUE = 'videos = "v.csv"\n'
DECIDED = {  # settings of the completion rule -> who completed their watch
    "": ["b", "d"],
    "completed_seconds = 10\n": ["a", "b", "d"],
    CATALOGUE: ["a", "b", "d"],  # v0 is of 30 seconds, v1 of 60
    f"{CATALOGUE}completed_fraction = 0.1\n": ["a", "b", "c", "d"],
}


def write_logs(folder: Path, days: tuple[int, ...] = (18, 19)) -> None:
    (folder / "w").mkdir(parents=True, exist_ok=True)
    for day in days:
        rows = [f"{u},{s},{v},2026-11-{day} {hour}:00:00,{seconds}\n" for u, s, v, hour, seconds in ROWS]
        text = "user_id,session,video_id,time,watch_seconds\n" + "".join(rows)
        (folder / "w" / f"2026-11-{day}.csv").write_text(text)
    (folder / "v.csv").write_text("video_id,video_seconds\nv0,30\nv1,60\n")


def run(folder: Path, logs: str, **choices: Any) -> Night:
    """Run ingest of a job with these lines in `[logs]`."""
    of = replace(night(write_job(folder, LOGS + logs, "[examples]\nwindow_days = 4\n")), **choices)
    ingest.run(of)
    return Night(of.job, DATE)


def make_older(of: Night) -> None:
    """Make the store as versions before left it: without readings, and with fewer columns in its files."""
    listed = []
    for file in newest(of).files:
        rows = files.read_parquet(f"{of.root.store}/{file.file.name}").select(WATCH_SCHEMA.names())
        listed.append(replace(file, file=files.replace_parquet(rows, of.root.store, file.file.name)))
    path = Path(snapshot_store.path_of(of.root.snapshots, newest(of).number))
    snapshot_store.commit(of.root.snapshots, replace(newest(of), files=listed))
    content = json.loads(path.read_text())
    for name in ("readings", "older_readings"):
        del content[name]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("older", [False, True], ids=["now", "of an older version"])
@pytest.mark.parametrize("name", OTHER)
def test_changed_reading_settings_stop_the_night_until_rows_are_reread(tmp_path: Path, name: str, older: bool) -> None:
    write_logs(tmp_path)
    before = run(tmp_path, "")
    if older:
        make_older(before)
    snapshot = newest(before)
    with pytest.raises(JobError, match=rf"{name}: .* 8 rows of watches in the store, from 2 raw files, .*--reread"):
        run(tmp_path, OTHER[name])
    of = night(tmp_path / "job.toml")
    outlook = dry_run.outlooks(of, ["ingest"])[0]
    assert outlook.state == "would fail" and name in outlook.why and "--reread" in outlook.why
    assert newest(of) == snapshot, "nothing was changed"
    again = run(tmp_path, OTHER[name], reread=True)
    fresh = tmp_path / "fresh"
    write_logs(fresh)
    assert events(again).equals(events(run(fresh, OTHER[name])))
    assert newest(again).rows_by_day == newest(night(fresh / "job.toml")).rows_by_day
    assert counts(again)["removed"] == {"watches": {"reingested": 8}} and counts(again)["rows"]["watches"] == 8  # type: ignore[index]
    assert ingest.plan(again).is_done(again)
    with pytest.raises(JobError, match="--reread"):
        run(tmp_path, "")


@pytest.mark.parametrize("after", [logs for logs in DECIDED if logs])
def test_a_changed_completion_rule_decides_stored_watches_again(tmp_path: Path, after: str) -> None:
    write_logs(tmp_path)
    of = run(tmp_path, "")
    assert completed(of) == DECIDED[""]
    for path in (tmp_path / "w").iterdir():
        path.unlink()
    write_logs(tmp_path, (20,))
    job = write_job(tmp_path, LOGS + after, "[examples]\nwindow_days = 4\n")
    assert "the completion rule to apply again (" in dry_run.outlooks(night(job), ["ingest"])[0].why
    of = run(tmp_path, after)
    assert completed(of) == DECIDED[after] and events(of).height == 12
    fresh = tmp_path / "fresh"
    write_logs(fresh, (18, 19, 20))
    assert events(of).equals(events(run(fresh, after)))
    assert ingest.plan(of).is_done(of)
    run(tmp_path, "")
    assert completed(of) == DECIDED[""]


def completed(of: Night) -> list[str]:
    """The users who completed their watches, the same on every day."""
    found = events(of).filter("completed")
    assert found.group_by("user_id").len()["len"].n_unique() == 1
    return sorted(found["user_id"].unique())


@pytest.mark.parametrize("after", [logs for logs in DECIDED if logs])
def test_watches_of_an_older_version_are_read_again_for_another_completion_rule(tmp_path: Path, after: str) -> None:
    write_logs(tmp_path)
    make_older(run(tmp_path, ""))
    with pytest.raises(JobError, match=r"logs\.(completed_\w+|videos): .* 8 rows of watches .*--reread"):
        run(tmp_path, after)
    assert completed(run(tmp_path, after, reread=True)) == DECIDED[after]


def test_what_is_not_of_a_row_s_reading_changes_nothing(tmp_path: Path) -> None:
    write_logs(tmp_path)
    of = run(tmp_path, "")
    snapshot = newest(of)
    run(tmp_path, "max_reject_fraction = 0.5\nbatch_bytes = 7\n[logs.columns.users]\ngender = 'sex'\n")
    assert newest(of) == snapshot


def test_old_readings_stay_for_who_says_so(tmp_path: Path) -> None:
    write_logs(tmp_path)
    before = events(run(tmp_path, ""))
    write_logs(tmp_path, (20,))
    session = OTHER["logs.columns.user_id"]
    of = run(tmp_path, session, keep_old_readings=True)
    assert events(of).height == 12
    assert before.join(events(of), on=before.columns, how="anti", nulls_equal=True).is_empty()
    assert set(events(of)["user_id"]) == {*"abcd", "s0", "s1", "s2", "s3"}
    kept = {"date": str(DATE), "table": "watches", "name": "columns.user_id", "before": "user_id", "now": "session"}
    assert newest(of).older_readings == [kept]
    assert "events in the store stay as they were read under other settings: logs.columns" in str(counts(of)["notes"])
    run(tmp_path, session)


def test_days_whose_raw_files_are_gone_are_named_and_may_stay(tmp_path: Path) -> None:
    write_logs(tmp_path)
    before = events(run(tmp_path, ""))
    (tmp_path / "w" / "2026-11-18.csv").unlink()
    session = OTHER["logs.columns.user_id"]
    with pytest.raises(JobError, match=r"1 raw files .* no longer exist \(.*18\.csv\), .*events of 2026-11-18"):
        run(tmp_path, session, reread=True)
    of = run(tmp_path, session, reread=True, keep_old_readings=True)
    old = before.filter(pl.col("time").dt.day() == 18)
    assert events(of).filter(pl.col("time").dt.day() == 18).equals(old)
    assert set(events(of).filter(pl.col("time").dt.day() == 19)["user_id"]) == {"s0", "s1", "s2", "s3"}
    assert counts(of)["rows"]["watches"] == 8 == newest(of).rows("watches")  # type: ignore[index]
    run(tmp_path, session)


def test_reread_at_an_earlier_date_than_the_store_is_refused(tmp_path: Path) -> None:
    write_logs(tmp_path)
    of = run(tmp_path, "")
    with pytest.raises(JobError, match=r"--reread on 2026-11-20 would lose events: .*; use --date 2026-11-21"):
        ingest.plan(replace(of, date=DATE.replace(day=20), reread=True))


def test_reading_settings_of_an_older_version_are_reported_once(tmp_path: Path) -> None:
    write_logs(tmp_path)
    of = run(tmp_path, "")
    make_older(of)
    assert [str(change.before) for change in reading_settings.changes(of, newest(of))] == ["1"]
    write_logs(tmp_path, (20,))
    assert "were read by an older version" in str(counts(run(tmp_path, ""))["notes"])
    write_logs(tmp_path, (17,))
    assert "were read by an older version" not in str(counts(run(tmp_path, ""))["notes"])


def test_the_command_line_refuses_and_reads_again(tmp_path: Path) -> None:
    write_logs(tmp_path)
    run(tmp_path, "")
    job = write_job(tmp_path, LOGS + OTHER["logs.columns.user_id"], "[examples]\nwindow_days = 4\n")
    done = nightly(job, "--only", "ingest")
    assert done.returncode == 2 and "--reread" in done.stderr
    done = nightly(job, "--only", "ingest", "--reread")
    assert done.returncode == 0, done.stderr
    assert set(events(Night(load_job(str(job)), DATE))["user_id"]) == {"s0", "s1", "s2", "s3"}
    assert nightly(job, "--only", "ingest").returncode == 0
    assert nightly(job, "--only", "train", "--reread").returncode == 2
