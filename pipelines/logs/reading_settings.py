"""Under which settings the rows of the store were read, and what a change of them asks for.

Each snapshot records, table by table, the settings that its rows were read under. When a night has other ones, rows of
both readings would be mixed (the ids of two columns, the times of two zones), so:

- the completion rule (`completed_fraction`, `completed_seconds`, whether there is a catalogue) is applied again to the
  watches in the store, which hold what it needs; those that versions before wrote do not, and are read again;
- for any other setting the night is refused, until the raw files are read again (`--reread`) or it is decided that the
  rows stay as they were read (`--keep-old-readings`).
"""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipelines.base import manifest, paths
from pipelines.base.snapshot_store import Snapshot
from pipelines.config.jobs import JobError
from pipelines.config.settings import TABLES, Logs
from pipelines.logs.log_reader import LOGS
from pipelines.night.stage import Night
from transforms.core import files
from transforms.logs.readers import LogTable

READER = 2  # raised when values are read in another way than before: what was read earlier stays, and a note says so
RULE = ("completed_fraction", "completed_seconds", "videos")
_VERSION = "reader"
# Settings that change which rows there are, or how they are read by machines, but not what a row becomes.
_ELSEWHERE = {*TABLES, "max_reject_fraction", "batch_bytes", "allow_missing_days", "columns"}

Reading = dict[str, Any]  # settings by name within [logs]


@dataclass(frozen=True)
class Change:
    """A setting that was another one when rows of a table were read."""

    table: str
    name: str  # within [logs]
    before: Any
    now: Any

    def __str__(self) -> str:
        if self.name == "videos":
            return "logs.videos: " + ("a catalogue is there now" if self.now else "there is no catalogue now")
        return f"logs.{self.name}: {json.dumps(self.before)} -> {json.dumps(self.now)}"


def readings_of_job(logs: Logs) -> dict[str, Reading]:
    """For each table of events, the settings that decide what its rows become."""
    return {table.name: _of_table(logs, table) for table in LOGS}


def readings_of_snapshot(night: Night, snapshot: Snapshot) -> dict[str, Reading]:
    """The settings that the rows of a snapshot were read under; of one that does not record them, those of the night
    that wrote it; none if these are not known either."""
    if snapshot.readings:
        return snapshot.readings
    done = manifest.load_readable(night.root.stage(_date(snapshot), "ingest")) if snapshot.date else None
    if done is None or "logs" not in done.settings:
        return {}
    read = readings_of_job(Logs.model_construct(**done.settings["logs"]))
    return {table: reading | {_VERSION: 1} for table, reading in read.items()}


def changes(night: Night, snapshot: Snapshot | None) -> list[Change]:
    """The settings that are other ones now than when the rows in the store were read, of tables that have rows."""
    if snapshot is None:
        return []
    before, now = readings_of_snapshot(night, snapshot), readings_of_job(night.job.logs)
    return [
        change
        for table in before
        if snapshot.rows(table) and table in now
        for change in _differences(table, before[table], now[table])
    ]


def needing_raw_rows(found: list[Change]) -> list[Change]:
    """Of some changes, those for which the raw rows are needed."""
    return [change for change in found if change.name not in (*RULE, _VERSION)]


def completion_rule_changes(found: list[Change]) -> list[Change]:
    """Of some changes, those of the completion rule."""
    return [change for change in found if change.name in RULE]


def needing_choice(found: list[Change]) -> list[Change]:
    """Of some changes, all but those of how this program reads values."""
    return [change for change in found if change.name != _VERSION]


def reader_changes(found: list[Change]) -> list[Change]:
    """Of some changes, those of how this program reads values."""
    return [change for change in found if change.name == _VERSION]


def check(night: Night, snapshot: Snapshot | None, found: list[Change]) -> None:
    """Raise JobError if rows in the store must be read again, or kept as they are, and the command does not say so."""
    if snapshot is None:
        return
    if night.reread:
        _check_date(night, snapshot)
        return
    needed = needing_raw_rows(found)
    if not needed and completion_rule_changes(found) and not night.keep_old_readings:
        needed = completion_rule_changes(found) if _lacks_what_the_rule_needs(night, snapshot) else []
    if needed and not night.keep_old_readings:
        tables = sorted({change.table for change in needed})
        rows = " and ".join(f"{snapshot.rows(table):,} rows of {table}" for table in tables)
        raise JobError(
            f"{describe(needed)}; but {rows} in the store, from {len(snapshot.taken):,} raw files, were read under the "
            f"old setting, and nothing was changed. Read them again: watchnext nightly JOB.toml --date {night.date} "
            "--reread; or, with --keep-old-readings, let them stay as they were read; or set the old value again"
        )


def describe(found: list[Change]) -> str:
    """Changes in words, each setting once."""
    return ", ".join(dict.fromkeys(str(change) for change in found))


def _check_date(night: Night, snapshot: Snapshot) -> None:
    if snapshot.date > night.date.isoformat():
        raise JobError(
            f"--reread on {night.date} would lose events: the store holds those up to the night of {snapshot.date}; "
            f"give --date {snapshot.date} or a later one"
        )


def _of_table(logs: Logs, table: LogTable) -> Reading:
    settings = logs.model_dump(mode="json", exclude=_ELSEWHERE)
    if table.name == "watches":
        settings["videos"] = bool(logs.videos)
    else:
        settings = {name: value for name, value in settings.items() if name not in RULE}
    given = logs.renamed(table.name)
    known = [name for name in (*table.required, *table.optional) if given.get(name, name) != name]
    return settings | {f"columns.{name}": given[name] for name in known} | {_VERSION: READER}


def _differences(table: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    for name in sorted({*before, *now}):
        was, given = (reading.get(name, _default(name)) for reading in (before, now))
        if was != given:
            yield Change(table, name, was, given)


def _default(name: str) -> Any:
    """What a setting is if nothing names it: a column has our name for it."""
    if name.startswith("columns."):
        return name.removeprefix("columns.")
    field = Logs.model_fields.get(name)
    return field.get_default(call_default_factory=True) if field is not None else None


def _date(snapshot: Snapshot) -> dt.date:
    return dt.date.fromisoformat(snapshot.date)


def _lacks_what_the_rule_needs(night: Night, snapshot: Snapshot) -> bool:
    """Whether a file of watches was written by a version that did not keep what the completion rule needs. One file of
    each attempt is looked at."""
    attempts = {f.file.name.rsplit("-", 1)[-1]: f.file.name for f in snapshot.files if f.table == "watches"}
    for name in attempts.values():
        path = paths.join(night.root.store, name)
        if files.exists(path):
            source = path if files.is_local(path) else io.BytesIO(files.read_bytes(path))
            if "completed_given" not in pl.read_parquet_schema(source):
                return True
    return False
