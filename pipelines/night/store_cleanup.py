"""Clean up the store: keep the snapshots that nights refer to, and the days within `keep_days`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pipelines.base import manifest, paths, row_counts, snapshot_store
from pipelines.base.paths import Root
from pipelines.base.row_counts import Account
from pipelines.base.snapshot_store import Snapshot, StoreFile
from pipelines.night.night import Night
from pipelines.night.outputs import IngestOutputs
from transforms.core import files


def sweep(night: Night) -> None:
    """Remove unreferenced snapshots and unlisted files. References of nights older than `keep_days` do not count.

    Nothing is removed while a night's manifest cannot be read, because its references are unknown.
    """
    dates, days = paths.nights(night.root), night.job.storage.keep_days
    first = max(dates) - dt.timedelta(days=days) if dates and days else dt.date.min
    try:
        found = [snapshot_of(night.root, date) for date in dates if date >= first]
    except manifest.ManifestError:
        return
    referred = {number for number in found if number is not None}
    snapshot_store.sweep(night.root.store, night.root.snapshots, referred)


def snapshot_of(root: Root, date: dt.date) -> int | None:
    """Return the number of the snapshot that a night refers to; None before its ingest is complete."""
    found = manifest.load(root.stage(date, "ingest"))
    return found.read(IngestOutputs).snapshot if found else None


def next_number(root: Root) -> int:
    """Return the number of the next snapshot, which no snapshot has (damaged or not) and no night refers to."""
    taken = [snapshot_store.number_of(path) for path in snapshot_store.list_snapshots(root.snapshots)]
    referred = (snapshot_of(root, date) for date in paths.nights(root))
    return 1 + max([*taken, *(number for number in referred if number is not None)], default=0)


def snapshot_exists(root: Root, number: int) -> bool:
    return files.exists(snapshot_store.path_of(root.snapshots, number))


def expire(night: Night, snapshot: Snapshot) -> tuple[Snapshot, Account]:
    """Return the snapshot without the days beyond `keep_days`, and the account of their rows.

    Days are counted back from DATE, or from the newest event if that is older, so that a wrong clock cannot empty the
    store.
    """
    if not night.job.storage.keep_days or not snapshot.files:
        return snapshot, row_counts.total([])
    newest = dt.date.fromisoformat(max(file.day for file in snapshot.files)) + dt.timedelta(days=1)
    first = (min(night.date, newest) - dt.timedelta(days=night.job.storage.keep_days)).isoformat()
    return without_files(snapshot, [file for file in snapshot.files if file.day < first], "expired")


def without_files(snapshot: Snapshot, removed: Sequence[StoreFile], reason: str) -> tuple[Snapshot, Account]:
    """Return the snapshot without some files, not committed, and the account of their rows.

    The files are not opened, because some may be missing or damaged.
    """
    accounts = [row_counts.from_removed(file.table, reason, file.file.rows) for file in removed]
    return snapshot.with_changes((file.file.name for file in removed), []), row_counts.total(accounts)
