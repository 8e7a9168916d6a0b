"""Data files of the store written anew, and what a snapshot is like with those in place of the old ones."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

from pipelines.base import manifest, paths, row_counts, snapshot_store
from pipelines.base.snapshot_store import Snapshot, StoreFile
from pipelines.config.jobs import JobError
from pipelines.night.errors import StageError
from pipelines.night.stage import Night
from transforms.core.records import Records, WriteRecords, pop_records
from transforms.logs.ingest import EventFile
from transforms.logs.parsing import ParseRules
from transforms.logs.store_rewrite import Rebucket, RecomputeCompleted, RewriteFiles, RewriteTask, RewrittenFile

_KINDS = (EventFile, RewrittenFile)


def rewrite_task(file: StoreFile, buckets: int) -> RewriteTask:
    """A data file as a step that rewrites it takes it, with a name nobody used for what stays."""
    name = f"{file.table}/{file.day}/{file.bucket:05d}-of-{buckets:05d}-{manifest.new_attempt()}.parquet"
    return RewriteTask(
        table=file.table,
        day=file.day,
        bucket=file.bucket,
        name=file.file.name,
        new_name=name,
        digest=file.file.digest,
        repair=snapshot_store.REPAIR,
    )


def run_rewrite(night: Night, parts: list[RewriteTask], rewrite: RewriteFiles | Rebucket) -> Records:
    """The records of rewriting some data files."""
    if not parts:
        return Records(_KINDS)
    records = paths.join(night.root.store, f"records-{manifest.new_attempt()}.json")
    with night.pipeline("ingest") as pipeline:
        pipeline | night.create(parts) | rewrite | WriteRecords(records)
    return pop_records(records, *_KINDS)


def rearrange(night: Night, before: Snapshot, *, buckets: int, zone: str) -> Snapshot:
    """The snapshot of the same events in `buckets` buckets and in days of the time zone `zone`, uncommitted. Raises
    StageError if rows were lost on the way."""
    name = paths.shard_pattern(buckets, manifest.new_attempt(), "parquet")
    parts = [rewrite_task(file, before.buckets) for file in before.files]
    records = run_rewrite(night, parts, Rebucket(night.root.store, buckets, name, zone))
    new = sorted((StoreFile(**vars(file)) for file in records.of(EventFile)), key=lambda file: file.file.name)
    done = replace(before, buckets=buckets, time_zone=zone, files=new)
    for table in {file.table for file in before.files}:
        if done.rows(table) != before.rows(table):
            raise StageError(
                f"{done.rows(table):,} of {before.rows(table):,} rows of {table} came through: nothing changed"
            )
    return done


def reapply_completion_rule(night: Night, before: Snapshot, rules: ParseRules) -> Snapshot:
    """The snapshot with the completion rule applied to its watches again, uncommitted."""
    parts = [rewrite_task(file, before.buckets) for file in before.files if file.table == "watches"]
    records = run_rewrite(night, parts, RewriteFiles(RecomputeCompleted(rules), night.root.store))
    return replace_files(before, records.of(RewrittenFile))


def merge_reread(
    night: Night, before: Snapshot, after: Snapshot, gone: Sequence[str]
) -> tuple[Snapshot, row_counts.Account]:
    """The snapshot of events that were read again in place of those before, and the account of these.

    gone: raw files that were read before and are found no more. If there are some, days of which fewer events were read
    again than there were are not whole: raises JobError, or keeps them as they were if the night is to.
    """
    kept = list[StoreFile]()
    if gone:
        zone = after.time_zone
        old = before if before.time_zone == zone else rearrange(night, before, buckets=before.buckets, zone=zone)
        had, has = old.rows_by_day, after.rows_by_day
        lacking = {(t, day) for t in had for day, n in had[t].items() if has.get(t, {}).get(day, 0) < n}
        if lacking and not night.keep_old_readings:
            days = sorted({day for _, day in lacking})
            raise JobError(
                f"{len(gone):,} raw files that the store was read from are gone ({_some(gone)}), so --reread would "
                f"lose events of {_some(days)}; nothing was changed. Put the files back, or add --keep-old-readings: "
                "then these days stay as they were read"
            )
        kept = [file for file in old.files if (file.table, file.day) in lacking]
    days_kept = {(file.table, file.day) for file in kept}
    read = [file for file in after.files if (file.table, file.day) not in days_kept]
    done = replace(after, files=sorted([*read, *kept], key=lambda file: file.file.name))
    tables = {file.table for file in (*before.files, *after.files)}
    lost = [(table, before.rows(table) + after.rows(table) - done.rows(table)) for table in sorted(tables)]
    return done, row_counts.total([row_counts.from_removed(table, "reingested", rows) for table, rows in lost])


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def replace_files(snapshot: Snapshot, records: list[RewrittenFile]) -> Snapshot:
    """Return the snapshot with the new files in place of those they replace."""
    of_name = {file.file.name: file for file in snapshot.files}
    new = [replace(of_name[record.replaced], file=record.file) for record in records if record.file]
    return snapshot.with_changes((record.replaced for record in records), new)


def add_to_account(snapshot: Snapshot, date: dt.date, *added: row_counts.Account) -> Snapshot:
    """The snapshot with more in its account of a night."""
    before = snapshot.accounts.get(date.isoformat())
    whole = row_counts.total([*([before] if before else []), *added])
    return replace(snapshot, accounts=snapshot.accounts | {date.isoformat(): whole})
