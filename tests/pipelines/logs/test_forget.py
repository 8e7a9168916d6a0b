"""Users who are to be forgotten leave the store, its snapshots, every night and what is published, and stay away."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from damage import failing_write
from nights import DATE, commit, night, published_json, published_night
from stores import (
    DAYS,
    PATHS,
    SHOWN,
    USERS,
    all_bytes,
    below,
    counts,
    daily,
    day_of_watches,
    events,
    ingested,
    newest,
    write_day,
)

from pipelines import ingest
from pipelines.base import manifest, snapshot_store
from pipelines.logs import forget_rows
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.serving import publication
from transforms.core import files
from transforms.core.digests import bucket_of
from transforms.core.files import FileEntry
from transforms.examples.tfrecords import read_tfrecords, write_tfrecords
from transforms.logs.readers import LogError
from transforms.logs.store_rewrite import RewrittenFile

GONE = USERS[2:5]
REMOVED = {table: {"forgotten": rows} for table, rows in (("watches", 30), ("searches", 10), ("impressions", 90))}
FORGET = '[privacy]\nforget = "forget.csv"\n'
RECORDS = {"examples": "train/00000-of-00001-aa.tfrecord.gz", "ranking": "examples/train/00000-of-00001-aa.tfrecord.gz"}
TOMORROW = DATE + dt.timedelta(days=1)
LISTS = pl.DataFrame(
    {"user_id": USERS, "video_ids": [["0v"]] * 9, "scores": [[1.0]] * 9},
    schema_overrides={"scores": pl.List(pl.Float32)},
)


def to_forget(folder: Path, users: list[str]) -> None:
    (folder / "forget.csv").write_text("user_id\n" + "".join(f"{user}\n" for user in users))


def bad_row(user: str) -> pl.DataFrame:
    return pl.DataFrame({"user_id": [user], "video_id": ["v"], "time": ["never"], "watch_seconds": ["1"]})


def with_history(folder: Path) -> Path:
    """A job with a list of nobody, rejected rows, two nights, and a published one with records and lists."""
    to_forget(folder, [])
    job = daily(folder, FORGET, logs=f"{PATHS}\n{SHOWN}")
    (folder / "w" / "more").mkdir()
    job.write_text(job.read_text().replace("w/{date}.parquet", "w"))
    for user in (USERS[0], USERS[3]):
        bad_row(user).write_csv(folder / "w" / f"bad-{user}.csv")
    published_night(job, LISTS)
    first = ingested(job)
    write_day(folder, DATE.isoformat(), day_of_watches(DATE.isoformat()))
    ingested(job, TOMORROW)
    rows = pl.DataFrame({"user_id": USERS, "watches": [[n] for n in range(9)]})
    found = {stage: [write_tfrecords(rows, first.folder(stage), name)] for stage, name in RECORDS.items()}
    found["ranking"].append(files.write_parquet(LISTS, first.folder("ranking"), "00000-of-00001-aa.parquet"))
    for stage, entries in found.items():
        commit(first, stage, entries, attempt="aa")
    (Path(first.folder("neighbours")) / "orphan.parquet").write_bytes(b"2u")
    users = "".join(f'<h3>"{user}"</h3>' for user in USERS)
    page = f'<section id="slices">1</section>\n<section id="users">\n{users}</section>\n<section id="shown">2</section>'
    files.replace_file(first.root.report(DATE), page.encode())
    return job


def check_forgotten(of: Night) -> None:
    found = all_bytes(of.root.path)
    for user in GONE:
        assert f'"{user}"'.encode() not in found, user
    for table in ("watches", "searches", "impressions"):
        for path in snapshot_store.list_snapshots(of.root.snapshots):
            assert set(events(of, table, snapshot_store.load(path))["user_id"]) <= set(USERS) - set(GONE)
    first = Night(of.job, DATE)
    for stage, name in RECORDS.items():
        columns: dict[str, pl.DataType | type[pl.DataType]] = {"user_id": pl.String(), "watches": pl.List(pl.Int64())}
        records = read_tfrecords(f"{first.folder(stage)}/{name}", columns)
        assert records.rows() == [(user, [n]) for n, user in enumerate(USERS) if user not in GONE], stage
    assert first.require("ranking").counts["users"] == 6
    listed = first.require("neighbours")
    for stage in ("ingest", "examples", "neighbours", "ranking"):
        folder = first.folder(stage)
        for entry in first.require(stage).files:
            assert files.file_entry(folder, entry.name).digest == entry.digest
            if entry.name.endswith(".parquet"):
                assert files.read_parquet(files.join(folder, entry.name)).height == entry.rows
    assert listed.figures["users"] == 6 == sum(e.rows for e in listed.files if not e.name.startswith("../"))
    report = files.read_bytes(first.root.report(DATE)).decode()
    assert report == '<section id="slices">1</section>\n<section id="shown">2</section>'
    served = published_json(of.root)
    assert (served["users"], served["neighbours"]) == (6, listed.digest)
    assert not ingest.IngestPlan.from_night(of).forgets
    listed_files = {
        f"{of.root.store}/{f.file.name}"
        for p in snapshot_store.list_snapshots(of.root.snapshots)
        for f in snapshot_store.load(p).files
    }
    assert below(of) == listed_files


def test_users_to_forget_leave_everything_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = with_history(tmp_path)
    of = night(job, TOMORROW)
    before, message = events(of), list[str]()
    assert ingest.plan(of).is_done(of)
    to_forget(tmp_path, GONE)
    assert not ingest.plan(of).is_done(of)
    sink = SimpleNamespace(forget=lambda users: message.extend(users))
    monkeypatch.setattr(publication, "configured_sinks", lambda _: [sink])
    ingest.run(of)
    check_forgotten(of)
    assert sorted(message) == GONE
    assert events(of).equals(before.filter(~pl.col("user_id").is_in(GONE)))
    assert counts(of)["removed"] == REMOVED
    tables: Any = counts(of)["tables"]
    assert tables["users"] == {"read": 9, "refused": 0, "duplicates": 0, "forgotten": 3, "other_days": 0, "kept": 6}
    digests = [newest(of).digest, all_bytes(of.root.path)]
    ingest.run(of)
    assert [newest(of).digest, all_bytes(of.root.path)] == digests and ingest.plan(of).is_done(of)


def test_files_that_were_dropped_are_not_looked_for(tmp_path: Path) -> None:
    job = with_history(tmp_path)
    first = Night(night(job).job, DATE)
    manifest.commit(first.folder("examples"), replace(first.require("examples"), dropped="train/"))
    to_forget(tmp_path, GONE)
    ingest.run(night(job, TOMORROW))
    assert first.require("examples").dropped == "train/" and first.require("examples").present == []
    found = all_bytes(first.root.path)
    assert not any(f'"{user}"'.encode() in found for user in GONE)


def test_rows_of_users_to_forget_are_dropped_and_counted_from_then_on(tmp_path: Path) -> None:
    to_forget(tmp_path, GONE)
    job = daily(tmp_path, FORGET)
    job.write_text(job.read_text().replace("w/{date}.parquet", "w"))
    bad_row(GONE[0]).write_csv(tmp_path / "w" / "bad.csv")
    (tmp_path / "w" / "broken.csv").write_text(f"user_id,video_id,time,watch_seconds\n{GONE[1]},v\n{USERS[0]},v\n")
    of = ingested(job)
    tables: Any = counts(of)["tables"]
    found = {name: rows for name, rows in tables["watches"].items() if rows}
    assert found == {"read": 75, "refused": 2, "forgotten": 25, "kept": 48}
    rejects = pl.concat([pl.read_parquet(path) for path in files.list_files(of.root.rejects(DATE))]).sort("row")
    assert rejects["text"].to_list() == [None, f"{USERS[0]},v"]
    for user in GONE:
        assert f'"{user}"'.encode() not in all_bytes(of.root.path)
    write_day(tmp_path, DAYS[0], day_of_watches(DAYS[0], mark="again"))
    assert set(events(ingested(job))["user_id"]) == set(USERS) - set(GONE)


class StopError(Exception):
    pass


def test_a_run_that_is_stopped_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    job = with_history(tmp_path)
    of = night(job, TOMORROW)
    to_forget(tmp_path, GONE)
    stops = 0
    for at in (2, 5, 9, 13, 8, 6, 5, 4, 3, 2):
        try:
            with failing_write(at, StopError):
                ingest.run(of)
        except Exception as error:
            stops += 1
            assert "Stop" in repr(error) or isinstance(error.__cause__, StopError), error
            continue
        break
    assert stops >= 5
    ingest.run(of)
    check_forgotten(of)
    assert counts(of)["removed"] == REMOVED


def test_a_list_that_cannot_be_read_stops_the_night(tmp_path: Path) -> None:
    job = daily(tmp_path, FORGET)
    with pytest.raises(LogError, match=r"privacy.forget = .*forget.csv': no log files found"):
        ingested(job)
    (tmp_path / "forget.csv").write_text('user_id,why\n2u,asked\n"",lost\n')
    with pytest.raises(LogError, match=r"forget.csv: row 2 has no readable user_id"):
        ingested(job)
    to_forget(tmp_path, USERS)
    with pytest.raises(StageError, match="there is not one valid watch in these logs"):
        ingested(job)


def test_damaged_files_stop_no_forgetting_for_ever(tmp_path: Path) -> None:
    """Rejected rows that cannot be read are removed, and a day that is ingested again need not be read before."""
    to_forget(tmp_path, [])
    job = daily(tmp_path, FORGET)
    of = ingested(job)
    before = events(of)
    rejects = Path(of.root.rejects(DATE))
    rejects.mkdir(parents=True, exist_ok=True)
    (rejects / "watches-aa.parquet.4711.tmp").write_bytes(b"PAR1half")
    (rejects / "watches-bb.parquet").write_bytes(b"PAR1half")
    damaged = next(f for f in newest(of).files if (f.table, f.day) == ("watches", DAYS[1]))
    path = Path(of.root.store, damaged.file.name)
    path.write_bytes(path.read_bytes()[:-9])
    to_forget(tmp_path, USERS[:8])
    with pytest.raises(Exception, match=rf"{path.name} is damaged .* --reingest {DAYS[1]} reads"):
        ingested(job)
    of = ingested(job, DATE, DAYS[1])
    assert events(of).equals(before.filter(pl.col("user_id") == USERS[8]))
    assert not (rejects / "watches-bb.parquet").exists() and not path.exists()


def store_file(name: str, bucket: int, rows: int = 5) -> snapshot_store.StoreFile:
    entry = FileEntry(name=name, rows=rows, bytes=10, digest=name)
    return snapshot_store.StoreFile(table="watches", day="2026-11-20", bucket=bucket, file=entry)


def test_only_files_in_the_buckets_of_the_users_are_rewritten() -> None:
    users = pl.Series(["a"])
    of_a = {count: bucket_of("a", count) for count in (8, 16)}
    old = snapshot_store.Snapshot(buckets=8, files=[store_file("old", of_a[8]), store_file("x", (of_a[8] + 1) % 8)])
    new = snapshot_store.Snapshot(buckets=16, files=[store_file("new", of_a[16]), store_file("y", (of_a[16] + 1) % 16)])
    affected = forget_rows.files_of_users([old, new], users)
    assert {name: count for name, (count, _) in affected.items()} == {"old": 8, "new": 16}
    assert forget_rows.files_of_users([old, new], users.clear()) == {}


def test_a_snapshot_without_the_rows_counts_what_was_removed() -> None:
    before = snapshot_store.Snapshot(buckets=8, files=[store_file(name, n) for n, name in enumerate("abc")])
    fewer = FileEntry(name="a2", rows=3, bytes=8, digest="a2")
    records = [
        RewrittenFile(table="watches", replaced="a", left_out=2, file=fewer),
        RewrittenFile(table="watches", replaced="b", left_out=5, file=None),
        RewrittenFile(table="watches", replaced="of another snapshot", left_out=9, file=None),
    ]
    after = forget_rows.without_rows(before, records, {"b"}, DATE)
    assert after is not None
    assert {file.file.name: file.file.rows for file in after.files} == {"a2": 3, "c": 5}
    assert after.accounts[str(DATE)]["removed"] == {"watches": {"forgotten": 2, "reingested": 5}}
    assert forget_rows.without_rows(before, records[2:], (), DATE) is None
