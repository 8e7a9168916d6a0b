"""Bigtable: a row per user with a cell per version, and one row, `PREFIX#night`, with the served version.

    PREFIX#night   served = VERSION (which a server reads first); version:VERSION = loading or loaded
    PREFIX#user#USER_ID, PREFIX#default#COUNTRY   list:VERSION, vector:VERSION (`transforms.sinks.bigtable_lists`)

A pipeline over the table's tablets removes old versions cell by cell: a row contains several nights, and dropping row
ranges would require administrator rights.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from pipelines.base import manifest, paths
from pipelines.config.sink_settings import BigtableSettings
from pipelines.night.night import Night
from pipelines.night.sink_protocol import NightFiles
from pipelines.sinks import gcp
from transforms.core.records import Counts, WriteRecords, add_counts, pop_records
from transforms.sinks import SinkError, bigtable_lists
from transforms.sinks.bigtable_lists import CountRows, RemoveVersions, TableAddress, WriteLists, tablet_ranges
from transforms.sinks.redis_lists import FORMAT_VERSION

NAME = "bigtable"
SERVED, VERSION = "served", "version:"
LOADING, LOADED = b"loading", b"loaded"
ROWS_A_REQUEST = 1_000


@dataclass(frozen=True)
class BigtableSink:
    """The rows of `[storage.bigtable]`. An atomic mutation of one row switches all users."""

    night: Night  # its runner loads
    settings: BigtableSettings
    name: str = NAME

    @property
    def place(self) -> TableAddress:
        return TableAddress(**self.settings.model_dump(exclude={"scores", "vectors"}))

    @cached_property
    def table(self) -> Any:
        gcp.library("google.cloud.bigtable", NAME)
        return bigtable_lists.open_table(self.place)

    def ready(self) -> None:
        gcp.library("google.cloud.bigtable", NAME)
        with self._translate_errors():
            self._night_row()

    def version(self, files: NightFiles) -> str:
        return f"{files.date}-{gcp.content_mark(files, FORMAT_VERSION, self.settings.scores, self.settings.vectors)}"

    def load(self, files: NightFiles) -> dict[str, Any]:
        version, rows = self.version(files), files.users + gcp.default_rows(files)
        counts = {"version": version, "users": files.users, "rows": rows}
        with self._translate_errors():
            if self._night_row().get(f"{VERSION}{version}") == LOADED:
                return counts
            self._write_night({f"{VERSION}{version}": LOADING})  # before the first cell, so that all can be removed
            self._run(files, version)
            found = self._count(version)
            if found != rows:
                raise SinkError(f"{self._where}: {found} rows have {version} after the load, but {rows} were expected")
            self._write_night({f"{VERSION}{version}": LOADED})
        return counts

    def _run(self, files: NightFiles, version: str) -> None:
        midnight = dt.datetime.combine(dt.date.fromisoformat(files.date), dt.time(), dt.UTC)
        parts = gcp.list_parts(files, vectors=self.settings.vectors)
        with self.night.beam.pipeline("publish") as pipeline:
            pipeline | self.night.beam.create(parts) | WriteLists(self.place, version, midnight, self.settings.scores)

    def _count(self, version: str) -> int:
        """Return the number of rows with a list of the version."""
        records = paths.join(self.night.folder("publish"), f"records-{manifest.new_attempt()}.json")
        with self.night.beam.pipeline("publish") as pipeline:
            ranges = pipeline | self.night.beam.create(tablet_ranges(self.place))
            ranges | CountRows(self.place, version) | WriteRecords(records)
        return add_counts(pop_records(records, Counts).of(Counts)).get("rows", 0)

    def switch(self, version: str | None) -> None:
        with self._translate_errors():
            if version and self._night_row().get(f"{VERSION}{version}") != LOADED:
                raise SinkError(f"{self._where}: {version} is not loaded, so it cannot be served; publish again")
            self._write_night({SERVED: version.encode() if version else None})

    def served(self) -> str | None:
        """Return the version that servers read."""
        found = self._night_row().get(SERVED)
        return found.decode() if found else None

    def drop(self, version: str) -> None:
        with self._translate_errors():
            self._remove({version} & self._versions())

    def settle(self, keep: Set[str]) -> None:
        with self._translate_errors():
            self._remove(self._versions() - keep)

    def _remove(self, versions: Set[str]) -> None:
        """Remove versions except the served one. Their marks are removed last, so that a killed removal is repeated."""
        unserved = tuple(sorted(versions - {self.served() or ""}))
        if unserved:
            self._write_night({f"{VERSION}{version}": LOADING for version in unserved})
            with self.night.beam.pipeline("publish") as pipeline:
                pipeline | self.night.beam.create(tablet_ranges(self.place)) | RemoveVersions(self.place, unserved)
            self._write_night({f"{VERSION}{version}": None for version in unserved})

    def forget(self, user_ids: pl.Series) -> None:
        with self._translate_errors():
            for users in user_ids.to_frame("id").iter_slices(ROWS_A_REQUEST):
                rows = [self.table.direct_row(self.place.key("user", user)) for user in users["id"]]
                for row in rows:
                    row.delete()
                self._check(self.table.mutate_rows(rows))

    def _versions(self) -> set[str]:
        """Return all versions that may have cells."""
        return {name.removeprefix(VERSION) for name in self._night_row() if name.startswith(VERSION)}

    def _night_row(self) -> dict[str, bytes]:
        """Return the columns of the row with the served version."""
        row = self.table.read_row(self.place.key("night"))
        cells = row.cells.get(self.settings.family, {}) if row is not None else {}
        return {column.decode(): found[0].value for column, found in cells.items()}

    def _write_night(self, columns: dict[str, bytes | None]) -> None:
        """Set columns of that row, or remove them if the value is None, in one atomic mutation."""
        row, now = self.table.direct_row(self.place.key("night")), dt.datetime.now(dt.UTC)
        for column, value in columns.items():
            row.delete_cell(self.settings.family, column)  # all timestamps, because clocks may differ
            if value is not None:
                row.set_cell(self.settings.family, column, value, timestamp=now)
        self._check([row.commit()])

    def _check(self, answers: list[Any]) -> None:
        for status in answers:
            if status.code:
                raise SinkError(f"{self._where}: {status.message}")

    @property
    def _where(self) -> str:
        settings = self.settings
        return f"Bigtable {settings.project}/{settings.instance}/{settings.table}"

    def _translate_errors(self) -> Any:
        return gcp.translate_errors(self._where)
