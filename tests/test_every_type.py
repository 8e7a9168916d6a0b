"""Every Arrow type under every column of every table, as Parquet, JSON lines and CSV: a value is read, its row is
refused with a reason that names the column, or the file is refused with its path, the column and the type. Nothing
else, and no value that exists becomes null in silence."""

from __future__ import annotations

import csv
import datetime as dt
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from transforms import parsing, schemas
from transforms.ingest import parse_log
from transforms.logs import LogError, LogTable
from transforms.parsing import Parsed, ParseRules
from transforms.screen import FORGET, ForgetList

BEFORE = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
RULES = ParseRules(before=BEFORE)
AT = dt.datetime(2026, 11, 20, 10, 0, 1)
DAY, CLOCK, LAPSE = dt.date(2026, 11, 20), dt.time(10, 0, 1), dt.timedelta(seconds=12)
UUID = uuid.UUID("d7a5c3f0-0001-4c00-8000-0000000000ff")
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


def list_view(kind: pa.DataType) -> pa.Array:
    return pa.array([[1, 2], [], None], pa.list_view(kind))


def arrays() -> dict[str, pa.Array]:
    """Two values and a null of every type that a Parquet file can hold, also at the ends of their ranges."""
    made: dict[str, pa.Array] = {"null": pa.nulls(3)}

    def add(kind: pa.DataType, *values: Any, name: str = "") -> None:
        made[f"{kind}{name}"] = pa.array([*values, None], kind)

    for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()):
        add(kind, 1, 0)
        bits = kind.bit_width - (not str(kind).startswith("u"))
        add(kind, 2**bits - 1, 0 if bits == kind.bit_width else -(2**bits), name=" ends")
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        add(kind, 2.0, 1.5)
        add(kind, float("inf"), float("nan"), name=" ends")
    for kind in (pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(20, 2), pa.decimal256(60, 2)):
        add(kind, Decimal("2.00"), Decimal("1.50"))
    for name, pair in {
        " words": ("cats", "\u6771\u4eac"),
        " numbers": ("2.0", "1990"),
        " times": ("2026-11-20T10:00:01Z", "2026-11-20"),
        " nulls": ("\\N", "nan"),
        " strange": ("\x00", "\u2028"),
        " truths": ("true", "no"),
        " large": ("9" * 60, "-1e999"),
    }.items():
        add(pa.string(), *pair, name=name)
    add(pa.large_string(), "cats", "2.0")
    add(pa.string_view(), "cats", "2.0")
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        add(kind, UUID.bytes, bytes(16), name=" uuids")
    add(pa.binary(), b"cats", b"7", name=" text")
    add(pa.binary(), b"\xff", b"7", name=" bytes")
    add(pa.binary(4), b"cats", b"2026")
    add(pa.binary(4), b"\xff\xfe\x00\x01", b"2026", name=" bytes")
    add(pa.binary(16), UUID.bytes, b"sixteen letters!")
    add(pa.bool_(), True, False)
    for kind in (pa.date32(), pa.date64()):
        add(kind, DAY, dt.date(1970, 1, 1))
    made["date32 ends"] = pa.array([2**31 - 1, -(2**31), None], pa.int32()).view(pa.date32())
    for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")):
        add(kind, CLOCK, dt.time())
    for unit in ("s", "ms", "us", "ns"):
        zones = (None, "UTC", "Europe/Berlin", "+05:30", "-03:00", "Nowhere/Atall")
        for zone in zones if unit == "us" else zones[:2]:
            add(
                pa.timestamp(unit, zone),
                *[int(AT.timestamp()) * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]] * 2,
            )
        ends = [2**63 - 1, -(2**63) + 1] if unit != "s" else [2**53, -(2**53)]  # Parquet has no seconds
        add(pa.timestamp(unit, "UTC"), *ends, name=" ends")
        add(pa.duration(unit), 12, 0)
    for values in ("cats", "2.0"), (2, 1), (2.5, 1.0), (AT, AT), (DAY, DAY), (Decimal("2.00"), Decimal("3.00")):
        encoded = pa.array([*values, None]).dictionary_encode()
        made[f"{encoded.type}{values[0]}"] = encoded
    add(pa.list_(pa.int64()), [1, 2], [])
    add(pa.list_(pa.string()), ["DE", None], ["at"])
    add(pa.large_list(pa.string()), ["DE"], [])
    made["fixed_size_list"] = pa.array([["DE", "AT"], ["SE", None], ["NO", "SE"]], pa.list_(pa.string(), 2))
    made["list_view"] = list_view(pa.int8())
    add(pa.list_(pa.struct([("a", pa.int8())])), [{"a": 1}], [])
    add(pa.struct([("a", pa.int8())]), {"a": 1}, {"a": None})
    add(pa.map_(pa.string(), pa.int8()), [("a", 1)], [])
    made["uuid"] = pa.array([UUID.bytes, bytes(16), None], pa.uuid())
    made["json"] = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', "7", None]))
    made["bool8"] = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8()))
    return made


TYPES = arrays()
COLUMNS = {name: (*table.required, *table.optional) for name, (table, _) in TABLES.items()}


def others(table: str, column: str, rows: int) -> dict[str, list[str]]:
    """The required columns of a table but for one, and those that stand for them, with good values."""
    names = [name for name in COLUMNS[table] if name in GOOD or name.endswith("_id")]
    return {name: [GOOD.get(name, "7")] * rows for name in names if name != column}


def printed(values: pa.Array) -> list[Any]:
    """The values as a program prints them."""
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
    """(the valid rows, the refused ones and why)."""
    log, parse = TABLES[table]
    if parse is None:
        return ForgetList(paths=(str(path),), digest=path.read_bytes().hex()).ids().to_frame(), {}
    parts = list(parse_log(str(path), log, {}, parse))
    refused = pl.concat(part.refused for part in parts)
    return pl.concat(part.valid for part in parts), dict(refused.select("row", "reason").rows())


def check(table: str, column: str, values: list[Any], path: Path) -> None:
    """Read a file. Fails if a value is neither read nor refused by name."""
    try:
        valid, refused = read(table, path)
    except LogError as error:
        assert str(path) in str(error) and column in str(error), error
        if path.suffix == ".parquet" and table != "forget":
            kind = pa_parquet.read_schema(path).field(column).type
            assert f"{kind}" in str(error) or "binary" in str(error), error
        return
    if table != "forget":
        assert valid.height + len(refused) == len(values)
        assert all(column in reason or reason == "not a JSON object" for reason in refused.values()), refused
        if column in valid.columns and column not in MAY_BE_NULL:
            absent = sum(value in (None, "\\N", "\u2028", [], "[]") for value in values)
            assert valid[column].null_count() <= absent, (values, valid)


@pytest.mark.parametrize("table", TABLES)
def test_every_type_of_parquet_is_read_or_named(table: str, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    for column in COLUMNS[table]:
        for name, values in TYPES.items():
            write_parquet(path, table, column, values)
            try:
                check(table, column, printed(values), path)
            except BaseException as error:
                raise AssertionError(f"{name} as {column}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("table", TABLES)
def test_every_type_in_text_is_read_or_refused(table: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"log.{ending}"
    for column in COLUMNS[table]:
        of_types = [printed(values) for values in TYPES.values()]
        # A row of text stands for itself, so that one file holds them all; the list of users to forget stops at one.
        for values in of_types if table == "forget" else [[value for of in of_types for value in of]]:
            write_text(path, table, column, values)
            check(table, column, values, path)
