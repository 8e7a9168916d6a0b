"""The store: checked events as Parquet files by day and user bucket, and the snapshots that list the current files.

    ROOT/store/watches/2026-11-20/00003-of-00016-1a2b3c4d.parquet    events of one day, users of one bucket
    ROOT/store/snapshots/00000007.json                               the newest snapshot is the current one

A snapshot lists all current data files and all raw files that were ingested. An ingest writes it last, under a new
number: a crash leaves orphaned files, and a reader sees the store either before or after an ingest. The newest snapshot
and those that nights refer to are kept. The next ingest removes the others, and the files that only they list.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines.base import lock, paths
from pipelines.base.manifest import FORMAT_VERSION, ManifestError, difference, file_entry, fingerprint
from transforms.core import days, files
from transforms.core.days import UTC
from transforms.core.digests import MAX_BUCKETS, MIN_BUCKETS
from transforms.core.files import FileEntry, VerifiedPath

if TYPE_CHECKING:  # imports Beam
    from pipelines.base.row_counts import Account

ROWS_A_BUCKET = 1_000_000
REPAIR = "watchnext nightly JOB.toml --reingest {folder} reads the events of its day again from the raw files"
REBUILD = "watchnext nightly JOB.toml --reread reads all raw logs again, starting from the newest readable snapshot"


@dataclass(frozen=True, kw_only=True)
class StoreFile:
    """One data file: distinct events of one table, one day (in the snapshot's time zone) and one bucket, ordered by
    user, time and the remaining columns."""

    table: str
    day: str
    bucket: int
    file: FileEntry  # name relative to ROOT/store


@dataclass(frozen=True, kw_only=True, order=True)
class TakenFile:
    """A raw file whose rows are in the store. A file whose size or modification time changed is another file."""

    path: str
    bytes: int
    changed: float  # seconds since the epoch


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The content of the store at one moment."""

    buckets: int
    number: int = 0  # 0: not written yet
    date: str = ""  # of the night that wrote it
    time_zone: str = UTC  # of the days of its files; snapshots of older versions do not contain it
    files: list[StoreFile] = field(default_factory=list)
    taken: list[TakenFile] = field(default_factory=list)
    days: dict[str, list[str]] = field(default_factory=dict)  # table -> days that had a file, for paths with {date}
    accounts: dict[str, Account] = field(default_factory=dict)  # night -> counts of the rows that it read
    readings: dict[str, dict[str, Any]] = field(default_factory=dict)  # table -> settings its rows were read with
    older_readings: list[dict[str, Any]] = field(default_factory=list)  # rows kept that were read with other settings
    forgotten: str = ""  # digest of the list of users to forget that was last applied to all stored data
    key_check: str = ""  # identifies the pseudonym key; empty: ids are not pseudonymised
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """Return a digest of the events. It does not depend on file names."""
        return fingerprint(self.buckets, sorted((f.table, f.day, f.bucket, f.file.digest) for f in self.files))

    @property
    def rows_by_day(self) -> dict[str, dict[str, int]]:
        """Return table -> day (in `time_zone`) -> number of events."""
        rows: dict[str, dict[str, int]] = {}
        for file in self.files:
            by_day = rows.setdefault(file.table, {})
            by_day[file.day] = by_day.get(file.day, 0) + file.file.rows
        return rows

    def files_between(self, start: dt.datetime, end: dt.datetime) -> list[StoreFile]:
        """Return the files that may contain events with start <= time < end, by table, bucket, day and content."""
        if start >= end:
            return []
        first, last = (days.local_date(moment, self.time_zone).isoformat() for moment in (start, end - days.INSTANT))
        found = (f for f in self.files if first <= f.day <= last)
        return sorted(found, key=lambda f: (f.table, f.bucket, f.day, f.file.digest))

    def rows(self, table: str) -> int:
        """Return the number of events of a table."""
        return sum(f.file.rows for f in self.files if f.table == table)

    def with_changes(self, removed: Iterable[str], added: Iterable[StoreFile]) -> Snapshot:
        """Return an uncommitted copy without the data files named `removed` and with those `added`."""
        names = set(removed)
        kept = [file for file in self.files if file.file.name not in names]
        return replace(self, files=sorted([*kept, *added], key=lambda file: file.file.name))


class DamagedSnapshotError(ManifestError):
    """A snapshot whose content is damaged."""


def latest(folder: str) -> Snapshot | None:
    """Return the newest snapshot, or None in a new store. Raises DamagedSnapshotError."""
    found = list_snapshots(folder)
    return load(found[-1]) if found else None


def newest_key_check(folder: str) -> str:
    """Return what identifies the pseudonym key of the store; empty in a new store, or if ids are not pseudonymised.

    Raises DamagedSnapshotError.
    """
    newest = latest(folder)
    return newest.key_check if newest else ""


def newest_readable(folder: str) -> Snapshot | None:
    """Return the newest snapshot that is not damaged, or None if there is none."""
    for path in reversed(list_snapshots(folder)):
        with suppress(DamagedSnapshotError):
            return load(path)
    return None


def remove_damaged(folder: str) -> None:
    """Remove damaged snapshots; the newest readable one becomes current. Raises LockError if this run lost its lock."""
    lock.require()
    for path in list_snapshots(folder):
        try:
            load(path)
        except DamagedSnapshotError:
            files.remove_files([path])


def list_snapshots(folder: str) -> list[str]:
    """Return the paths of all snapshots, the newest last."""
    return [path for path in files.list_files(folder) if path.endswith(".json")]


def load(path: str) -> Snapshot:
    """Read a snapshot. Raises ManifestError for another format version, DamagedSnapshotError if it is damaged."""
    try:
        content = json.loads(files.read_bytes(path))
        if content["format_version"] != FORMAT_VERSION:
            raise ManifestError(
                f"{path} has format_version {content['format_version']}, but {FORMAT_VERSION} is supported"
            )
        data = [StoreFile(**f | {"file": file_entry(f["file"])}) for f in content["files"]]
        return Snapshot(**content | {"files": data, "taken": [TakenFile(**t) for t in content["taken"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedSnapshotError(
            f"{path} cannot be read ({error}): restore it from a backup of the store, or {REBUILD}"
        ) from error


def path_to_read(store: str, file: StoreFile) -> VerifiedPath:
    """Return the path of a data file. Reading it verifies its digest; an error names the command that repairs it."""
    return VerifiedPath(paths.join(store, file.file.name), file.file.digest, REPAIR)


def damaged_names(store: str, found: Iterable[StoreFile], days: Collection[str]) -> set[str]:
    """Return the names of the files, of the given days, that are missing or damaged."""
    return {file.file.name for file in found if file.day in days and difference(store, file.file)}


def number_of(path: str) -> int:
    """Return the number of the snapshot at `path`."""
    return int(path.rsplit("/", 1)[-1].removesuffix(".json"))


def path_of(folder: str, number: int) -> str:
    """Return the path of the snapshot with a number."""
    return paths.join(folder, f"{number:08d}.json")


def commit(folder: str, snapshot: Snapshot) -> None:
    """Flush the snapshot's new files to disk, then write the snapshot, which makes it the current one.

    Raises LockError if this run lost its lock.
    """
    store = files.parent(folder)
    known = {file.file.name for file in _newest_files(folder)}
    new = (file.file.name for file in snapshot.files if file.file.name not in known)
    files.sync((paths.join(store, name) for name in new), files.parent(store))
    lock.require()
    files.replace_file(path_of(folder, snapshot.number), json.dumps(asdict(snapshot)).encode())


def _newest_files(folder: str) -> list[StoreFile]:
    """Return the files that an earlier commit flushed to disk; an empty list if the newest snapshot is unreadable."""
    with suppress(ManifestError):
        if before := latest(folder):
            return before.files
    return []


def sweep(store: str, folder: str, referred: Collection[int]) -> None:
    """Remove snapshots that are neither the newest nor in `referred`, then data files that no remaining snapshot lists.

    Such data files are left by a crashed ingest, or contain events that were replaced, forgotten or expired. No data
    file is removed if a remaining snapshot cannot be read. Raises LockError if this run lost its lock.
    """
    lock.require()
    found = list_snapshots(folder)
    kept = [path for path in found if path == found[-1] or number_of(path) in referred]
    files.remove_files(path for path in found if path not in kept)
    try:
        listed = {paths.join(store, f.file.name) for path in kept for f in load(path).files}
    except ManifestError:
        return
    files.remove_files(path for path in files.list_files(store) if path not in listed and _is_ingest_output(path))


def _is_ingest_output(path: str) -> bool:
    """Return whether an ingest wrote a file in the store: a data file, or the records of its workers."""
    return path.endswith(".parquet") or path.rsplit("/", 1)[-1].startswith("records-")


def bucket_count(rows: int) -> int:
    """Return the number of buckets of a new store: a power of two with about 1M events of the window per bucket."""
    wanted = max(MIN_BUCKETS, min(MAX_BUCKETS, -(-rows // ROWS_A_BUCKET)))
    return 1 << (wanted - 1).bit_length()
