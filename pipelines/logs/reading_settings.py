"""The settings that the rows of the store were read with (their "reading"), and what to do when these change.

Each snapshot records, per table, the settings that its rows were read with. If a night has other settings, the store
would mix rows of both (ids of two columns, times of two zones). Therefore:

- The completion rule (`completed_fraction`, `completed_seconds`, whether there is a catalogue) is applied again to the
  watches in the store. Files of older versions lack the columns for this and must be read again.
- For any other setting the night stops, until the raw files are read again (`--reread`), or the user decides to keep
  the rows as they were read (`--keep-old-readings`).
"""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from pipelines.base import manifest, paths
from pipelines.base.snapshot_store import Snapshot
from pipelines.config.jobs import JobError
from pipelines.config.settings import TABLES, Logs
from pipelines.logs.log_reader import LOGS
from pipelines.night.night import Night
from transforms.core import files
from transforms.logs.readers import LogTable

READER = 2  # increased when values are parsed differently: rows read earlier are kept, and a note is written
RULE = ("completed_fraction", "completed_seconds", "videos")
_VERSION = "reader"
# Settings that affect which rows are read, or how they are processed, but not the result of a row.
_ELSEWHERE = {*TABLES, "max_reject_fraction", "batch_bytes", "allow_missing_days", "columns"}

Reading = dict[str, Any]  # settings by name within [logs]
Kind = Literal["rule", "reader", "rows"]


@dataclass(frozen=True)
class Change:
    """A setting that changed since the rows of a table were read."""

    table: str
    name: str  # within [logs]
    before: Any
    now: Any

    @property
    def kind(self) -> Kind:
        """Return "rule" for the completion rule, "reader" for the parser version, and "rows" for the other settings,
        which need the raw rows to be read again."""
        if self.name in RULE:
            return "rule"
        return "reader" if self.name == _VERSION else "rows"

    def __str__(self) -> str:
        if self.name == "videos":
            return "logs.videos: " + ("there is a catalogue now" if self.now else "there is no catalogue now")
        return f"logs.{self.name}: {json.dumps(self.before)} -> {json.dumps(self.now)}"


def readings_of_job(logs: Logs) -> dict[str, Reading]:
    """Return table of events -> settings that affect the result of its rows."""
    return {table.name: _of_table(logs, table) for table in LOGS}


def readings_of_snapshot(night: Night, snapshot: Snapshot) -> dict[str, Reading]:
    """Return table -> settings that the rows of a snapshot were read with. If an older version wrote the snapshot,
    without these, return the settings of its night; empty if these are not known either."""
    if snapshot.readings:
        return snapshot.readings
    if not snapshot.date:
        return {}
    done = manifest.load_readable(night.root.stage(dt.date.fromisoformat(snapshot.date), "ingest"))
    if done is None or "logs" not in done.settings:
        return {}
    read = readings_of_job(Logs.model_construct(**done.settings["logs"]))
    return {table: reading | {_VERSION: 1} for table, reading in read.items()}


def changes(night: Night, snapshot: Snapshot | None) -> list[Change]:
    """Return the settings that changed since the rows in the store were read, for tables that have rows."""
    if snapshot is None:
        return []
    before, now = readings_of_snapshot(night, snapshot), readings_of_job(night.job.logs)
    return [
        change
        for table in before
        if snapshot.rows(table) and table in now
        for change in _differences(table, before[table], now[table])
    ]


def check(night: Night, snapshot: Snapshot | None, found: list[Change]) -> None:
    """Raise JobError if rows in the store must be read again or kept as they are, and no option decides which."""
    if snapshot is None:
        return
    if night.reread and snapshot.date > night.date.isoformat():
        raise JobError(
            f"--reread on {night.date} would lose events: the store has events up to the night of {snapshot.date}; "
            f"use --date {snapshot.date} or a later date"
        )
    if night.reread or night.keep_old_readings:
        return
    needed, rule = ([change for change in found if change.kind == kind] for kind in ("rows", "rule"))
    if not needed and rule and _lacks_rule_columns(night, snapshot):
        needed = rule
    if needed:
        tables = sorted({change.table for change in needed})
        rows = " and ".join(f"{snapshot.rows(table):,} rows of {table}" for table in tables)
        raise JobError(
            f"{describe(needed)}; but {rows} in the store, from {len(snapshot.taken):,} raw files, were read with the "
            f"old setting. Nothing was changed. Read them again: watchnext nightly JOB.toml --date {night.date} "
            "--reread; or keep them as they were read: --keep-old-readings; or restore the old value"
        )


def describe(found: list[Change]) -> str:
    """Return the changes as text, each setting once."""
    return ", ".join(dict.fromkeys(str(change) for change in found))


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
    """Return the default of a setting; for a column, our name for it."""
    if name.startswith("columns."):
        return name.removeprefix("columns.")
    field = Logs.model_fields.get(name)
    return field.get_default(call_default_factory=True) if field is not None else None


def _lacks_rule_columns(night: Night, snapshot: Snapshot) -> bool:
    """Return whether watches lack the columns that the completion rule needs. Checks one file per attempt."""
    attempts = {f.file.name.rsplit("-", 1)[-1]: f.file.name for f in snapshot.files if f.table == "watches"}
    for name in attempts.values():
        path = paths.join(night.root.store, name)
        if files.exists(path):
            source = path if files.is_local(path) else io.BytesIO(files.read_bytes(path))
            if "completed_given" not in pl.read_parquet_schema(source):
                return True
    return False
