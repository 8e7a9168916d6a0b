from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, night, simulated, watch_rows, write_job
from stores import DAYS, daily, day_of_watches, ingested, write_day

from pipelines import ingest, vocabulary
from pipelines.base.raw_files import RawFiles
from pipelines.base.snapshot_store import Snapshot, TakenFile
from pipelines.logs.log_samples import FileSample, TableSample
from pipelines.logs.log_size import LogSize, estimate_completed, estimate_size, pending_files


def size(of_job: Path, date: dt.date = DATE) -> LogSize:
    found = estimate_size(night(of_job, date))
    assert found is not None
    return found


def test_what_is_judged_from_a_sample_is_what_the_stages_then_count(tmp_path: Path) -> None:
    job = simulated(tmp_path)
    judged, of = size(job), night(job)
    ingest.run(of)
    vocabulary.run(of)
    taken, counted = of.require("ingest").figures, of.require("vocabulary").figures
    assert (judged.watches, judged.searches) == (taken["rows"]["watches"], taken["rows"]["searches"])
    assert judged.new_events == judged.events and judged.buckets == taken["buckets"]
    window, cover = counted["window"], counted["cover"]
    assert judged.users == pytest.approx(window["users"], rel=0.1)
    assert judged.completed == pytest.approx(window["completed"], rel=0.1)
    assert judged.videos == pytest.approx(cover["videos.parquet"]["distinct"], rel=0.2)
    assert judged.tokens == pytest.approx(cover["search_tokens.parquet"]["distinct"], rel=0.3)
    assert judged.token_occurrences == pytest.approx(cover["search_tokens.parquet"]["occurrences"], rel=0.1)
    stored = sum(file.file.bytes for file in of.ingested.snapshot.files)
    assert judged.event_bytes * judged.events == pytest.approx(stored, rel=0.5)


def test_only_what_was_not_taken_is_new(tmp_path: Path) -> None:
    job = daily(tmp_path, days=DAYS[:3], logs='watches = "w/{date}.parquet"\nsearches = "s/{date}.parquet"')
    first = size(job, DATE - dt.timedelta(days=1))
    assert (first.watches, first.searches, first.new_events) == (54, 18, 72)
    ingested(job, DATE - dt.timedelta(days=1))
    write_day(tmp_path, DAYS[3], day_of_watches(DAYS[3], count=30))
    second = size(job)
    assert (second.watches, second.searches, second.new_events) == (84, 28, 40)
    newest = [tmp_path / table / f"{DAYS[3]}.parquet" for table in ("w", "s")]
    assert second.batch_bytes == sum(path.stat().st_size for path in newest)


def test_settings_limit_what_is_learned_from(tmp_path: Path) -> None:
    rows = watch_rows(count=200, users=20, videos=50).with_columns(watch_seconds=pl.lit(100.0))
    rows.write_parquet(tmp_path / "w.parquet")
    logs = 'watches = "w.parquet"\nbatch_bytes = 100'
    all_of_them = size(write_job(tmp_path, logs, "[examples]\nper_user = 0\n"))
    assert (all_of_them.completed, all_of_them.labels, all_of_them.videos) == (200, 200, 50)
    assert all_of_them.batch_bytes == (tmp_path / "w.parquet").stat().st_size  # a file is read whole
    limited = size(write_job(tmp_path, logs, "[examples]\nper_user = 3\nwatch_vocabulary = 10\n"))
    assert (limited.completed, limited.labels, limited.videos) == (200, 60, 10)
    assert size(write_job(tmp_path, logs, "[storage]\nbuckets = 64\n")).buckets == 64


@pytest.mark.parametrize(("holdout_days", "users"), [(0, 0), (1, 10), (2, 20)])
def test_users_of_the_held_out_days_are_those_of_a_mean_day(holdout_days: int, users: int, tmp_path: Path) -> None:
    """Ten users watch on the even days and ten others on the odd days, each several times."""
    rows = watch_rows(count=240, users=10, days=4).with_columns(watch_seconds=pl.lit(100.0))
    odd = pl.col("time").dt.day() % 2 == 1
    others = rows.with_columns(user_id=pl.when(odd).then(pl.col("user_id") + "x").otherwise("user_id"))
    others.write_parquet(tmp_path / "w.parquet")
    window = f"[examples]\nwindow_days = 4\nholdout_days = {holdout_days}\n"
    assert size(write_job(tmp_path, 'watches = "w.parquet"', window)).holdout_users == users


@pytest.mark.parametrize("watches", ["nowhere", "bad.parquet", "none.csv"])
def test_logs_that_cannot_be_looked_at_have_no_size(watches: str, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "none.csv").write_text("user_id,video_id,time,completed\n")
    assert estimate_size(night(write_job(tmp_path, f'watches = "{watches}"'))) is None


def raw_files(*paths: str) -> RawFiles:
    return RawFiles(files=tuple(TakenFile(path=path, bytes=1, changed=0.0) for path in paths))


def test_pending_files_are_those_that_were_not_ingested() -> None:
    found = {
        "watches": raw_files("a", "b"),
        "searches": raw_files("c"),
        "impressions": RawFiles(),
        "videos": RawFiles(),
    }
    before = Snapshot(buckets=8, taken=list(raw_files("a", "c").files))
    pending = pending_files(found, before)
    assert {table: [file.path for file in raw] for table, raw in pending.items()} == {
        "watches": ["b"],
        "searches": [],
        "impressions": [],
    }
    assert [file.path for file in pending_files(found, None)["watches"]] == ["a", "b"]


@pytest.mark.parametrize(("completed", "estimate"), [([True, False, True, False], (500, 500)), ([False] * 4, (0, 0))])
def test_completed_watches_are_scaled_to_all_rows(completed: list[bool], estimate: tuple[int, int]) -> None:
    valid = pl.DataFrame({"video_id": ["a", "b", "c", "d"], "completed": completed})
    file = TakenFile(path="w", bytes=1, changed=0.0)
    part = FileSample(file=file, raw=valid, valid=valid, rejected=pl.DataFrame())
    count, videos = estimate_completed(TableSample(files=(file,), rows=1000, parts=(part,)), 1000)
    assert count == estimate[0] and videos <= estimate[1]
