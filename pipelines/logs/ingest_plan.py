"""What an ingest has to do: the store as it is, the raw files that are there, and which of them to read."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property

from pipelines.base import manifest, raw_files, snapshot_store
from pipelines.base.raw_files import RawFiles
from pipelines.base.snapshot_store import Snapshot, TakenFile
from pipelines.logs import forget_rows, reading_settings
from pipelines.logs.log_reader import LOGS
from pipelines.logs.reading_settings import Change
from pipelines.night import night_list, privacy
from pipelines.night.outputs import IngestOutputs
from pipelines.night.stage import Night
from transforms.logs import bigquery_source
from transforms.logs.privacy import PrivacyFilter, Span
from transforms.logs.readers import LogError, LogSettingError

TABLES = ("watches", "searches", "videos", "users", "hidden", "impressions")


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """What there is to do for a night."""

    before: Snapshot | None
    screen: PrivacyFilter
    found: dict[str, RawFiles]  # table -> its raw files of the window
    readable: dict[str, RawFiles]  # the same, and those of the days to ingest again
    spans: tuple[Span, ...]  # the days to ingest again
    lost: bool  # the snapshot this night refers to grew too old and is gone
    next_number: int  # of the snapshot that this ingest writes
    time_zone: str  # of the job's days
    changes: tuple[Change, ...] = ()  # settings that were other ones when rows in the store were read
    reread: bool = False  # whether all raw logs are read again
    keep_old_readings: bool = False  # whether rows that were read under other settings stay

    @classmethod
    def of(cls, night: Night) -> IngestPlan:
        """Raises LogError where raw files are missing, JobError for another key of pseudonyms than the store's, and for
        settings under which the rows of the store would be other ones (`readings`)."""
        before = newest_snapshot(night)
        changes = reading_settings.changes(night, before)
        reading_settings.check(night, before, changes)
        found = {table: find(night, table, before) for table in TABLES}
        done = manifest.load_outputs(night.folder("ingest"), IngestOutputs)
        number = done.snapshot if done else None
        return cls(
            before=before,
            screen=privacy.screen(night.job, before.key_check if before else None),
            found=found,
            readable={table: _find_again(night, table, before, found[table]) for table in TABLES},
            spans=() if night.reread else tuple(night.span(day) for day in night.reingest),
            lost=number is not None and not night_list.snapshot_exists(night.root, number),
            next_number=night_list.next_number(night.root) if night.reread else 1 + (before.number if before else 0),
            time_zone=night.job.logs.time_zone,
            changes=tuple(changes),
            reread=night.reread and before is not None,
            keep_old_readings=night.keep_old_readings,
        )

    @cached_property
    def pending(self) -> list[TakenFile]:
        """Raw logs of the window that were not taken yet; all that are found, if they are to be read again."""
        if self.reread:
            return _logs(self.readable)
        taken = set(self.before.taken) if self.before else set()
        return [file for file in _logs(self.found) if file not in taken]

    @cached_property
    def again(self) -> list[TakenFile]:
        """Raw logs of which only the days to ingest again are read."""
        pending = set(self.pending)
        return [file for file in _logs(self.readable) if file not in pending] if self.spans else []

    @property
    def rearranges(self) -> bool:
        """Whether the store's files lie under days of another time zone than the job's."""
        return self.before is not None and self.before.time_zone != self.time_zone and not self.reread

    @property
    def decides(self) -> bool:
        """Whether the completion rule is applied again to the watches in the store."""
        return bool(reading_settings.completion_rule_changes(list(self.changes))) and not (
            self.reread or self.keep_old_readings
        )

    @property
    def kept_changes(self) -> list[Change]:
        """The settings under which rows were read that stay as they were read, if the rows do."""
        return reading_settings.needing_choice(list(self.changes)) if self.keep_old_readings else []

    @cached_property
    def gone(self) -> list[str]:
        """Raw files that rows in the store were read from and that are found no more; BigQuery tables, whose rows may
        be gone."""
        there = {file.path for file in _logs(self.readable) if not file.path.startswith(bigquery_source.PREFIX)}
        return sorted({file.path for file in self.before.taken} - there) if self.before else []

    @property
    def changes_store(self) -> bool:
        """Whether the store will be another one."""
        return bool(self.pending or self.spans or self.rearranges or self.decides or self.kept_changes or self.reread)

    @property
    def forgets(self) -> bool:
        return forget_rows.is_due(self.before, self.screen)

    @property
    def told(self) -> str:
        """What there is to do but to read the catalogue and the users, in words; empty where that is nothing."""
        files, days = len(self.pending), len(self.spans)
        parts = (
            "all raw logs to be read again" if self.reread else "",
            f"{files:,} raw file{'s' if files > 1 else ''} to take" if files and not self.reread else "",
            f"{days} day{'s' if days > 1 else ''} to ingest again" if days else "",
            "the list of users to forget changed" if self.forgets else "",
            f"the store to be put into days of {self.time_zone}" if self.rearranges else "",
            f"watches to be decided again ({self._rule})" if self.decides else "",
            f"older readings to be kept ({reading_settings.describe(self.kept_changes)})" if self.kept_changes else "",
            "the snapshot it refers to is gone" if self.lost else "",
        )
        return "; ".join(part for part in parts if part)

    @property
    def _rule(self) -> str:
        return reading_settings.describe(reading_settings.completion_rule_changes(list(self.changes)))

    @property
    def work(self) -> bool:
        return bool(self.told)


def _logs(found: dict[str, RawFiles]) -> list[TakenFile]:
    return [file for table in LOGS for file in found[table.name].files]


def newest_snapshot(night: Night) -> Snapshot | None:
    """Return the snapshot that an ingest of the night begins with, None for an empty store.

    With --reread, damaged snapshots are passed over; otherwise a damaged newest one raises DamagedSnapshotError.
    """
    return (snapshot_store.newest_readable if night.reread else snapshot_store.latest)(night.root.snapshots)


def find(night: Night, table: str, before: Snapshot | None) -> RawFiles:
    """A table's raw files; with `{date}`, those of the window."""
    pattern = getattr(night.job.logs, table)
    if pattern is None:
        return RawFiles()
    if pattern.startswith(bigquery_source.PREFIX) and night.runner != "DataflowRunner":
        raise LogSettingError(
            f"logs.{table} = {pattern!r}: BigQuery tables are read on Dataflow alone (--runner DataflowRunner), but "
            f"the runner is {night.runner}; export the table to Parquet files and name those"
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
            f"logs.{table}: {own} is a file of the root {night.root.path}, which a link in the logs leads to: remove "
            "the link, or name a folder elsewhere as the root ([storage])"
        )
    return found


def _find_again(night: Night, table: str, before: Snapshot | None, found: RawFiles) -> RawFiles:
    """The raw files of the window, and those that may hold events of the days to ingest again.

    With `{date}` those are the day's own file, later ones, and the one before: days may begin elsewhere where the files
    are made.
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
            "nothing was changed (allow_missing_days = true in [logs] lets it)"
        )
    return RawFiles(files=tuple(sorted({*found.files, *more.files})), days=found.days)
