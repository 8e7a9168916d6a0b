"""Bigtable: a row a user with a cell a version, and one row, `PREFIX#night`, that says which version is served.

    PREFIX#night   served = VERSION (what a server reads first); version:VERSION = loading, or loaded
    PREFIX#user#USER_ID, PREFIX#default#COUNTRY   list:VERSION, vector:VERSION (`transforms.sinks.bigtable_lists`)

Versions that are no longer kept are removed cell by cell, in a pipeline over the table's tablets: ranges of rows do not
hold a night, and to drop them would take an administrator's rights.
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
from pipelines.night.sink_protocol import NightFiles
from pipelines.night.stage import Night
from pipelines.sinks import gcp
from transforms.core.records import WriteRecords, pop_records
from transforms.sinks import bigtable_lists
from transforms.sinks.bigtable_lists import CountRows, Place, RemoveVersions, RowCount, WriteLists, tablets
from transforms.sinks.errors import SinkError
from transforms.sinks.redis_lists import FORMAT_VERSION

NAME = "bigtable"
SERVED, VERSION = "served", "version:"
LOADING, LOADED = b"loading", b"loaded"
ROWS_A_REQUEST = 1_000


@dataclass(frozen=True)
class BigtableSink:
    """The rows of `[storage.bigtable]`. One mutation of one row, which Bigtable makes whole, switches all users."""

    night: Night  # whose runner loads
    settings: BigtableSettings
    name: str = NAME

    @property
    def place(self) -> Place:
        return Place(**self.settings.model_dump(exclude={"scores", "vectors"}))

    @cached_property
    def table(self) -> Any:
        gcp.library("google.cloud.bigtable", NAME)
        return bigtable_lists.opened(self.place)

    def ready(self) -> None:
        gcp.library("google.cloud.bigtable", NAME)
        with self._explained():
            self._night_row()

    def version(self, files: NightFiles) -> str:
        return f"{files.date}-{gcp.content_mark(files, FORMAT_VERSION, self.settings.scores, self.settings.vectors)}"

    def load(self, files: NightFiles) -> dict[str, Any]:
        version, rows = self.version(files), files.users + gcp.default_rows(files)
        counts = {"version": version, "users": files.users, "rows": rows}
        with self._explained():
            if self._night_row().get(f"{VERSION}{version}") == LOADED:
                return counts
            self._write_night({f"{VERSION}{version}": LOADING})  # before the first cell: so that it can be removed
            self._run(files, version)
            found = self._count(version)
            if found != rows:
                raise SinkError(f"{self._where}: {found} rows hold {version} after the load, but {rows} should")
            self._write_night({f"{VERSION}{version}": LOADED})
        return counts

    def _run(self, files: NightFiles, version: str) -> None:
        midnight = dt.datetime.combine(dt.date.fromisoformat(files.date), dt.time(), dt.UTC)
        parts = gcp.list_parts(files, vectors=self.settings.vectors)
        with self.night.pipeline("publish") as pipeline:
            pipeline | self.night.create(parts) | WriteLists(self.place, version, midnight, self.settings.scores)

    def _count(self, version: str) -> int:
        """Rows with a list of the version."""
        records = paths.join(self.night.folder("publish"), f"records-{manifest.new_attempt()}.json")
        with self.night.pipeline("publish") as pipeline:
            ranges = pipeline | self.night.create(tablets(self.place))
            ranges | CountRows(self.place, version) | WriteRecords(records)
        return sum(count.rows for count in pop_records(records, RowCount).of(RowCount))

    def switch(self, version: str | None) -> None:
        with self._explained():
            if version and self._night_row().get(f"{VERSION}{version}") != LOADED:
                raise SinkError(f"{self._where}: {version} is not loaded, so it is not switched to; publish again")
            self._write_night({SERVED: version.encode() if version else None})

    def served(self) -> str | None:
        """The version that servers read."""
        found = self._night_row().get(SERVED)
        return found.decode() if found else None

    def drop(self, version: str) -> None:
        with self._explained():
            self._remove({version} & self._versions())

    def settle(self, keep: Set[str]) -> None:
        with self._explained():
            self._remove(self._versions() - keep)

    def _remove(self, versions: Set[str]) -> None:
        """Remove versions but the one that is served; their marks last, so that what is killed is done again."""
        gone = tuple(sorted(versions - {self.served() or ""}))
        if gone:
            self._write_night({f"{VERSION}{version}": LOADING for version in gone})
            with self.night.pipeline("publish") as pipeline:
                pipeline | self.night.create(tablets(self.place)) | RemoveVersions(self.place, gone)
            self._write_night({f"{VERSION}{version}": None for version in gone})

    def forget(self, user_ids: pl.Series) -> None:
        with self._explained():
            for some in user_ids.to_frame("id").iter_slices(ROWS_A_REQUEST):
                rows = [self.table.direct_row(self.place.key("user", user)) for user in some["id"]]
                for row in rows:
                    row.delete()
                self._check(self.table.mutate_rows(rows))

    def _versions(self) -> set[str]:
        """All versions of which there may be a cell."""
        return {name.removeprefix(VERSION) for name in self._night_row() if name.startswith(VERSION)}

    def _night_row(self) -> dict[str, bytes]:
        """Columns of the row that says what is served."""
        row = self.table.read_row(self.place.key("night"))
        cells = row.cells.get(self.settings.family, {}) if row is not None else {}
        return {column.decode(): found[0].value for column, found in cells.items()}

    def _write_night(self, columns: dict[str, bytes | None]) -> None:
        """Set columns of that row, or with None remove them, all in one step."""
        row, now = self.table.direct_row(self.place.key("night")), dt.datetime.now(dt.UTC)
        for column, value in columns.items():
            row.delete_cell(self.settings.family, column)  # whatever the clock said that wrote it
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

    def _explained(self) -> Any:
        return gcp.translate_errors(self._where)
