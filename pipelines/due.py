"""What an ingest has to do: the store as it is, the raw files that are there, and which of them to read."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property

from pipelines import forget, kept, manifest, privacy, raw_files, store
from pipelines.raw_files import Found
from pipelines.reading import LOGS
from pipelines.stages import Night
from pipelines.store import Snapshot, TakenFile
from transforms import bigquery
from transforms.logs import LogError, LogSettingError
from transforms.screen import Screen, Span

TABLES = ("watches", "searches", "videos", "users", "hidden", "impressions")


@dataclass(frozen=True, kw_only=True)
class Due:
    """What there is to do for a night."""

    before: Snapshot | None
    screen: Screen
    found: dict[str, Found]  # table -> its raw files of the window
    readable: dict[str, Found]  # the same, and those of the days to ingest again
    spans: tuple[Span, ...]  # the days to ingest again
    lost: bool  # the snapshot this night refers to grew too old and is gone
    time_zone: str  # of the job's days

    @classmethod
    def of(cls, night: Night) -> Due:
        """Raises LogError where raw files are missing, JobError for another key of pseudonyms than the store's."""
        before = store.latest(night.root.snapshots)
        found = {table: find(night, table, before) for table in TABLES}
        done = manifest.load_readable(night.folder("ingest"))
        number = int(done.counts["snapshot"]) if done else None
        return cls(
            before=before,
            screen=privacy.screen(night.job, before.key_check if before else None),
            found=found,
            readable={table: _find_again(night, table, before, found[table]) for table in TABLES},
            spans=tuple(night.span(day) for day in night.reingest),
            lost=number is not None and not kept.is_there(night.root, number),
            time_zone=night.job.logs.time_zone,
        )

    @cached_property
    def pending(self) -> list[TakenFile]:
        """Raw logs of the window that were not taken yet."""
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
        return self.before is not None and self.before.time_zone != self.time_zone

    @property
    def forgets(self) -> bool:
        return forget.is_due(self.before, self.screen)

    @property
    def told(self) -> str:
        """What there is to do but to read the catalogue and the users, in words; empty where that is nothing."""
        files, days = len(self.pending), len(self.spans)
        parts = (
            f"{files:,} raw file{'s' if files > 1 else ''} to take" if files else "",
            f"{days} day{'s' if days > 1 else ''} to ingest again" if days else "",
            "the list of users to forget changed" if self.forgets else "",
            f"the store to be put into days of {self.time_zone}" if self.rearranges else "",
            "the snapshot it refers to is gone" if self.lost else "",
        )
        return "; ".join(part for part in parts if part)

    @property
    def work(self) -> bool:
        return bool(self.told)


def _logs(found: dict[str, Found]) -> list[TakenFile]:
    return [file for table in LOGS for file in found[table.name].files]


def find(night: Night, table: str, before: Snapshot | None) -> Found:
    """A table's raw files; with `{date}`, those of the window."""
    pattern = getattr(night.job.logs, table)
    if pattern is None:
        return Found()
    if pattern.startswith(bigquery.PREFIX) and night.runner != "DataflowRunner":
        raise LogSettingError(
            f"logs.{table} = {pattern!r}: BigQuery tables are read on Dataflow alone (--runner DataflowRunner), but "
            f"the runner is {night.runner}; export the table to Parquet files and name those"
        )
    return raw_files.find(
        f"logs.{table}",
        pattern,
        start=night.date - dt.timedelta(days=night.job.examples.window_days),
        end=night.date,
        seen=before.days.get(table, []) if before else [],
        allow_missing_days=night.job.logs.allow_missing_days,
    )


def _find_again(night: Night, table: str, before: Snapshot | None, found: Found) -> Found:
    """The raw files of the window, and those that may hold events of the days to ingest again.

    With `{date}` those are the day's own file, later ones, and the one before: days may begin elsewhere where the files
    are made.
    """
    pattern = getattr(night.job.logs, table) or ""
    if not night.reingest or "{date}" not in pattern:
        return found
    seen = before.days.get(table, []) if before else []
    start = min(night.reingest) - dt.timedelta(days=1)
    more = raw_files.find(f"logs.{table}", pattern, start=start, end=night.date, seen=seen, allow_missing_days=True)
    days = [day.isoformat() for day in night.reingest]
    lacking = [day for day in days if day in seen and day not in more.days]
    if lacking and not night.job.logs.allow_missing_days:
        raise LogError(
            f"logs.{table} = {pattern!r}: no file for {', '.join(lacking)}, so --reingest would empty that day; "
            "nothing was changed (allow_missing_days = true in [logs] lets it)"
        )
    return Found(files=tuple(sorted({*found.files, *more.files})), days=found.days)
