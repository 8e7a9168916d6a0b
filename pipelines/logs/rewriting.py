"""Rewrite data files of the store, and make snapshots in which the new files replace the old ones."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pipelines.base import manifest, paths, row_counts, snapshot_store
from pipelines.base.snapshot_store import Snapshot, StoreFile
from pipelines.config.jobs import JobError
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from transforms.core.records import Records, WriteRecords, pop_records
from transforms.logs.ingest import EventFile
from transforms.logs.parsing import ParseRules, recompute_completed
from transforms.logs.store_rewrite import Rebucket, RewriteFiles, RewriteTask, RewrittenFile

_KINDS = (EventFile, RewrittenFile)


def rewrite_task(file: StoreFile, buckets: int) -> RewriteTask:
    """Return the task that rewrites a data file, with a new name for the remaining rows."""
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


def run_rewrite(night: Night, tasks: list[RewriteTask], rewrite: RewriteFiles | Rebucket) -> Records:
    """Run a pipeline that rewrites data files. Return its records."""
    if not tasks:
        return Records(_KINDS)
    records = paths.join(night.root.store, f"records-{manifest.new_attempt()}.json")
    with night.beam.pipeline("ingest") as pipeline:
        pipeline | night.beam.create(tasks) | rewrite | WriteRecords(records)
    return pop_records(records, *_KINDS)


def rearrange(night: Night, before: Snapshot, *, buckets: int, zone: str) -> Snapshot:
    """Return an uncommitted snapshot of the same events in `buckets` buckets and in days of the time zone `zone`.
    Raises StageError if rows were lost."""
    name = paths.shard_pattern(buckets, manifest.new_attempt(), "parquet")
    tasks = [rewrite_task(file, before.buckets) for file in before.files]
    records = run_rewrite(night, tasks, Rebucket(night.root.store, buckets, name, zone))
    new = sorted((StoreFile(**vars(file)) for file in records.of(EventFile)), key=lambda file: file.file.name)
    done = replace(before, buckets=buckets, time_zone=zone, files=new)
    for table in {file.table for file in before.files}:
        if done.rows(table) != before.rows(table):
            raise StageError(
                f"only {done.rows(table):,} of {before.rows(table):,} rows of {table} were rewritten: nothing changed"
            )
    return done


def reapply_completion_rule(night: Night, before: Snapshot, rules: ParseRules) -> Snapshot:
    """Return an uncommitted snapshot with the completion rule applied again to its watches."""
    tasks = [rewrite_task(file, before.buckets) for file in before.files if file.table == "watches"]
    records = run_rewrite(night, tasks, RewriteFiles(partial(recompute_completed, rules=rules), night.root.store))
    return replace_files(before, records.of(RewrittenFile))


def merge_reread(
    night: Night, before: Snapshot, after: Snapshot, gone: Sequence[str]
) -> tuple[Snapshot, row_counts.Account]:
    """Return the snapshot of events that were read again, and the account of the removed earlier events.

    gone: raw files that were read before but no longer exist. If there are any, days with fewer events than before are
    incomplete: raises JobError, or, with --keep-old-readings, keeps these days as they were.
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
                f"{len(gone):,} raw files that the store was read from no longer exist ({_some(gone)}), so --reread "
                f"would lose events of {_some(days)}; nothing was changed. Restore the files, or add "
                "--keep-old-readings to keep these days as they were read"
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
    by_name = {file.file.name: file for file in snapshot.files}
    new = [replace(by_name[record.replaced], file=record.file) for record in records if record.file]
    return snapshot.with_changes((record.replaced for record in records), new)


def add_to_account(snapshot: Snapshot, date: dt.date, *added: row_counts.Account) -> Snapshot:
    """Return a snapshot with `added` accounts in its account of a night."""
    before = snapshot.accounts.get(date.isoformat())
    whole = row_counts.total([*([before] if before else []), *added])
    return replace(snapshot, accounts=snapshot.accounts | {date.isoformat(): whole})
