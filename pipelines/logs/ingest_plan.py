"""Plan an ingest: the state of the store, the raw files that exist, and which of them to read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pipelines.base import manifest, raw_files, snapshot_store
from pipelines.base.raw_files import RawFiles
from pipelines.base.snapshot_store import Snapshot, TakenFile
from pipelines.config.jobs import Job
from pipelines.config.settings import COLUMNS, TABLES
from pipelines.logs import reading_settings
from pipelines.logs.log_reader import LOGS
from pipelines.logs.reading_settings import Change, Kind
from pipelines.night import privacy, store_cleanup
from pipelines.night.night import Night
from pipelines.night.outputs import IngestOutputs
from transforms.logs.privacy import PrivacyFilter, Span
from transforms.logs.readers import LogError, LogSettingError
from transforms.logs.schemas import BIGQUERY_PREFIX


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """The work of an ingest for one night."""

    before: Snapshot | None
    privacy_filter: PrivacyFilter
    found: dict[str, RawFiles]  # table -> its raw files of the window
    readable: dict[str, RawFiles]  # `found`, and the raw files of the days to ingest again
    spans: tuple[Span, ...]  # the days to ingest again
    snapshot_lost: bool  # whether the snapshot that this night refers to was removed because of its age
    next_number: int  # of the snapshot that this ingest writes
    time_zone: str  # of the job's days
    changes: tuple[Change, ...] = ()  # settings that changed since rows in the store were read
    reread: bool = False  # whether all raw logs are read again
    keep_old_readings: bool = False  # whether rows that were read with other settings are kept

    @classmethod
    def from_night(cls, night: Night) -> IngestPlan:
        """Plan the ingest of a night.

        Raises LogError if raw files are missing, and JobError if the pseudonym key is not that of the store, or if
        settings changed that affect rows in the store (`reading_settings`).
        """
        before = newest_snapshot(night)
        changes = reading_settings.changes(night, before)
        reading_settings.check(night, before, changes)
        found = {table: find(night, table, before) for table in TABLES}
        done = manifest.load_outputs(night.folder("ingest"), IngestOutputs)
        number = done.snapshot if done else None
        return cls(
            before=before,
            privacy_filter=privacy.load_filter(night.job, before.key_check if before else None),
            found=found,
            readable={table: _find_again(night, table, before, found[table]) for table in TABLES},
            spans=() if night.reread else tuple(night.dates.span(day) for day in night.reingest),
            snapshot_lost=number is not None and not store_cleanup.snapshot_exists(night.root, number),
            next_number=store_cleanup.next_number(night.root) if night.reread else 1 + (before.number if before else 0),
            time_zone=night.job.logs.time_zone,
            changes=tuple(changes),
            reread=night.reread and before is not None,
            keep_old_readings=night.keep_old_readings,
        )

    @cached_property
    def pending(self) -> list[TakenFile]:
        """Return the raw logs of the window that were not ingested yet; with `reread`, all raw logs."""
        if self.reread:
            return _logs(self.readable)
        taken = set(self.before.taken) if self.before else set()
        return [file for file in _logs(self.found) if file not in taken]

    @cached_property
    def to_reingest(self) -> list[TakenFile]:
        """Return the raw logs from which only the days to ingest again are read."""
        pending = set(self.pending)
        return [file for file in _logs(self.readable) if file not in pending] if self.spans else []

    @property
    def rearranges(self) -> bool:
        """Return whether the days of the store's files are in another time zone than the job's."""
        return self.before is not None and self.before.time_zone != self.time_zone and not self.reread

    @property
    def reapplies_rule(self) -> bool:
        """Return whether the completion rule is applied again to the watches in the store."""
        return bool(self.changes_of("rule")) and not (self.reread or self.keep_old_readings)

    def changes_of(self, *kinds: Kind) -> list[Change]:
        """Return the changed settings of these kinds."""
        return [change for change in self.changes if change.kind in kinds]

    @property
    def kept_changes(self) -> list[Change]:
        """Return the changed settings of rows that are kept as they were read."""
        return self.changes_of("rule", "rows") if self.keep_old_readings else []

    @cached_property
    def missing_files(self) -> list[str]:
        """Return the ingested raw files that no longer exist, and BigQuery tables, which may have changed."""
        existing = {file.path for file in _logs(self.readable) if not file.path.startswith(BIGQUERY_PREFIX)}
        return sorted({file.path for file in self.before.taken} - existing) if self.before else []

    @property
    def changes_store(self) -> bool:
        """Return whether the ingest changes the store."""
        work = (self.pending, self.spans, self.rearranges, self.reapplies_rule, self.kept_changes, self.reread)
        return any(map(bool, work))

    @property
    def forgets(self) -> bool:
        """Return whether the list of users to forget changed since it was last applied to the stored data."""
        return self.before is not None and self.before.forgotten != self.privacy_filter.forget.digest

    @property
    def description(self) -> str:
        """Return the work in words, except for reading the catalogue and the users; empty if there is none."""
        files, days, rule = len(self.pending), len(self.spans), reading_settings.describe(self.changes_of("rule"))
        parts = (
            "all raw logs to read again" if self.reread else "",
            f"{files:,} raw file{'s' if files > 1 else ''} to ingest" if files and not self.reread else "",
            f"{days} day{'s' if days > 1 else ''} to ingest again" if days else "",
            "the list of users to forget changed" if self.forgets else "",
            f"the store to rearrange into days of {self.time_zone}" if self.rearranges else "",
            f"the completion rule to apply again ({rule})" if self.reapplies_rule else "",
            f"rows read with older settings to keep ({reading_settings.describe(self.kept_changes)})"
            if self.kept_changes
            else "",
            "the snapshot of this night was removed" if self.snapshot_lost else "",
        )
        return "; ".join(part for part in parts if part)


def _logs(found: dict[str, RawFiles]) -> list[TakenFile]:
    return [file for table in LOGS for file in found[table.name].files]


def newest_snapshot(night: Night) -> Snapshot | None:
    """Return the snapshot that an ingest of the night begins with, None for an empty store.

    With --reread, damaged snapshots are passed over; otherwise a damaged newest one raises DamagedSnapshotError.
    """
    return (snapshot_store.newest_readable if night.reread else snapshot_store.latest)(night.root.snapshots)


def find(night: Night, table: str, before: Snapshot | None) -> RawFiles:
    """Find a table's raw files; with `{date}`, those of the window. Raises LogError."""
    pattern = getattr(night.job.logs, table)
    if pattern is None:
        return RawFiles()
    if pattern.startswith(BIGQUERY_PREFIX) and night.beam.runner != "DataflowRunner":
        raise LogSettingError(
            f"logs.{table} = {pattern!r}: BigQuery tables can be read only on Dataflow (--runner DataflowRunner), but "
            f"the runner is {night.beam.runner}; export the table to Parquet files and use those"
        )
    found = raw_files.find(
        f"logs.{table}",
        pattern,
        start=night.date - dt.timedelta(days=night.job.examples.window_days),
        end=night.date,
        seen=before.days.get(table, []) if before else [],
        allow_missing_days=night.job.logs.allow_missing_days,
    )
    if own := raw_files.first_within(found.files, (night.root.store, night.root.nights)):
        raise LogSettingError(
            f"logs.{table}: {own} is a file of the root {night.root.path}, to which a link in the logs leads: remove "
            "the link, or use another folder as the root ([storage])"
        )
    return found


def _find_again(night: Night, table: str, before: Snapshot | None, found: RawFiles) -> RawFiles:
    """Return the raw files of the window, and those that may contain events of the days to ingest again.

    With `{date}`, the latter are the file of the day, all later files, and, because of time zones, the file before.
    """
    pattern = getattr(night.job.logs, table) or ""
    has_more = bool(night.reingest) or (night.reread and before is not None)
    if not has_more or "{date}" not in pattern:
        return found
    seen = before.days.get(table, []) if before else []
    first = min((dt.date.fromisoformat(file.day) for file in (before.files if before else ())), default=night.date)
    start = (first if night.reread else min(night.reingest)) - dt.timedelta(days=1)
    more = raw_files.find(f"logs.{table}", pattern, start=start, end=night.date, seen=seen, allow_missing_days=True)
    days = [] if night.reread else [day.isoformat() for day in night.reingest]
    lacking = [day for day in days if day in seen and day not in more.days]
    if lacking and not night.job.logs.allow_missing_days:
        raise LogError(
            f"logs.{table} = {pattern!r}: no file for {', '.join(lacking)}, so --reingest would empty that day; "
            "nothing was changed (set allow_missing_days = true in [logs] to allow this)"
        )
    return RawFiles(files=tuple(sorted({*found.files, *more.files})), days=found.days)


def file_notes(job: Job, found: Mapping[str, RawFiles]) -> Iterator[tuple[str, str]]:
    """Yield (setting, sentence) about skipped files, and about keys in folder names that are not read as columns.

    found: table -> its raw files, from `find`.
    """
    for table, files in found.items():
        yield from _of_setting(f"logs.{table}", files, _columns(job, table))
    if job.privacy.forget:
        yield from _of_setting("privacy.forget", privacy.forget_files(job), _columns(job, "forget"))


def _columns(job: Job, table: str) -> list[str]:
    """Return the names, as in the files, of all columns that a table reads."""
    renamed = job.logs.renamed(table)
    extra = job.examples.user_categories if table == "users" else []
    return [renamed.get(ours, ours) for ours in (*COLUMNS.get(table, ("user_id",)), *extra)]


def _of_setting(setting: str, found: RawFiles, columns: list[str]) -> Iterator[tuple[str, str]]:
    if text := raw_files.describe_skipped(found):
        yield setting, text
    if text := raw_files.describe_ignored_keys(found, columns):
        yield setting, text
