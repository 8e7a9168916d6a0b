"""Remove the data of users to forget from everything that is stored: the store, its snapshots, and all nights.

Files are rewritten without the users' rows, under the same names, and manifests and `published.json` are updated.
Reports lose their section of some users. Results of training and counting (vocabulary, figures of a report, model)
remain until a later night replaces them: a warm-started model does so gradually, one trained with `warm_start = false`
immediately. A killed run is repeated and continues where it stopped; the newest snapshot records the list of users only
after everything is done.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial

import polars as pl

from pipelines.base import manifest, paths, published_lists, row_counts, snapshot_store
from pipelines.base.manifest import Manifest
from pipelines.base.published_lists import Kind
from pipelines.base.snapshot_store import Snapshot, StoreFile
from pipelines.logs import rewriting
from pipelines.night import publication_file, store_cleanup
from pipelines.night.night import Night
from transforms.core import files
from transforms.core.digests import id_digests
from transforms.core.files import DamagedFileError, FileEntry
from transforms.core.records import WriteRecords, pop_records
from transforms.logs.privacy import PrivacyFilter, redact_texts
from transforms.logs.store_rewrite import RewriteFiles, RewrittenFile, Scrub, drop_stored_rows
from transforms.report.page import without_users

_BUCKET = re.compile(r"(\d{5})-of-(\d{5})-[^/]*\.(parquet|tfrecord\.gz)$")
_OF_USERS: tuple[Kind, ...] = ("lists", "user_vectors")  # published files with one row per user
_LEARNED = ("train", "index")  # stages whose output contains no rows of users


def forget_users(night: Night, privacy_filter: PrivacyFilter) -> Snapshot:
    """Remove the users from everything that is stored. Return the newest snapshot after that."""
    from pipelines.serving import publication  # imports sinks, gates and reports, which ingest otherwise does not need

    users = privacy_filter.stored_names()
    _forget_in_store(night, privacy_filter, users)
    for date in paths.nights(night.root):
        digest = _neighbours_digest(night, date)
        fresh = _forget_in_night(night, date, privacy_filter, users)
        _forget_in_publications(night, date, privacy_filter, users, fresh, {digest: _neighbours_digest(night, date)})
        files.rewrite_text(night.root.report(date), without_users)  # whoever is in it
    publication.forget(night, users)
    store_cleanup.sweep(night)
    newest = snapshot_store.latest(night.root.snapshots)
    assert newest is not None
    done = replace(newest, forgotten=privacy_filter.forget.digest)
    snapshot_store.commit(night.root.snapshots, done)
    return done


def _buckets(users: pl.Series, count: int) -> set[int]:
    """Return the buckets, out of `count`, of the users."""
    return {int(digest) % count for digest in id_digests(users)}


def _forget_in_store(night: Night, privacy_filter: PrivacyFilter, users: pl.Series) -> None:
    """Rewrite the data files of all snapshots that may contain events of the users, then the snapshots, newest last.

    Damaged files of days that this run ingests again are removed from the snapshots instead of rewritten.
    """
    snapshots = [snapshot_store.load(path) for path in snapshot_store.list_snapshots(night.root.snapshots)]
    affected = files_of_users(snapshots, users)
    days = [day.isoformat() for day in night.reingest]
    damaged = snapshot_store.damaged_names(night.root.store, (file for _, file in affected.values()), days)
    tasks = [rewriting.rewrite_task(file, count) for name, (count, file) in affected.items() if name not in damaged]
    rule = partial(drop_stored_rows, privacy=privacy_filter)
    rewritten = rewriting.run_rewrite(night, tasks, RewriteFiles(rule, night.root.store))
    removed = (affected[name][1] for name in damaged)
    records = rewritten.of(RewrittenFile) + [
        RewrittenFile(table=file.table, replaced=file.file.name, left_out=file.file.rows, file=None) for file in removed
    ]
    for snapshot in snapshots:
        changed = without_rows(snapshot, records, damaged, night.date)
        if changed is not None:
            snapshot_store.commit(night.root.snapshots, changed)


def files_of_users(snapshots: Iterable[Snapshot], users: pl.Series) -> dict[str, tuple[int, StoreFile]]:
    """Return name -> (number of buckets, file) of the data files in the users' buckets, over all snapshots."""
    every = list(snapshots)
    buckets = {count: _buckets(users, count) for count in {snapshot.buckets for snapshot in every}}
    return {
        file.file.name: (snapshot.buckets, file)
        for snapshot in every
        for file in snapshot.files
        if file.bucket in buckets[snapshot.buckets]
    }


def without_rows(
    snapshot: Snapshot, records: Iterable[RewrittenFile], damaged: Collection[str], date: dt.date
) -> Snapshot | None:
    """Return a snapshot with the results of a rewrite, counted in the account of the night `date`; None if no file of
    the snapshot was rewritten or removed. damaged: names of files that are removed as a whole."""
    names = {file.file.name for file in snapshot.files}
    changes = [record for record in records if record.replaced in names]
    if not changes:
        return None
    reasons = dict.fromkeys(damaged, "reingested")
    removed = [
        row_counts.from_removed(record.table, reasons.get(record.replaced, "forgotten"), record.left_out)
        for record in changes
    ]
    return rewriting.add_to_account(rewriting.replace_files(snapshot, changes), date, *removed)


def _neighbours_digest(night: Night, date: dt.date) -> str:
    found = manifest.load(night.root.stage(date, publication_file.NEIGHBOURS))
    return found.digest if found else ""


def _forget_in_publications(
    night: Night,
    date: dt.date,
    privacy_filter: PrivacyFilter,
    users: pl.Series,
    fresh: dict[str, FileEntry],
    digests: dict[str, str],
) -> None:
    """Rewrite the files that publications of a night serve but no manifest lists any more, then the lists of files.

    fresh: entries of rewritten files, by name relative to ROOT; digests: of the manifest of neighbours, old -> new.
    """
    root = night.root
    for path in published_lists.paths_of_night(root, date):
        lists = published_lists.load(path)
        buckets = _buckets(users, lists.buckets)
        affected = [e for kind in _OF_USERS for e in lists.of(kind) if paths.shard_index(e.name) in buckets]
        entries = fresh | _scrub(night, root.path, [e.name for e in affected if e.name not in fresh], privacy_filter)
        now = digests.get(lists.neighbours, lists.neighbours)
        changed = lists.with_entries(entries).model_copy(update={"neighbours": now})
        if changed != lists:
            files.replace_file(path, changed.to_bytes())


def _scrub(night: Night, folder: str, names: list[str], privacy_filter: PrivacyFilter) -> dict[str, FileEntry]:
    """Remove the users' rows from files. Return the entries of all these files, changed or not, by name."""
    if not names:
        return {}
    records = paths.join(folder, f"records-{manifest.new_attempt()}.json")
    with night.beam.pipeline("ingest") as pipeline:
        pipeline | night.beam.create(names) | Scrub(folder, privacy_filter) | WriteRecords(records)
    return {entry.name: entry for entry in pop_records(records, FileEntry).of(FileEntry)}


def _forget_in_night(
    night: Night, date: dt.date, privacy_filter: PrivacyFilter, users: pl.Series
) -> dict[str, FileEntry]:
    """Rewrite a night's bucketed files and the texts of its rejected rows, and remove unlisted files.

    Return the entries of the files that may have changed, by name relative to ROOT.
    """
    fresh: dict[str, FileEntry] = {}
    for stage in (stage for stage in paths.FOLDERS if stage not in _LEARNED):
        folder = night.root.stage(date, stage)
        found = manifest.load(folder)
        manifest.sweep(folder, found, paths.EXTRA_FOLDERS.get(stage, ()))
        if found is not None:
            changed = _forget_in_stage(night, folder, found, privacy_filter, users)
            fresh |= {entry.name: entry for entry in published_lists.relative_entries(changed, folder, night.root)}
    if privacy_filter.key is None:  # with pseudonyms, no texts are stored
        for path in files.list_files(night.root.rejects(date)):
            _forget_in_rejects(path, night.root.rejects(date), users)
    return fresh


def _forget_in_rejects(path: str, folder: str, users: pl.Series) -> None:
    """Remove the texts that contain the users' ids from a file of rejected rows, or the whole file if it is damaged."""
    try:
        rejected = files.read_parquet(path)
    except DamagedFileError:  # left by a killed ingest; it may contain any id
        files.remove_files([path])
        return
    kept_rows = redact_texts(rejected, users)
    if not kept_rows.equals(rejected):
        files.replace_parquet(kept_rows, folder, path.rsplit("/", 1)[-1])


def _forget_in_stage(
    night: Night, folder: str, found: Manifest, privacy_filter: PrivacyFilter, users: pl.Series
) -> Iterable[FileEntry]:
    """Rewrite a stage's bucketed files, then its manifest. Return the entries of the files that may have changed."""
    parts = {entry.name: part for entry in found.present if (part := _BUCKET.search(entry.name))}
    buckets = {count: _buckets(users, count) for count in {int(part[2]) for part in parts.values()}}
    names = [name for name, part in parts.items() if int(part[1]) in buckets[int(part[2])]]
    fresh = _scrub(night, folder, names, privacy_filter)
    if not fresh:
        return ()
    entries = [fresh.get(entry.name, entry) for entry in found.files]
    if entries != found.files:
        manifest.commit(folder, _with_users(replace(found, files=entries)))
    return fresh.values()


def _with_users(done: Manifest) -> Manifest:
    """Return a manifest of lists with the number of users that its files have now."""
    if done.stage not in (publication_file.NEIGHBOURS, publication_file.RANKING):
        return done
    users = {"users": sum(entry.rows for entry in publication_file.own(done))}
    if done.outputs is not None and "users" in done.outputs:
        return replace(done, outputs=done.outputs | users)
    return replace(done, counts=done.counts | users)
