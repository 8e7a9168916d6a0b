"""Stage 1: parse, check and shuffle each raw file once, and append its rows to the store.

raw files not read yet -> ReadLogs -> PartitionByBucket -> WriteDays -> ROOT/store, and its next snapshot
catalogue, users, pairs that must not be shown -> ReadLogs -> nights/DATE/catalogue
rejected rows           -> nights/DATE/rejects: table, file, row, reason, text

Before that, users on the list of `[privacy] forget` are removed from the store and from all nights. The days given by
`--reingest` are removed from the store and read again from the current raw files.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from pipelines.base import command_lines, manifest, paths, row_counts, snapshot_store
from pipelines.base.raw_files import RawFiles
from pipelines.base.row_counts import Account
from pipelines.base.snapshot_store import Snapshot, StoreFile, TakenFile
from pipelines.config.jobs import JobError
from pipelines.logs import forget_rows, ingest_plan, joins, reading_settings, rewriting
from pipelines.logs.ingest_plan import IngestPlan
from pipelines.logs.log_reader import LOGS, Reader
from pipelines.night import store_cleanup
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import IngestOutputs
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.logs.ingest import MAX_LISTED_ROWS, DuplicateRows, EventFile, ReplacedFile
from transforms.logs.privacy import Span
from transforms.logs.readers import count_rows
from transforms.logs.schemas import BIGQUERY_PREFIX

_SIDE = ("videos", "users", "hidden")  # tables that each ingest reads whole


add_arguments = command_lines.add_ingest_arguments


def given_options(args: argparse.Namespace) -> list[tuple[str, bool]]:
    """Return the options of this stage, and whether each was given."""
    names = ("reingest", "reread", "keep_old_readings")
    return [(f"--{name.replace('_', '-')}", bool(getattr(args, name))) for name in names]


def options_of(night: Night) -> list[str]:
    """Return the command line options of this stage for a night."""
    flags = {"--reread": night.reread, "--keep-old-readings": night.keep_old_readings}
    return [f"--reingest={day}" for day in night.reingest] + [flag for flag, is_set in flags.items() if is_set]


def plan(night: Night) -> Plan:
    """Return the plan. The stage is complete if all raw files were read, the list of users to forget was applied, no
    day is to be read again, the catalogue, the users table and the hidden pairs are those that were read, and the
    settings that affect the result (in [logs], and `user_categories`) have not changed."""
    return _stage_plan(night, IngestPlan.from_night(night))


def run(night: Night) -> None:
    """Read all new raw files. Raises StageError, and stores nothing, if more than `max_reject_fraction` is rejected."""
    plan = IngestPlan.from_night(night)
    if night.reread:
        snapshot_store.remove_damaged(night.root.snapshots)
    if plan.description:
        store_cleanup.sweep(night)
    complete(night, _stage_plan(night, plan), partial(_work, plan))


def _stage_plan(night: Night, plan: IngestPlan) -> Plan:
    inputs = {name: manifest.fingerprint([asdict(file) for file in plan.found[name].files]) for name in _SIDE}
    inputs["forget"] = plan.privacy_filter.forget.digest
    settings = {
        "logs": night.job.logs.model_dump(exclude={"max_reject_fraction", "batch_bytes", "allow_missing_days"}),
        "examples": night.job.examples.model_dump(include={"user_categories"}),
    }
    return Plan("ingest", inputs, settings, plan.description)


def _work(plan: IngestPlan, night: Night, folder: str, attempt: str) -> StageResult:
    forgotten = _forgotten_before(night, plan)
    before = forget_rows.forget_users(night, plan.privacy_filter) if plan.forgets else plan.before
    empty = Snapshot(
        buckets=before.buckets if before else _bucket_count(night, plan),
        time_zone=night.job.logs.time_zone,
        key_check=plan.privacy_filter.key.check if plan.privacy_filter.key else "",
        forgotten=plan.privacy_filter.forget.digest,
    )
    snapshot = before or empty
    stored = [file.day for file in snapshot.files]
    reader = Reader(
        night=night,
        folder=folder,
        attempt=attempt,
        buckets=snapshot.buckets,
        privacy_filter=replace(plan.privacy_filter, tracks_forgotten=_list_is_new(plan)),
        found=plan.readable,
        forgotten=forgotten,
        start=night.dates.span(min(map(dt.date.fromisoformat, stored)))[0] if plan.reread and stored else None,
    )
    _sweep_rejects(night, snapshot)
    side = reader.catalogue()
    entries = side.of(FileEntry)
    account = row_counts.from_records(side)
    if plan.changes_store:
        catalogues = [paths.join(folder, entry.name) for entry in entries if entry.name.startswith("videos-")]
        snapshot = _ingest_logs(night, plan, reader, snapshot, account, catalogues[0] if catalogues else None)
    else:
        _check_rejects(night, account)
    if not snapshot.rows("watches"):
        raise StageError(f"logs.watches = {night.job.logs.watches!r}: there is not one valid watch in these logs")
    ours = snapshot.accounts.get(night.date.isoformat())
    account = row_counts.total([*([ours] if ours else []), account])  # of all ingests of the night
    joins_found, join_notes = _joined(night, plan, snapshot, entries, forgotten)
    counts = {
        "store": snapshot.digest,
        "buckets": snapshot.buckets,
        "removed": account["removed"],
        "notes": [*_notes(night, plan, snapshot, account), *_notes_of_rows(side.of(DuplicateRows)), *join_notes],
        "joins": joins_found,
    }
    outputs = IngestOutputs(
        snapshot=snapshot.number,
        rows={table.name: snapshot.rows(table.name) for table in LOGS},
        tables=account["tables"],
        rejects=account["rejects"],
    )
    return StageResult(entries, outputs, counts)


def _list_is_new(plan: IngestPlan) -> bool:
    """Return whether the list of users to forget is applied for the first time."""
    return bool(plan.privacy_filter.forget.paths) and (plan.before is None or plan.forgets)


def _forgotten_before(night: Night, plan: IngestPlan) -> set[int]:
    """Return the indices, in the changed list of users to forget, of users with stored events."""
    if plan.before is None or not _list_is_new(plan):
        return set()
    days = [day.isoformat() for day in night.reingest]  # their files may be damaged, and will be rewritten
    gone = snapshot_store.damaged_names(night.root.store, plan.before.files, days)
    return joins.forgotten_in_store(
        night.root.store, plan.before.with_changes(gone, ()), plan.privacy_filter.forgotten_users()
    )


def _joined(
    night: Night, plan: IngestPlan, snapshot: Snapshot, entries: list[FileEntry], forgotten: set[int]
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return the ids of each newly read table and of a new list of users to forget that match no row, and notes."""
    folder = night.folder("ingest")
    side = {name: [paths.join(folder, e.name) for e in entries if e.name.startswith(name)] for name in _SIDE}
    compared = joins.compare(night.root.store, snapshot, side)
    found, notes = dict(compared.matches), list(joins.unmatched_notes(compared))
    if _list_is_new(plan):
        earlier = plan.before is not None and bool(plan.before.forgotten)
        found["forget"] = joins.match_forget_list(plan.privacy_filter.forget.ids(), forgotten)
        notes += joins.forget_notes(found["forget"], earlier=earlier)
    return {name: {"values": match.values, "unmatched": match.unmatched} for name, match in found.items()}, notes


def _bucket_count(night: Night, plan: IngestPlan) -> int:
    """Return the bucket count of a new store."""
    if night.job.storage.buckets:
        return night.job.storage.buckets
    watches = [file.path for file in plan.found["watches"].files]
    if watches[0].startswith(BIGQUERY_PREFIX):
        raise JobError("storage.buckets is missing: a new store counts the rows of files, not of a BigQuery table")
    return snapshot_store.bucket_count(sum(count_rows(path) for path in watches))


def _sweep_rejects(night: Night, snapshot: Snapshot) -> None:
    """Remove the lists of rejected rows of failed attempts and of tables that are read again."""
    account = snapshot.accounts.get(night.date.isoformat())
    folder = night.root.rejects(night.date)
    listed = {paths.join(folder, name) for name in (account["rejects_files"] if account else ())}
    files.remove_files(path for path in files.list_files(folder) if path not in listed)


def _ingest_logs(
    night: Night, plan: IngestPlan, reader: Reader, before: Snapshot, side: Account, catalogue: str | None
) -> Snapshot:
    """Read logs, at most `batch_bytes` at a time, and commit the store's next snapshot."""
    if plan.rearranges:
        before = rewriting.rearrange(night, before, buckets=before.buckets, zone=plan.time_zone)
    if plan.reapplies_rule:
        before = rewriting.reapply_completion_rule(night, before, reader.rules(catalogue))
    gone = [file for span in plan.spans for file in before.files_between(*span)]
    snapshot, account = store_cleanup.without_files(before, gone, "reingested")
    if plan.reread:
        snapshot = replace(snapshot, files=[], time_zone=plan.time_zone)
    for raw, spans in ((plan.to_reingest, plan.spans), (plan.pending, ())):
        for batch in _batches(raw, night.job.logs.batch_bytes):
            records = replace(reader, rejected=_rejected(night, before, account)).logs(
                batch, snapshot, catalogue, spans
            )
            replaced = [file.name for file in records.of(ReplacedFile)]
            snapshot = snapshot.with_changes(replaced, [StoreFile(**vars(file)) for file in records.of(EventFile)])
            account = row_counts.total([account, row_counts.from_records(records)])
    _check_rejects(night, row_counts.total([account, side]))
    _check_days(night, before, snapshot, plan.spans)
    if plan.reread:
        snapshot, reread = rewriting.merge_reread(night, before, snapshot, plan.missing_files)
        account = row_counts.total([account, reread])
    snapshot, expired = store_cleanup.expire(night, snapshot)
    done = replace(
        rewriting.add_to_account(snapshot, night.date, account, expired),
        number=plan.next_number,
        date=night.date.isoformat(),
        taken=_taken([*before.taken, *plan.pending]),
        days=_days(before, plan.found),
        readings=reading_settings.readings_of_job(night.job.logs),
        older_readings=[*before.older_readings, *_older_readings(night, plan, snapshot)],
    )
    snapshot_store.commit(night.root.snapshots, done)
    return done


def _older_readings(night: Night, plan: IngestPlan, snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """Yield the snapshot's entries on rows that were read with other settings and are kept."""
    found = [*plan.kept_changes, *plan.changes_of("reader")]
    for change in found if not plan.reread or plan.kept_changes else ():
        if snapshot.rows(change.table):
            yield {"date": night.date.isoformat(), **asdict(change)}


def _rejected(night: Night, before: Snapshot, account: Account) -> dict[str, int]:
    """Return the number of rows that the ingests of this date rejected, by table and reason."""
    earlier = before.accounts.get(night.date.isoformat())
    return dict(row_counts.total([account, *([earlier] if earlier else [])])["rejects"])


def _check_days(night: Night, before: Snapshot, after: Snapshot, spans: tuple[Span, ...]) -> None:
    """Raise StageError if a day that is ingested again had events and would have none."""
    for span in spans:
        had, has = ({file.table for file in one.files_between(*span)} for one in (before, after))
        if had - has and not night.job.logs.allow_missing_days:
            raise StageError(
                f"the raw files hold nothing of {span[0]:%Y-%m-%d} for {', '.join(sorted(had - has))}, so --reingest "
                "would empty that day; nothing was changed (set allow_missing_days = true in [logs] to allow this)"
            )


def _taken(every: list[TakenFile]) -> list[TakenFile]:
    """Return the last version of each raw file; for a BigQuery table, one per date."""
    return sorted({(f.path, f.changed if f.path.startswith(BIGQUERY_PREFIX) else 0): f for f in every}.values())


def _days(before: Snapshot, found: dict[str, RawFiles]) -> dict[str, list[str]]:
    return {name: sorted({*before.days.get(name, []), *of.days}) for name, of in found.items() if of.days}


def _check_rejects(night: Night, account: Account) -> None:
    read = sum(table["read"] for table in account["tables"].values())
    rejected = sum(account["rejects"].values())
    limit = night.job.logs.max_reject_fraction
    if rejected > limit * read:
        reasons = "; ".join(f"{n:,} x {reason}" for reason, n in account["rejects"].items())
        hint = f". Is --date {night.date} right?" if "time lies in the future" in reasons else ""
        raise StageError(
            f"{rejected:,} of {read:,} rows were rejected, above max_reject_fraction = {limit:g} ([logs] in the job "
            f"file): {reasons}. {_listing(account)} in {night.root.rejects(night.date)}; nothing was ingested{hint}"
        )


def _listing(account: Account) -> str:
    """Return how many of the rejected rows are listed, as the beginning of a sentence."""
    rejects = account["rejects"].values()
    if all(rows <= MAX_LISTED_ROWS for rows in rejects):
        return "They are listed"
    listed = sum(min(rows, MAX_LISTED_ROWS) for rows in rejects)
    return f"{listed:,} of them, the first {MAX_LISTED_ROWS:,} of each reason, are listed"


def _notes(night: Night, plan: IngestPlan, snapshot: Snapshot, account: Account) -> Iterator[str]:
    """Yield notes on the stored days, older readings, unlisted rejected rows, and skipped files."""
    yield from _notes_of_days(night, snapshot)
    yield from _notes_of_readings(plan)
    if any(rows > MAX_LISTED_ROWS for rows in account["rejects"].values()):
        rejected = sum(account["rejects"].values())
        yield f"{rejected:,} rows were rejected: {_listing(account)} in {night.root.rejects(night.date)}"
    yield from (f"{setting}: {text}" for setting, text in ingest_plan.file_notes(night.job, plan.found))


def _notes_of_days(night: Night, snapshot: Snapshot) -> Iterator[str]:
    """Yield notes on the days of the events in the store."""
    days = [dt.date.fromisoformat(file.day) for file in snapshot.files if file.table == "watches"]
    window = night.job.examples.window_days
    past = (night.date - min(days)).days
    if 0 < past < window:
        yield f"the logs begin on {min(days)}: the window of {night.date} is {past} days, not {window}"
    newest = max(days)
    if newest < night.date - dt.timedelta(days=1):
        past = (night.date - newest).days
        yield f"the newest watch is from {newest}, {past} days before {night.date}: is --date right?"


def _notes_of_rows(duplicates: Sequence[DuplicateRows]) -> list[str]:
    """Return notes on ids that have several different rows in one file."""
    differing: dict[str, int] = {}
    for rows in duplicates:
        differing[rows.table] = differing.get(rows.table, 0) + rows.disagreeing
    return [
        f"logs.{table}: ids with several rows in one file that differ: {ids:,}; the last row of each counts"
        for table, ids in differing.items()
        if ids
    ]


def _notes_of_readings(plan: IngestPlan) -> Iterator[str]:
    if plan.kept_changes:
        changes = reading_settings.describe(plan.kept_changes)
        yield f"events in the store stay as they were read under other settings: {changes}"
    if plan.changes_of("reader") and not plan.reread:
        yield (
            "events in the store were read by an older version, which read some values in another way; "
            "watchnext nightly JOB.toml --reread reads them again"
        )


def _batches(raw: Sequence[TakenFile], most_bytes: int) -> Iterator[list[TakenFile]]:
    """Yield batches of raw files in order, each of at most `most_bytes` or one file."""
    batch: list[TakenFile] = []
    for file in sorted(raw):
        if batch and sum(one.bytes for one in batch) + file.bytes > most_bytes:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
