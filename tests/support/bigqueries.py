"""BigQuery and Cloud Storage in memory, as the client library and Beam's own sink call them. There is no emulator of
BigQuery to install."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import fastavro
import pytest
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import BadRequest, NotFound
from memory_files import MemoryFileSystem

Row = dict[str, Any]
NAME = r"`my-project\.recs\.(\w+)`"


class StandIn:
    """One dataset: tables of rows, views, and what was asked of it."""

    def __init__(self) -> None:
        self.tables, self.views = dict[str, list[Row]](), dict[str, str]()
        self.loads, self.statements = list[Row](), list[str]()
        self.lost = 0  # rows that a load leaves out
        self.failing: str | None = None  # what load jobs say

    def view(self, name: str) -> list[Row]:
        """What a server reads: the rows of the table that the view is over, the night beside."""
        select = rf"SELECT DATE '([\d-]+)' AS night, '(\w+)' AS version, \* FROM {NAME}"
        found = re.fullmatch(select, self.views[name])
        assert found is not None, self.views[name]
        return [{"night": found[1], "version": found[2], **row} for row in self.tables[found[3]]]

    def client(self, project: str) -> StandIn:
        assert project == "my-project"
        return self

    def get_dataset(self, name: str) -> None:
        if name != "my-project.recs":
            raise NotFound(f"Not found: Dataset {name}")

    def get_table(self, name: str) -> Any:
        table = name.removeprefix("my-project.recs.")
        if table in self.views:
            return SimpleNamespace(num_rows=None, view_query=self.views[table])
        if table not in self.tables:
            raise NotFound(f"Not found: Table {name}")
        return SimpleNamespace(num_rows=len(self.tables[table]), view_query=None)

    def list_tables(self, dataset: str) -> list[Any]:
        self.get_dataset(dataset)
        return [SimpleNamespace(table_id=table) for table in [*self.tables, *self.views]]

    def delete_table(self, name: str, not_found_ok: bool = False) -> None:
        self.tables.pop(name.removeprefix("my-project.recs."), None)

    def query(self, statement: str, job_config: Any = None) -> Any:
        self.statements.append(statement)
        if found := re.fullmatch(rf"CREATE OR REPLACE VIEW {NAME} AS (.*)", statement):
            if found[1] in self.tables:
                raise BadRequest(f"{found[1]} is not allowed for this operation because it is currently a TABLE.")
            self.get_table(found[2].rpartition(" ")[2].strip("`"))
            self.views[found[1]] = found[2]
        elif found := re.fullmatch(rf"DROP VIEW IF EXISTS {NAME}", statement):
            self.views.pop(found[1], None)
        else:
            found = re.fullmatch(rf"DELETE FROM {NAME} WHERE user_id IN UNNEST\(@users\)", statement)
            assert found is not None, statement
            (given,) = job_config.query_parameters
            assert (given.name, given.array_type) == ("users", "STRING")
            self.tables[found[1]] = [row for row in self.tables[found[1]] if row["user_id"] not in given.values]
        return SimpleNamespace(result=lambda: None)

    def wrapper(self, client: object = None) -> Any:
        """What Beam's sink loads files with."""
        return SimpleNamespace(perform_load_job=self._load, wait_for_bq_job=self._wait)

    def _load(self, *, destination: Any, source_uris: list[str], **job: Any) -> Any:
        content = [fastavro.reader(FileSystems.open(path)) for path in source_uris]
        rows: list[Any] = [row for part in content for row in part]
        self.loads.append({"files": source_uris, **job})
        self.tables[destination.tableId] = rows[: len(rows) - self.lost]
        return SimpleNamespace(projectId=destination.projectId, jobId=job["job_id"], location="EU")

    def _wait(self, job: Any, **_: object) -> None:
        if self.failing:
            raise RuntimeError(f"BigQuery job {job.jobId} failed. Error Result: {self.failing}")


def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """An empty dataset `my-project.recs` that all clients lead to, and a Cloud Storage that is empty too."""
    from apache_beam.io.gcp import bigquery_tools

    dataset, find = StandIn(), FileSystems.get_filesystem
    MemoryFileSystem.content.clear()
    monkeypatch.setattr("google.cloud.bigquery.Client", dataset.client)
    monkeypatch.setattr(bigquery_tools, "BigQueryWrapper", dataset.wrapper)
    monkeypatch.setattr(MemoryFileSystem, "mkdirs", lambda *_: None)  # as Cloud Storage's
    monkeypatch.setattr(
        FileSystems, "get_filesystem", lambda path: MemoryFileSystem(None) if path.startswith("gs://") else find(path)
    )
    return dataset
