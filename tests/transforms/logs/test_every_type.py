"""Every Arrow type under every column of every table, as Parquet, JSON lines and CSV.

A value is read, or its row is rejected with a reason that names the column, or the file is refused with its path, the
column and the type. No existing value becomes null silently.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from arrow_types import BEFORE, TYPES
from breadth import cases

from transforms.logs import parsing, schemas
from transforms.logs.ingest import parse_log
from transforms.logs.parsing import Parsed, ParseRules
from transforms.logs.privacy import FORGET, ForgetList
from transforms.logs.readers import LogError, LogTable

RULES = ParseRules(before=BEFORE)
USERS = replace(schemas.USERS, optional=(*schemas.USERS.optional, "plan"))
TABLES: dict[str, tuple[LogTable, Callable[[pl.DataFrame], Parsed] | None]] = {
    "watches": (schemas.WATCHES, partial(parsing.parse_watches, rules=RULES)),
    "searches": (schemas.SEARCHES, partial(parsing.parse_searches, rules=RULES)),
    "impressions": (schemas.IMPRESSIONS, partial(parsing.parse_impressions, rules=RULES)),
    "videos": (schemas.VIDEOS, parsing.parse_videos),
    "users": (USERS, partial(parsing.parse_users, categories=("plan",))),
    "hidden": (schemas.HIDDEN, parsing.parse_hidden),
    "forget": (FORGET, None),
}
GOOD: dict[str, Any] = {  # of the columns that are not looked at
    "time": "2026-11-20T10:00:00Z",
    "completed": "true",
    "watch_seconds": "12",
    "clicked": "true",
    "birth_year": "1990",
    "query": "cats",
}


MAY_BE_NULL = ("available", "completed", "birth_year")  # which then have a value of their own, or are implausible


COLUMNS = {name: (*table.required, *table.optional) for name, (table, _) in TABLES.items()}


def others(table: str, column: str, rows: int) -> dict[str, list[str]]:
    """Return the other required columns of a table, with valid values."""
    names = [name for name in COLUMNS[table] if name in GOOD or name.endswith("_id")]
    return {name: [GOOD.get(name, "7")] * rows for name in names if name != column}


def printed(values: pa.Array) -> list[Any]:
    """Return the values as a program prints them."""
    try:
        return list(values.to_pylist())
    except (ValueError, OverflowError, KeyError, pa.ArrowException):  # what Python has no value for
        return list(values.view(pa.int64() if values.type.bit_width == 64 else pa.int32()).to_pylist())


def as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)


def write_parquet(path: Path, table: str, column: str, values: pa.Array) -> None:
    pa_parquet.write_table(pa.table({**others(table, column, len(values)), column: values}), path)


def write_text(path: Path, table: str, column: str, values: list[Any]) -> None:
    columns = {**others(table, column, len(values)), column: values}
    rows = list(zip(*columns.values(), strict=True))
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([list(columns), *rows])
        else:
            file.writelines(json.dumps(dict(zip(columns, row, strict=True)), default=as_json) + "\n" for row in rows)


def read(table: str, path: Path) -> tuple[pl.DataFrame, dict[int, str]]:
    """Return the valid rows, and the rejected ones with their reasons."""
    log, parse = TABLES[table]
    if parse is None:
        return ForgetList(paths=(str(path),), digest=path.read_bytes().hex()).ids().to_frame(), {}
    parts = list(parse_log(str(path), log, {}, parse))
    rejected = pl.concat(part.rejected for part in parts)
    return pl.concat(part.valid for part in parts), dict(rejected.select("row", "reason").rows())


def check(table: str, column: str, values: list[Any], path: Path) -> None:
    """Read a file. Fails if a value is neither read nor rejected with a reason."""
    try:
        valid, rejected = read(table, path)
    except LogError as error:
        assert str(path) in str(error) and column in str(error), error
        if path.suffix == ".parquet" and table != "forget":
            kind = pa_parquet.read_schema(path).field(column).type
            assert f"{kind}" in str(error) or "binary" in str(error), error
        return
    if table != "forget":
        assert valid.height + len(rejected) == len(values)
        assert all(column in reason or reason == "not a JSON object" for reason in rejected.values()), rejected
        if column in valid.columns and column not in MAY_BE_NULL:
            absent = sum(value in (None, "\\N", "\u2028", [], "[]") for value in values)
            assert valid[column].null_count() <= absent, (values, valid)


@pytest.mark.parametrize("table", TABLES)
def test_every_parquet_type_is_read_or_reported(table: str, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    for column in COLUMNS[table]:
        for name, values in cases(TYPES.items()):
            write_parquet(path, table, column, values)
            try:
                check(table, column, printed(values), path)
            except BaseException as error:
                raise AssertionError(f"{name} as {column}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("table", TABLES)
def test_every_type_in_text_is_read_or_rejected(table: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"log.{ending}"
    for column in COLUMNS[table]:
        of_types = [printed(values) for values in TYPES.values()]
        # A row of text stands for itself, so that one file holds them all; the list of users to forget stops at one.
        for values in of_types if table == "forget" else [[value for of in of_types for value in of]]:
            write_text(path, table, column, values)
            check(table, column, values, path)
