"""BigQuery: one table per version, and a view over the served version, from which clients read.

    DATASET.TABLE_20261121_1f2e3d4c          lists, default lists and, if configured, user vectors of a night
    DATASET.TABLE_20261121_1f2e3d4c_videos   its video vectors, if configured
    DATASET.TABLE, DATASET.TABLE_videos      the views: `night`, `version`, and the same columns

Loads and view replacements are atomic. Tables of versions that are no longer kept are dropped.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from pipelines.base import paths
from pipelines.config.beam_options import pipeline_options
from pipelines.config.sink_settings import BigQuerySettings
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.sink_protocol import NightFiles
from pipelines.sinks import gcp
from transforms.core import files as file_system
from transforms.sinks import SinkError
from transforms.sinks.bigquery_lists import LoadLists, LoadVideos

NAME = "bigquery"
USERS_A_STATEMENT = 10_000  # the limit of query parameters is 10 MB
_VERSION = r"\d{8}_[0-9a-f]{8}"


@dataclass(frozen=True)
class BigQuerySink:
    """The tables and views of `[storage.bigquery]`. Loads and view replacements are atomic."""

    night: Night  # its runner loads
    settings: BigQuerySettings
    name: str = NAME

    @cached_property
    def client(self) -> Any:
        return gcp.library("google.cloud.bigquery", NAME).Client(project=self.settings.project)

    def ready(self) -> None:
        gcp.library("google.cloud.bigquery", NAME)
        self._temp()
        with self._translate_errors():
            self.client.get_dataset(f"{self.settings.project}.{self.settings.dataset}")

    def version(self, files: NightFiles) -> str:
        mark = gcp.content_mark(files, self.settings.vectors, self.settings.videos)
        return f"{files.date.replace('-', '')}_{mark}"

    def _temp(self) -> str:
        """Return the folder on Cloud Storage for load files. Raises StageError if none is configured."""
        options = pipeline_options(self.night.runner_config, self.night.flags).get_all_options()
        folder = self.settings.temp or options["temp_location"]
        if not str(folder).startswith("gs://"):
            raise StageError(
                f"[storage.bigquery] needs a folder on Cloud Storage for load files, but the folder is {folder!r}: set "
                "storage.bigquery.temp in the job file, or --temp_location"
            )
        return str(folder)

    def load(self, files: NightFiles) -> dict[str, Any]:
        version = self.version(files)
        expected = self._expected(files, version)
        if {table: self._rows(table) for table in expected} != expected:
            with self._translate_errors():
                self._run(files, version)
        for table, rows in expected.items():
            if (found := self._rows(table)) != rows:
                raise SinkError(f"{self._place}: {table} has {found} rows after the load, but {rows} were expected")
        return {"version": version, "users": files.users, "rows": sum(expected.values())}

    def _run(self, files: NightFiles, version: str) -> None:
        settings = self.settings
        temp = paths.join(self._temp(), f"watchnext-{self._lists(version)}")  # separate, because Beam does not clean up
        parts = gcp.list_parts(files, vectors=settings.vectors)
        try:
            with self.night.beam.pipeline("publish") as pipeline:
                listed = pipeline | "Parts" >> self.night.beam.create(parts)
                listed | LoadLists(f"{settings.project}:{settings.dataset}.{self._lists(version)}", temp)
                if settings.videos:
                    table = f"{settings.project}:{settings.dataset}.{self._videos(version)}"
                    pipeline | LoadVideos(self._vectors(files), table, temp)
        finally:
            file_system.remove_files(file_system.list_files(temp))  # they contain users' lists

    def _expected(self, files: NightFiles, version: str) -> dict[str, int]:
        """Return the number of rows of each table of the version."""
        expected = {self._lists(version): files.users + gcp.default_rows(files)}
        if self.settings.videos:
            rows = file_system.read_parquet(self._vectors(files), ["video_id"]).height
            expected[self._videos(version)] = rows
        return expected

    def _vectors(self, files: NightFiles) -> str:
        folder = self.night.root.stage(dt.date.fromisoformat(files.date), "train")
        return paths.join(folder, "video_vectors.parquet")

    def switch(self, version: str | None) -> None:
        """Replace both views, that of the lists last. In between, a join of the views by `version` is empty."""
        with self._translate_errors():
            for suffix in ("_videos", ""):
                self._view(suffix, version)

    def _view(self, suffix: str, version: str | None) -> None:
        """Point a view to the version's table, or remove the view if the version has no such table."""
        view, table = f"{self.settings.table}{suffix}", f"{self.settings.table}_{version}{suffix}"
        if version is None or (suffix and self._rows(table) is None):
            self.client.query(f"DROP VIEW IF EXISTS {self._quoted(view)}").result()
            return
        night = dt.datetime.strptime(version[:8], "%Y%m%d").date().isoformat()
        select = f"SELECT DATE '{night}' AS night, '{version}' AS version, * FROM {self._quoted(table)}"
        self.client.query(f"CREATE OR REPLACE VIEW {self._quoted(view)} AS {select}").result()

    def served(self) -> str | None:
        """Return the version of the view of lists."""
        found = re.search(rf"_({_VERSION})`", self._table(self.settings.table, "view_query") or "")
        return found[1] if found else None

    def drop(self, version: str) -> None:
        with self._translate_errors():
            self._drop({version} - {self.served()})

    def settle(self, keep: Set[str]) -> None:
        with self._translate_errors():
            self._drop({version for version, _ in self._tables()} - set(keep) - {self.served()})

    def _drop(self, versions: Set[str | None]) -> None:
        for version, table in self._tables():
            if version in versions:
                self.client.delete_table(self._full(table), not_found_ok=True)

    def forget(self, user_ids: pl.Series) -> None:
        bigquery = gcp.library("google.cloud.bigquery", NAME)
        with self._translate_errors():
            tables = [table for version, table in self._tables() if table == self._lists(version)]
            for users in user_ids.to_frame("id").iter_slices(USERS_A_STATEMENT):
                parameter = bigquery.ArrayQueryParameter("users", "STRING", users["id"].to_list())
                for table in tables:
                    delete = f"DELETE FROM {self._quoted(table)} WHERE user_id IN UNNEST(@users)"
                    self.client.query(delete, job_config=bigquery.QueryJobConfig(query_parameters=[parameter])).result()

    def _tables(self) -> Iterator[tuple[str, str]]:
        """Yield (version, name) of all tables of this sink."""
        named = re.compile(rf"{re.escape(self.settings.table)}_({_VERSION})(_videos)?")
        for table in self.client.list_tables(f"{self.settings.project}.{self.settings.dataset}"):
            if found := named.fullmatch(table.table_id):
                yield found[1], table.table_id

    def _rows(self, table: str) -> int | None:
        """Return the number of rows of a table; None if it does not exist."""
        with self._translate_errors():
            found = self._table(table, "num_rows")
        return None if found is None else int(found)

    def _table(self, table: str, attribute: str) -> Any:
        from google.api_core.exceptions import NotFound

        try:
            return getattr(self.client.get_table(self._full(table)), attribute)
        except NotFound:
            return None

    def _lists(self, version: str) -> str:
        return f"{self.settings.table}_{version}"

    def _videos(self, version: str) -> str:
        return f"{self.settings.table}_{version}_videos"

    def _full(self, table: str) -> str:
        return f"{self.settings.project}.{self.settings.dataset}.{table}"

    def _quoted(self, table: str) -> str:
        return f"`{self._full(table)}`"

    @property
    def _place(self) -> str:
        return f"BigQuery {self.settings.project}.{self.settings.dataset}"

    def _translate_errors(self) -> Any:
        return gcp.translate_errors(self._place)
