"""Files of the store that a disk or a person changed: whoever reads one names it, its day and the command that repairs
it, and nothing is computed from it."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from damage import flip_bit
from stores import DAYS, PATHS, daily, day_of_watches, ingested, newest, write_day

from pipelines import ingest
from pipelines.base import snapshot_store
from pipelines.base.snapshot_store import StoreFile
from pipelines.logs import rewriting
from pipelines.night.errors import user_message
from pipelines.night.night import Night
from transforms.core import files
from transforms.core.files import DamagedFileError, VerifiedPath


@pytest.fixture
def of(tmp_path: Path) -> Night:
    return ingested(daily(tmp_path, days=DAYS[:3], logs=f"{PATHS}\nallow_missing_days = true"))


def file_of(of: Night, day: str = DAYS[1]) -> StoreFile:
    return next(file for file in newest(of).files if (file.table, file.day) == ("watches", day))


def path_of(of: Night, file: StoreFile) -> Path:
    return Path(of.root.store, file.file.name)


def read_window(of: Night, file: StoreFile) -> object:
    return of.dates.window.events(of.ingested.buckets()[file.bucket])


def rewrite_all(of: Night, _file: StoreFile) -> object:
    found = newest(of)
    return rewriting.rearrange(of, found, buckets=2 * found.buckets, zone=found.time_zone)


def ingest_more(of: Night, file: StoreFile) -> object:
    """Late events of the same day: those that exist are compared with them."""
    folder = Path(of.root.path).parent
    write_day(folder, DAYS[3], day_of_watches(file.day, 18, mark="late"))
    return ingested(folder / "job.toml")


@pytest.mark.parametrize("read", [read_window, rewrite_all, ingest_more])
@pytest.mark.parametrize("lost", [False, True])
def test_a_damaged_file_is_named(of: Night, read: Callable[[Night, StoreFile], object], lost: bool) -> None:
    file = file_of(of)
    path, before = path_of(of, file), newest(of)
    path.unlink() if lost else flip_bit(path)
    with pytest.raises(Exception) as caught:
        read(of, file)
    message = user_message(caught.value)
    assert message is not None and message.startswith(f"{path} is {'missing' if lost else 'damaged'}")
    assert f"watchnext nightly JOB.toml --reingest {DAYS[1]}" in message
    assert newest(of) == before


def test_no_flipped_bit_is_read_as_data(of: Night) -> None:
    file = file_of(of)
    path, draw = path_of(of, file), random.Random(5)
    whole = path.read_bytes()
    for bit in draw.sample(range(8 * len(whole)), 200):
        flip_bit(path, bit)
        with pytest.raises(DamagedFileError):
            read_window(of, file)
        path.write_bytes(whole)
    read_window(of, file)


def test_a_verified_path_is_a_path_that_keeps_its_digest_when_pickled(tmp_path: Path) -> None:
    path = VerifiedPath("a/b.parquet", "digest", "write {folder} again")
    copy = pickle.loads(pickle.dumps(path))
    assert copy == path == "a/b.parquet" and (type(copy), copy.digest, copy.repair) == (
        VerifiedPath,
        "digest",
        path.repair,
    )
    with pytest.raises(DamagedFileError, match=r"^a/b.parquet is missing: write a again$"):
        files.read_parquets([copy], ["x"])
    entry = files.write_parquet(day_of_watches(DAYS[0]), str(tmp_path), "a.parquet")
    good = VerifiedPath(str(tmp_path / "a.parquet"), entry.digest, "")
    assert files.read_parquet(good).equals(day_of_watches(DAYS[0]))
    assert files.read_parquets([good, good], ["user_id"]).height == 36


def test_the_paths_of_a_snapshot_know_their_digests(of: Night) -> None:
    listed = {path for bucket in of.ingested.buckets() for path in (*bucket.watches, *bucket.searches)}
    digests = {f"{of.root.store}/{file.file.name}": file.file.digest for file in newest(of).files}
    assert listed and {str(path): path.digest for path in listed if isinstance(path, VerifiedPath)} == {
        path: digests[path][:8] for path in map(str, listed)
    }
    assert str(snapshot_store.path_to_read(of.root.store, file_of(of))) in listed
    copies = pickle.loads(pickle.dumps(of.ingested.buckets()))
    assert copies == of.ingested.buckets()
    before, after = (
        [path for bucket in buckets for path in bucket.watches if isinstance(path, VerifiedPath)]
        for buckets in (of.ingested.buckets(), copies)
    )
    assert before
    assert [(path.digest, path.repair) for path in after] == [(path.digest, path.repair) for path in before]


@pytest.mark.parametrize("nights", [1, 2])
def test_a_damaged_snapshot_is_named_and_rereading_all_raw_logs_repairs_the_store(tmp_path: Path, nights: int) -> None:
    job = daily(tmp_path / "damaged", days=DAYS[: 4 - nights], logs=f"{PATHS}\nallow_missing_days = true")
    for day in (None, *DAYS[4 - nights : 3]):
        if day:
            write_day(job.parent, day, day_of_watches(day))
        of = ingested(job)
    expected, number = newest(of), newest(of).number
    Path(snapshot_store.path_of(of.root.snapshots, number)).write_bytes(b"{")
    with pytest.raises(snapshot_store.DamagedSnapshotError, match="--reread reads all raw logs again"):
        ingested(job)
    ingest.run(replace(of, reread=True))
    found = newest(of)
    assert found.digest == expected.digest and found.number > number
    assert {file.path for file in found.taken} == {file.path for file in expected.taken}
    assert ingest.plan(Night(of.job, of.date)).is_done(Night(of.job, of.date))
