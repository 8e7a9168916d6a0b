"""The store: checked events as Parquet by day and user bucket, and the snapshots that say which files count.

    ROOT/store/watches/2026-11-20/00003-of-00016-1a2b3c4d.parquet    events of one day, users of one bucket
    ROOT/store/snapshots/00000007.json                               the newest one holds

A snapshot lists every data file that counts and every raw file taken. It is the last thing an ingest writes, under a
number nobody used: a crash leaves orphans, a reader sees the store before or after, never between. Kept are the newest
snapshot and those that nights refer to; the next ingest removes the others, and the files that only they list.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipelines.base import lock, paths
from pipelines.base.manifest import FORMAT_VERSION, ManifestError, difference, file_entry, fingerprint
from pipelines.base.row_counts import Account
from transforms.core import days, files
from transforms.core.days import UTC
from transforms.core.files import FileEntry, VerifiedPath
from transforms.core.frames import MAX_BUCKETS, MIN_BUCKETS

ROWS_A_BUCKET = 1_000_000
REPAIR = "watchnext nightly JOB.toml --reingest {folder} reads the events of its day again from the raw files"
REBUILD = (
    "watchnext nightly JOB.toml --reread reads all raw logs again; it begins with the newest snapshot that can be read"
)


@dataclass(frozen=True, kw_only=True)
class StoreFile:
    """One data file: events of one table, one day of the snapshot's time zone, one bucket; distinct, ordered by user,
    time and the rest."""

    table: str
    day: str
    bucket: int
    file: FileEntry  # name relative to ROOT/store


@dataclass(frozen=True, kw_only=True, order=True)
class TakenFile:
    """A raw file whose rows are in the store; changed size or time make it another file."""

    path: str
    bytes: int
    changed: float  # seconds since the epoch


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The store at one moment."""

    buckets: int
    number: int = 0  # 0: nothing written yet
    date: str = ""  # the night that wrote it
    time_zone: str = UTC  # of the days of its files; snapshots of older versions do not name it
    files: list[StoreFile] = field(default_factory=list)
    taken: list[TakenFile] = field(default_factory=list)
    days: dict[str, list[str]] = field(default_factory=dict)  # table -> days whose file was seen, of paths with {date}
    accounts: dict[str, Account] = field(default_factory=dict)  # night -> what became of the rows it read
    readings: dict[str, dict[str, Any]] = field(default_factory=dict)  # table -> settings its rows were read under
    older_readings: list[dict[str, Any]] = field(default_factory=list)  # what was kept as it was read under others
    forgotten: str = ""  # digest of the list of users that was applied to all that is kept
    key_check: str = ""  # tells the key of pseudonyms from another; empty: ids as they came
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """Of the events alone, whatever the names of their files."""
        return fingerprint(self.buckets, sorted((f.table, f.day, f.bucket, f.file.digest) for f in self.files))

    @property
    def rows_by_day(self) -> dict[str, dict[str, int]]:
        """table -> day -> number of its events; days in `time_zone`."""
        rows: dict[str, dict[str, int]] = {}
        for file in self.files:
            of_day = rows.setdefault(file.table, {})
            of_day[file.day] = of_day.get(file.day, 0) + file.file.rows
        return rows

    def within(self, start: dt.datetime, end: dt.datetime) -> list[StoreFile]:
        """The files that may hold events with start <= time < end, by table, bucket, day and content."""
        if start >= end:
            return []
        first, last = (days.local_date(moment, self.time_zone).isoformat() for moment in (start, end - days.INSTANT))
        found = (f for f in self.files if first <= f.day <= last)
        return sorted(found, key=lambda f: (f.table, f.bucket, f.day, f.file.digest))

    def rows(self, table: str) -> int:
        return sum(f.file.rows for f in self.files if f.table == table)

    def changed(self, gone: Iterable[str], new: Iterable[StoreFile]) -> Snapshot:
        """The snapshot without the data files of some names and with new ones, as yet uncommitted."""
        leave = set(gone)
        kept = [file for file in self.files if file.file.name not in leave]
        return replace(self, files=sorted([*kept, *new], key=lambda file: file.file.name))


class DamagedSnapshotError(ManifestError):
    """A snapshot whose content is not what was written."""


def latest(folder: str) -> Snapshot | None:
    """The newest snapshot in the snapshots' folder, or None in a new store."""
    found = list_snapshots(folder)
    return load(found[-1]) if found else None


def newest_readable(folder: str) -> Snapshot | None:
    """The newest snapshot that is not damaged, or None if there is none."""
    for path in reversed(list_snapshots(folder)):
        with suppress(DamagedSnapshotError):
            return load(path)
    return None


def remove_damaged(folder: str) -> None:
    """Remove damaged snapshots, so that the newest one that can be read counts. Raises LockError if this run lost its
    lock."""
    lock.require()
    for path in list_snapshots(folder):
        try:
            load(path)
        except DamagedSnapshotError:
            files.remove_files([path])


def list_snapshots(folder: str) -> list[str]:
    """Paths of all snapshots, the newest last."""
    return [path for path in files.list_files(folder) if path.endswith(".json")]


def load(path: str) -> Snapshot:
    try:
        content = json.loads(files.read_bytes(path))
        if content["format_version"] != FORMAT_VERSION:
            raise ManifestError(f"{path} has format_version {content['format_version']}, this is {FORMAT_VERSION}")
        data = [store_file(f) for f in content["files"]]
        return Snapshot(**content | {"files": data, "taken": [TakenFile(**t) for t in content["taken"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedSnapshotError(
            f"{path} cannot be read ({error}): restore it from a backup of the store, or {REBUILD}"
        ) from error


def store_file(record: Mapping[str, Any]) -> StoreFile:
    """A data file from a record that names its table, day, bucket and file."""
    named = {name: record[name] for name in ("table", "day", "bucket")}
    return StoreFile(**named, file=file_entry(record["file"]))


def path_to_read(store: str, file: StoreFile) -> VerifiedPath:
    """The path of a data file; whoever reads it learns if it is missing or damaged, and what repairs it."""
    return VerifiedPath(paths.join(store, file.file.name), file.file.digest, REPAIR)


def damaged_names(store: str, found: Iterable[StoreFile], days: Collection[str]) -> set[str]:
    """The names of those files, of some days, that are missing or damaged."""
    return {file.file.name for file in found if file.day in days and difference(store, file.file)}


def number_of(path: str) -> int:
    """The number of the snapshot at `path`."""
    return int(path.rsplit("/", 1)[-1].removesuffix(".json"))


def path_of(folder: str, number: int) -> str:
    return paths.join(folder, f"{number:08d}.json")


def commit(folder: str, snapshot: Snapshot) -> None:
    """Write the snapshot, once its files are on the disk: from here on it is the newest.

    Raises LockError if this run lost its lock.
    """
    store = files.parent(folder)
    known = {file.file.name for file in _newest_files(folder)}
    new = (file.file.name for file in snapshot.files if file.file.name not in known)
    files.sync((paths.join(store, name) for name in new), files.parent(store))
    lock.require()
    files.replace_file(path_of(folder, snapshot.number), json.dumps(asdict(snapshot)).encode())


def _newest_files(folder: str) -> list[StoreFile]:
    """The files that are on the disk since an earlier commit; none if that cannot be told."""
    try:
        before = latest(folder)
    except ManifestError:
        return []
    return before.files if before else []


def sweep(store: str, folder: str, referred: Collection[int]) -> None:
    """Remove the snapshots whose numbers are not `referred` to, the newest aside, then data files that none lists.

    Those are what a crashed ingest left behind, and events that were replaced, forgotten or grew too old. No data file
    is removed while one of those snapshots cannot be read. Raises LockError if this run lost its lock.
    """
    lock.require()
    found = list_snapshots(folder)
    kept = [path for path in found if path == found[-1] or number_of(path) in referred]
    files.remove_files(path for path in found if path not in kept)
    try:
        listed = {paths.join(store, f.file.name) for path in kept for f in load(path).files}
    except ManifestError:
        return
    files.remove_files(path for path in files.list_files(store) if path not in listed and _is_of_an_ingest(path))


def _is_of_an_ingest(path: str) -> bool:
    """Whether an ingest wrote a file of the store that no snapshot lists: a data file, or its notes about them."""
    return path.endswith(".parquet") or path.rsplit("/", 1)[-1].startswith("records-")


def bucket_count(rows: int) -> int:
    """How many buckets a store of about this many window events gets: a power of two, about 1M events each."""
    wanted = max(MIN_BUCKETS, min(MAX_BUCKETS, -(-rows // ROWS_A_BUCKET)))
    return 1 << (wanted - 1).bit_length()
