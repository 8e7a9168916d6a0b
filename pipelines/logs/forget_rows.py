"""Users who are to be forgotten leave all that is kept: the store, its snapshots, and every night.

Their rows go; everything else stays as it is, under the same names, and manifests and `published.json` say so. What was
learned from them with others (vocabulary, counts of a report, the model) stays until a later night replaces it; a model
that goes on from the last one does so little by little, that of a night with `warm_start = false` at once. A run that
was killed is done again, and finds less to do; only when all is done does the newest snapshot say so.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import replace

import polars as pl

from pipelines.base import manifest, paths, published_lists, row_counts, snapshot_store
from pipelines.base.manifest import Manifest
from pipelines.base.published_lists import Kind
from pipelines.base.snapshot_store import Snapshot, StoreFile
from pipelines.logs import rewriting
from pipelines.night import night_list, sink_protocol
from pipelines.night.stage import Night
from transforms.core import files
from transforms.core.files import DamagedFileError, FileEntry
from transforms.core.frames import id_digests
from transforms.core.records import WriteRecords, pop_records
from transforms.logs.privacy import PrivacyFilter, redact_texts
from transforms.logs.store_rewrite import DropForgotten, RewriteFiles, RewrittenFile, Scrub

_BUCKET = re.compile(r"(\d{5})-of-(\d{5})-[^/]*\.(parquet|tfrecord\.gz)$")
_OF_USERS: tuple[Kind, ...] = ("lists", "user_vectors")  # what of a publication has a row a user
_LEARNED = ("train", "index")  # stages that keep nothing of a single user


def is_due(snapshot: Snapshot | None, screen: PrivacyFilter) -> bool:
    """Whether the list of users changed since it was applied to what is kept."""
    return snapshot is not None and snapshot.forgotten != screen.forget.digest


def forget_users(night: Night, screen: PrivacyFilter) -> Snapshot:
    """Remove the users from all that is kept; the newest snapshot as it then is."""
    from pipelines.serving import publication  # sinks, gates, reports: an ingest that forgets nobody does not load them

    users = screen.stored_names()
    _forget_in_store(night, screen, users)
    for date in night_list.nights(night.root):
        digest = _neighbours_digest(night, date)
        fresh = _forget_in_night(night, date, screen, users)
        _forget_in_publications(night, date, screen, users, fresh, {digest: _neighbours_digest(night, date)})
    publication.forget(night, users)
    night_list.sweep(night)
    newest = snapshot_store.latest(night.root.snapshots)
    assert newest is not None
    done = replace(newest, forgotten=screen.forget.digest)
    snapshot_store.commit(night.root.snapshots, done)
    return done


def _buckets(users: pl.Series, count: int) -> set[int]:
    return {int(digest) % count for digest in id_digests(users)}


def _forget_in_store(night: Night, screen: PrivacyFilter, users: pl.Series) -> None:
    """Rewrite the data files of all snapshots that hold events of the users, then the snapshots, the newest last.

    A damaged file of a day that this run ingests again leaves the snapshots: nobody can read it.
    """
    found = [snapshot_store.load(path) for path in snapshot_store.list_snapshots(night.root.snapshots)]
    buckets = {count: _buckets(users, count) for count in {one.buckets for one in found}}
    held = {f.file.name: (one.buckets, f) for one in found for f in one.files if f.bucket in buckets[one.buckets]}
    days = [day.isoformat() for day in night.reingest]
    damaged = snapshot_store.damaged_names(night.root.store, (file for _, file in held.values()), days)
    parts = [rewriting.rewrite_task(file, count) for name, (count, file) in held.items() if name not in damaged]
    rewritten = rewriting.run_rewrite(night, parts, RewriteFiles(DropForgotten(screen), night.root.store))
    records = rewritten.of(RewrittenFile) + [_lost(held[name][1]) for name in damaged]
    for one in found:
        listed = {file.file.name: file for file in one.files}
        changes = [record for record in records if record.replaced in listed]
        if changes:
            why = dict.fromkeys(damaged, "reingested")
            lost = [
                row_counts.from_removed(record.table, why.get(record.replaced, "forgotten"), record.left_out)
                for record in changes
            ]
            snapshot_store.commit(
                night.root.snapshots, rewriting.add_to_account(rewriting.replace_files(one, changes), night.date, *lost)
            )


def _lost(file: StoreFile) -> RewrittenFile:
    """The record of a data file that leaves the snapshots whole."""
    return RewrittenFile(table=file.table, replaced=file.file.name, left_out=file.file.rows, file=None)


def _neighbours_digest(night: Night, date: dt.date) -> str:
    found = manifest.load(night.root.stage(date, sink_protocol.NEIGHBOURS))
    return found.digest if found else ""


def _forget_in_publications(
    night: Night,
    date: dt.date,
    screen: PrivacyFilter,
    users: pl.Series,
    fresh: dict[str, FileEntry],
    digests: dict[str, str],
) -> None:
    """Rewrite the files that publications of a night serve and no manifest lists any more, then the lists of their
    files. fresh: entries of the files that were rewritten already, by name relative to ROOT; digests: old -> new, of
    the manifest of stage neighbours."""
    root = night.root
    for path in published_lists.paths_of_night(root, date):
        lists = published_lists.load(path)
        buckets = _buckets(users, lists.buckets)
        held = [entry for kind in _OF_USERS for entry in lists.of(kind) if paths.shard_index(entry.name) in buckets]
        entries = fresh | _scrubbed(night, root.path, [entry.name for entry in held if entry.name not in fresh], screen)
        now = digests.get(lists.neighbours, lists.neighbours)
        changed = lists.with_entries(entries).model_copy(update={"neighbours": now})
        if changed != lists:
            published_lists.rewrite(path, changed)


def _scrubbed(night: Night, folder: str, names: list[str], screen: PrivacyFilter) -> dict[str, FileEntry]:
    """Take the users out of some files; the entries of these, changed or not, by name."""
    if not names:
        return {}
    records = paths.join(folder, f"records-{manifest.new_attempt()}.json")
    with night.pipeline("ingest") as pipeline:
        pipeline | night.create(names) | Scrub(folder, screen) | WriteRecords(records)
    return {entry.name: entry for entry in pop_records(records, FileEntry).of(FileEntry)}


def _forget_in_night(night: Night, date: dt.date, screen: PrivacyFilter, users: pl.Series) -> dict[str, FileEntry]:
    """Rewrite a night's files by bucket, and the texts of refused rows; remove what nothing lists. The entries of the
    files that may have changed, by name relative to ROOT."""
    fresh: dict[str, FileEntry] = {}
    for stage in (stage for stage in paths.FOLDERS if stage not in _LEARNED):
        folder = night.root.stage(date, stage)
        found = manifest.load(folder)
        manifest.sweep(folder, found, paths.EXTRA_FOLDERS.get(stage, ()))
        if found is not None:
            changed = _forget_in_stage(night, folder, found, screen, users)
            fresh |= {entry.name: entry for entry in published_lists.relative_entries(changed, folder, night.root)}
    if screen.key is None:  # with pseudonyms, no text was kept
        for path in files.list_files(night.root.rejects(date)):
            _forget_in_rejects(path, night.root.rejects(date), users)
    return fresh


def _forget_in_rejects(path: str, folder: str, users: pl.Series) -> None:
    """Take the texts that name the users out of a file of refused rows; one that cannot be read is removed whole."""
    try:
        refused = files.read_parquet(path)
    except DamagedFileError:  # of an ingest that was killed: it may name anybody
        files.remove_files([path])
        return
    kept_rows = redact_texts(refused, users)
    if not kept_rows.equals(refused):
        files.replace_parquet(kept_rows, folder, path.rsplit("/", 1)[-1])


def _forget_in_stage(
    night: Night, folder: str, found: Manifest, screen: PrivacyFilter, users: pl.Series
) -> Iterable[FileEntry]:
    """Rewrite a stage's files by bucket, then its manifest; the entries of the files that may have changed."""
    parts = {entry.name: part for entry in found.present if (part := _BUCKET.search(entry.name))}
    buckets = {count: _buckets(users, count) for count in {int(part[2]) for part in parts.values()}}
    names = [name for name, part in parts.items() if int(part[1]) in buckets[int(part[2])]]
    fresh = _scrubbed(night, folder, names, screen)
    if not fresh:
        return ()
    entries = [fresh.get(entry.name, entry) for entry in found.files]
    if entries != found.files:
        manifest.commit(folder, _with_users(replace(found, files=entries)))
    return fresh.values()


def _with_users(done: Manifest) -> Manifest:
    """Return a manifest of lists with the number of users that its files have now."""
    if done.stage not in (sink_protocol.NEIGHBOURS, sink_protocol.RANKING):
        return done
    users = {"users": sum(entry.rows for entry in sink_protocol.own(done))}
    if done.outputs is not None and "users" in done.outputs:
        return replace(done, outputs=done.outputs | users)
    return replace(done, counts=done.counts | users)
