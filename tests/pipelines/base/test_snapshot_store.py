from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.base import snapshot_store
from pipelines.base.manifest import ManifestError
from pipelines.base.snapshot_store import Snapshot, StoreFile, TakenFile
from transforms.core import files
from transforms.core.digests import check_buckets
from transforms.core.files import FileEntry


def data_file(day: str, bucket: int = 0, table: str = "watches", digest: str = "d", mark: str = "aa") -> StoreFile:
    name = f"{table}/{day}/{bucket:05d}-of-00008-{mark}.parquet"
    return StoreFile(table=table, day=day, bucket=bucket, file=FileEntry(name=name, rows=10, bytes=100, digest=digest))


def moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@given(st.integers(0, 10**11))
def test_bucket_counts_are_powers_of_two_of_about_a_million_rows(rows: int) -> None:
    buckets = check_buckets(snapshot_store.bucket_count(rows))
    if buckets < snapshot_store.MAX_BUCKETS:
        assert rows / buckets <= snapshot_store.ROWS_A_BUCKET
    if buckets > snapshot_store.MIN_BUCKETS:
        assert rows / buckets > snapshot_store.ROWS_A_BUCKET / 2


@pytest.mark.parametrize(
    ("rows", "buckets"), [(0, 8), (8_000_000, 8), (8_000_001, 16), (16_000_001, 32), (10**10, 4096)]
)
def test_bucket_counts_at_the_borders(rows: int, buckets: int) -> None:
    assert snapshot_store.bucket_count(rows) == buckets


@pytest.mark.parametrize(
    ("start", "end", "days"),
    [
        ("2026-11-19", "2026-11-21", ["2026-11-19", "2026-11-20"]),
        ("2026-11-18T23:00", "2026-11-20T23:00", ["2026-11-18", "2026-11-19", "2026-11-20"]),
        ("2026-11-20T00:00", "2026-11-20T00:01", ["2026-11-20"]),
        ("2026-11-22", "2026-11-30", []),
    ],
)
def test_within_gives_the_days_that_may_hold_events_of_the_window(start: str, end: str, days: list[str]) -> None:
    every = [data_file(f"2026-11-{day}") for day in (21, 18, 20, 17, 19)]
    found = Snapshot(buckets=8, files=every).files_between(moment(start), moment(end))
    assert [file.day for file in found] == days


def test_within_is_ordered_by_table_bucket_day_and_content_whatever_the_names() -> None:
    parts = [
        data_file(day, bucket, table, digest)
        for table in ("searches", "watches")
        for bucket in (0, 1)
        for day in ("2026-11-19", "2026-11-20")
        for digest in ("d1", "d2")
    ]
    window = moment("2026-11-19"), moment("2026-11-21")
    assert Snapshot(buckets=8, files=parts[::-1]).files_between(*window) == parts


def test_the_digest_is_of_the_events_alone() -> None:
    days = ("2026-11-19", "2026-11-20")
    one = Snapshot(buckets=8, files=[data_file(day, mark="aa") for day in days], number=3, date="2026-11-21")
    two = Snapshot(buckets=8, files=[data_file(day, mark="bb") for day in days[::-1]])
    assert one.digest == two.digest
    assert replace(two, buckets=16).digest != one.digest
    assert replace(two, files=[*two.files, data_file("2026-11-18")]).digest != one.digest


def test_the_newest_snapshot_holds_and_is_read_back_as_written(tmp_path: Path) -> None:
    folder = str(tmp_path / "snapshots")
    assert snapshot_store.latest(folder) is None
    taken = [TakenFile(path="/logs/a.csv", bytes=10, changed=1764000000.123456)]
    first = Snapshot(buckets=8, number=9, files=[data_file("2026-11-19")], taken=taken, accounts={"date": {"a": 1}})
    second = replace(first, number=10, date="2026-11-21")
    for snapshot in (second, first):
        snapshot_store.commit(folder, snapshot)
    assert snapshot_store.latest(folder) == second
    assert snapshot_store.load(snapshot_store.path_of(folder, 9)) == first


def test_a_sweep_keeps_what_the_newest_snapshot_and_those_referred_to_list(tmp_path: Path) -> None:
    marks = ("aa", "bb", "cc", "dd")
    listed = {mark: data_file("2026-11-19", mark=mark) for mark in marks}
    folder = str(tmp_path / "snapshots")
    for number, mark in enumerate(marks[:3], 1):
        snapshot_store.commit(folder, Snapshot(buckets=8, number=number, files=[listed[mark]]))
    for file in listed.values():
        (tmp_path / file.file.name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.file.name).write_bytes(b"")

    def there() -> list[str]:
        return [mark for mark, file in listed.items() if (tmp_path / file.file.name).exists()]

    snapshot_store.sweep(str(tmp_path), folder, {1})
    assert there() == ["aa", "cc"]
    assert [snapshot_store.number_of(path) for path in snapshot_store.list_snapshots(folder)] == [1, 3]
    snapshot_store.sweep(str(tmp_path), folder, set())
    assert there() == ["cc"]
    (tmp_path / "snapshots" / "00000003.json").unlink()
    snapshot_store.sweep(str(tmp_path), folder, {3})
    assert there() == []


@pytest.mark.parametrize("content", [b"", b'{"format_version": 1, "files"', b'{"format_version": 1}', b"[]"])
def test_a_damaged_snapshot_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "00000001.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"00000001.json cannot be read .*: restore it from a backup"):
        snapshot_store.latest(str(tmp_path))


def test_a_snapshot_of_another_format_version_is_refused(tmp_path: Path) -> None:
    snapshot_store.commit(str(tmp_path), Snapshot(buckets=8, number=1))
    path = tmp_path / "00000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(ManifestError, match="has format_version 2"):
        snapshot_store.latest(str(tmp_path))


def test_data_files_are_on_disk_before_their_snapshot(tmp_path: Path, synced: list[str]) -> None:
    folder = tmp_path / "store"

    def stored(day: str) -> StoreFile:
        entry = files.write_bytes(str(folder), f"watches/{day}/0.parquet", 1, b"x")
        return StoreFile(table="watches", day=day, bucket=0, file=entry)

    old = stored("2026-11-19")
    snapshot_store.commit(f"{folder}/snapshots", Snapshot(buckets=8, number=1, files=[old]))
    new = stored("2026-11-20")
    synced.clear()
    snapshot_store.commit(f"{folder}/snapshots", Snapshot(buckets=8, number=2, files=[old, new]))
    before = synced[: synced.index(f"-> {folder}/snapshots/00000002.json")]
    data = {f"{folder}/{new.file.name}", f"{folder}/watches/2026-11-20", f"{folder}/watches", str(folder)}
    assert data <= set(before) and f"{folder}/{old.file.name}" not in synced


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "../nights/x", "watches/../../x"])
def test_a_snapshot_that_names_files_outside_the_store_is_refused(tmp_path: Path, name: str) -> None:
    entry = FileEntry(name="watches/2026-11-20/0.parquet", rows=1, bytes=1, digest="d")
    file = StoreFile(table="watches", day="2026-11-20", bucket=0, file=entry)
    snapshot_store.commit(str(tmp_path / "snapshots"), Snapshot(buckets=8, number=1, files=[file]))
    path = tmp_path / "snapshots" / "00000001.json"
    path.write_text(path.read_text().replace(entry.name, name))
    with pytest.raises(ManifestError, match=r"00000001.json cannot be read .*lies outside the storage root"):
        snapshot_store.load(str(path))


def test_a_sweep_removes_notes_of_a_killed_ingest_and_no_data_that_a_damaged_snapshot_may_list(tmp_path: Path) -> None:
    folder, snapshots = tmp_path / "store", f"{tmp_path}/store/snapshots"
    entry = files.write_bytes(str(folder), "watches/2026-11-20/0.parquet", 1, b"x")
    listed = StoreFile(table="watches", day="2026-11-20", bucket=0, file=entry)
    snapshot_store.commit(snapshots, Snapshot(buckets=8, number=1, files=[listed]))
    snapshot_store.commit(snapshots, Snapshot(buckets=8, number=2))
    for name in ("records-1a2b.json", "watches/2026-11-20/1.parquet", "README"):
        files.replace_file(f"{folder}/{name}", b"x")
    first = Path(snapshot_store.path_of(snapshots, 1))
    whole = first.read_bytes()
    first.write_bytes(whole[:20])
    snapshot_store.sweep(str(folder), snapshots, {1})
    assert (folder / entry.name).exists() and first.exists()
    first.write_bytes(whole)
    snapshot_store.sweep(str(folder), snapshots, {1})
    left = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(left) == ["README", "snapshots/00000001.json", "snapshots/00000002.json", entry.name]
