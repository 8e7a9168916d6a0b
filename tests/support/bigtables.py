"""Bigtable for the tests: its emulator, where Maven brings it, and a few lines that stand in for it elsewhere.

The stand-in knows what `transforms.sinks.bigtable_lists` asks for, no more; every test of a sink runs on both.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam.io.gcp.bigtableio  # noqa: F401  # before anything stands in for what it imports
import pytest
from google.cloud.bigtable.batcher import MutationsBatchError
from google.cloud.bigtable.data import mutations
from google.cloud.bigtable.row import DirectRow
from google.rpc.status_pb2 import Status

from transforms.sinks import bigtable_lists

ARTIFACT = "com.google.cloud:google-cloud-bigtable-emulator:0.220.0:jar"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
Row = dict[str, dict[bytes, dict[int, bytes]]]  # family -> column -> time -> value


class StandIn:
    """A table in memory, and the client, instance and batcher that lead to it."""

    def __init__(self, families: set[str]) -> None:
        self.families, self.rows = families, dict[bytes, Row]()
        self.refuses: Status | None = None  # what it answers to all that is to be changed

    def client(self, project: str, client_info: object = None) -> Any:
        return SimpleNamespace(instance=lambda _: SimpleNamespace(table=lambda _: self))

    def batcher(self, table: StandIn, **_: object) -> Any:
        def mutate(row: Any) -> None:
            (status,) = self.mutate_rows([row])
            if status.code:
                raise MutationsBatchError("Errors in batch mutations.", [PermissionError(status.message)])

        return SimpleNamespace(mutate=mutate, close=lambda: None)

    def direct_row(self, key: bytes) -> Any:
        row = DirectRow(key)
        row.commit = lambda: self.mutate_rows([row])[0]
        return row

    def mutate_rows(self, rows: list[Any]) -> list[Status]:
        return [self.refuses or self._mutate(row) for row in rows]

    def _mutate(self, row: Any) -> Status:
        for change in row._get_mutations():
            if isinstance(change, mutations.DeleteAllFromRow):
                self.rows.pop(row.row_key, None)
                continue
            if change.family not in self.families:
                return Status(code=5, message=f"unknown family {change.family!r}")
            columns = self.rows.setdefault(row.row_key, {}).setdefault(change.family, {})
            if isinstance(change, mutations.SetCell):
                columns.setdefault(change.qualifier, {})[change.timestamp_micros] = change.new_value
            else:
                columns.pop(change.qualifier, None)
            if not columns:
                del self.rows[row.row_key]
        return Status()

    def read_row(self, key: bytes) -> Any:
        return self._row(key) if key in self.rows else None

    def _row(self, key: bytes, column: str = ".*", stripped: bool = False) -> Any:
        def cells(versions: dict[int, bytes]) -> list[Any]:
            newest = sorted(versions.items(), reverse=True)
            return [SimpleNamespace(value=b"" if stripped else value, timestamp=time) for time, value in newest]

        kept = {
            family: {name: cells(found) for name, found in columns.items() if re.fullmatch(column.encode(), name)}
            for family, columns in self.rows[key].items()
        }
        return SimpleNamespace(row_key=key, cells={family: columns for family, columns in kept.items() if columns})

    def read_rows(self, start_key: bytes, end_key: bytes, filter_: Any = None) -> Iterator[Any]:
        family, column, one_cell, strip = (given._to_dict() for given in filter_.filters)
        assert family["family_name_regex_filter"].decode() in {re.escape(name) for name in self.families}
        assert (one_cell, strip) == ({"cells_per_column_limit_filter": 1}, {"strip_value_transformer": True})
        for key in sorted(self.rows):
            found = self._row(key, column["column_qualifier_regex_filter"].decode(), stripped=True)
            if start_key <= key < end_key and found.cells:
                yield found

    def sample_row_keys(self) -> list[Any]:
        keys = sorted(self.rows)[::2]
        return [SimpleNamespace(row_key=key) for key in [*keys, b""]]

    def everything(self) -> dict[bytes, dict[bytes, bytes]]:
        """Every row's columns with their newest value."""
        return {
            key: {name: found[max(found)] for columns in row.values() for name, found in columns.items()}
            for key, row in self.rows.items()
        }


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch, family: str) -> Iterator[StandIn]:
    """The stand-in in the place of the client library's table, for us and for Beam's sink."""
    table = StandIn({family})
    monkeypatch.setattr("google.cloud.bigtable.Client", table.client)
    monkeypatch.setattr(bigtable_lists, "open_table", vars(bigtable_lists.open_table)["__wrapped__"])  # nothing is kept
    monkeypatch.setattr("apache_beam.io.gcp.bigtableio.Client", table.client)
    monkeypatch.setattr("apache_beam.io.gcp.bigtableio.MutationsBatcher", table.batcher)
    yield table


@contextmanager
def emulator(folder: Path) -> Iterator[str]:
    """HOST:PORT of Google's emulator for as long as it is needed; skips the test where it cannot be had."""
    if missing := [name for name in ("mvn", "java") if shutil.which(name) is None]:
        pytest.skip(f"Bigtable's emulator comes from Maven, but {' and '.join(missing)} is not installed")
    command = ["mvn", "-q", "-B", COPY, f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={folder}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"Maven does not find Bigtable's emulator: {done.stdout.strip().splitlines()[:1]}")
    with zipfile.ZipFile(next(folder.glob("*.jar"))) as jar:
        kind = "arm" if platform.machine() in ("aarch64", "arm64") else "x86_64"
        program = jar.extract(f"gcloud/bigtable-linux-{kind}/platform/bigtable-emulator/cbtemulator", folder)
    os.chmod(program, 0o700)
    process = subprocess.Popen([program, "-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        message = process.stdout.readline()
        assert "running on" in message, message
        yield message.split()[-1]
    finally:
        process.kill()
        process.communicate()


class Emulated:
    """A table of the emulator, seen as `StandIn.everything` shows one."""

    def __init__(self, project: str, instance: str, table: str, family: str) -> None:
        from google.cloud.bigtable import Client

        self.table = Client(project=project, admin=True).instance(instance).table(table)
        self.table.create(column_families={family: None})

    def everything(self) -> dict[bytes, dict[bytes, bytes]]:
        return {
            row.row_key: {name: cells[0].value for columns in row.cells.values() for name, cells in columns.items()}
            for row in self.table.read_rows()
        }
