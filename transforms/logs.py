"""Raw logs of any of the supported formats, read as frames of raw columns.

A table is Parquet, JSON lines or CSV, told by the file's ending: `.parquet`, `.jsonl`, `.json`, `.ndjson`, `.csv`, the
text ones also with `.gz`. Text comes as strings, Parquet in its own types: `parsing` makes one of both. Every frame
also has `row`, the row's number in its file from 1 (a CSV header is not counted). What no reader can make sense of
comes in a frame of its own, so that no row is lost without a reason.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.frames import FRAME_ROWS

TEXT_BLOCK_BYTES = 16 << 20
_ENDING = re.compile(r"\.(parquet|jsonl|ndjson|json|csv)(\.gz)?$", re.IGNORECASE)


class LogError(ValueError):
    """A log file that cannot be read, with its path and what to do."""


@dataclass(frozen=True, kw_only=True)
class LogTable:
    """One of the tables users bring: which columns it must have, which it may have."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()  # at least one of these optional ones is needed

    def check(self, present: set[str], path: str, renamed: dict[str, str]) -> None:
        """Raise `LogError` naming the columns this table lacks."""
        lacking = [renamed.get(name, name) for name in self.required if renamed.get(name, name) not in present]
        if lacking:
            raise LogError(
                f"{path}: the {self.name} table lacks {', '.join(map(repr, lacking))}; it has "
                f"{', '.join(sorted(present)) or 'no columns'} (rename columns in [logs.columns.{self.name}])"
            )
        if self.any_of and not any(renamed.get(name, name) in present for name in self.any_of):
            raise LogError(f"{path}: the {self.name} table needs one of {', '.join(self.any_of)}; it has none")


BROKEN = {"row": pl.Int64, "reason": pl.String, "text": pl.String}


@dataclass(frozen=True)
class RawFrame:
    """Rows of one file: `rows` in raw columns with `row`, and what is not even a row (`row`, `reason`, `text`)."""

    rows: pl.DataFrame
    broken: pl.DataFrame


def read_log(path: str, table: LogTable, renamed: dict[str, str]) -> Iterator[RawFrame]:
    """Frames of at most `FRAME_ROWS` rows of one file, in the file's order, with the columns the table knows.

    `renamed` maps our column names to the file's. Columns the file does not have are absent from the frames.
    Raises LogError for an ending that is not supported, a file cut short, and required columns that are missing.
    """
    ending = _ENDING.search(path)
    if not ending:
        raise LogError(f"{path}: the ending must be .parquet, .jsonl, .ndjson, .json or .csv (text also with .gz)")
    reader = {"parquet": _read_parquet, "csv": _read_csv}.get(ending[1].lower(), _read_json)
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw:
        source = gzip.GzipFile(fileobj=raw) if ending[2] else raw
        try:
            yield from reader(source, lambda present: _columns(table, present, path, renamed))
        except (pa.ArrowInvalid, EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile) as error:
            kind = ending[0].lstrip(".")
            raise LogError(f"{path}: not a whole {kind} file ({error}); send it again or take it out") from error


def count_rows(path: str) -> int:
    """How many rows a log file has: from the footer of Parquet, by line ends in text (at most a few too many)."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw:
        if path.lower().endswith(".parquet"):
            return int(pa_parquet.read_metadata(raw).num_rows)
        source = gzip.GzipFile(fileobj=raw) if path.lower().endswith(".gz") else raw
        return sum(block.count(b"\n") for block in iter(lambda: source.read(1 << 20), b""))


Columns = Callable[[list[str]], dict[str, str]]  # the names a file has -> {name in the file: our name} of those wanted


def _columns(table: LogTable, present: list[str], path: str, renamed: dict[str, str]) -> dict[str, str]:
    table.check(set(present), path, renamed)
    names = (*table.required, *table.optional)
    return {renamed.get(name, name): name for name in names if renamed.get(name, name) in present}


def _read_parquet(source: BinaryIO, wanted: Columns) -> Iterator[RawFrame]:
    file = pa_parquet.ParquetFile(source)
    columns = wanted(file.schema_arrow.names)
    first = 1
    for batch in file.iter_batches(FRAME_ROWS, columns=list(columns)):
        frame = pl.DataFrame(pa.Table.from_batches([batch])).rename(columns)
        yield RawFrame(frame.with_columns(_row_numbers(first, frame.height)), pl.DataFrame(schema=BROKEN))
        first += frame.height


def _read_csv(source: BinaryIO, wanted: Columns) -> Iterator[RawFrame]:
    text = io.BufferedReader(source)  # type: ignore[arg-type]
    names = next(csv.reader([text.readline().decode("utf-8-sig")]), [])
    columns = wanted(names)
    if not text.peek(1):
        return
    broken: list[tuple[int, str, str]] = []

    def skip(row: Any) -> str:
        broken.append((row.number, f"{row.actual_columns} values under a header of {row.expected_columns}", row.text))
        return "skip"

    batches = pa_csv.open_csv(
        text,
        read_options=pa_csv.ReadOptions(column_names=names, block_size=TEXT_BLOCK_BYTES, use_threads=False),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(
            include_columns=list(columns),
            column_types={name: pa.string() for name in columns},
            strings_can_be_null=True,
            null_values=["", "null", "NULL"],
        ),
    )
    first = 1
    for batch in batches:
        for frame in pl.DataFrame(pa.Table.from_batches([batch])).rename(columns).iter_slices(FRAME_ROWS):
            # The reader runs ahead: the broken rows it has met lie in this frame or behind it.
            numbers = np.setdiff1d(np.arange(first, first + frame.height + len(broken)), [row[0] for row in broken])
            rows = frame.with_columns(pl.Series("row", numbers[: frame.height], dtype=pl.Int64))
            first = int(numbers[frame.height - 1]) + 1
            yield RawFrame(rows, _broken([row for row in broken if row[0] < first]))
            broken = [row for row in broken if row[0] >= first]
    yield RawFrame(pl.DataFrame(schema=dict.fromkeys((*columns.values(), "row"))), _broken(broken))


def _read_json(source: BinaryIO, wanted: Columns) -> Iterator[RawFrame]:
    first, tail, columns = 1, b"", None
    while True:
        block = source.read(TEXT_BLOCK_BYTES)
        text, _, tail = (tail + block).rpartition(b"\n") if block else (tail, b"", b"")
        lines = text.splitlines()
        if columns is None and lines:
            columns = wanted(sorted({key for line in lines[:100] for key in _object(line)}))
        for start in range(0, len(lines), FRAME_ROWS):
            part = lines[start : start + FRAME_ROWS]
            yield _parse_lines(part, columns or {}, first)
            first += len(part)
        if not block:
            return


def _parse_lines(lines: list[bytes], columns: dict[str, str], first: int) -> RawFrame:
    """One frame of the lines; where one is no JSON object, each is looked at alone."""
    schema = dict.fromkeys(columns, pl.String)
    try:
        frame = pl.read_ndjson(io.BytesIO(b"\n".join(lines)), schema=schema)
        if frame.height == len(lines):
            rows = frame.rename(columns).with_columns(_row_numbers(first, frame.height))
            return RawFrame(rows, pl.DataFrame(schema=BROKEN))
    except pl.exceptions.PolarsError:
        pass
    good = [at for at, line in enumerate(lines) if _object(line)]
    frame = pl.read_ndjson(io.BytesIO(b"\n".join(lines[at] for at in good)), schema=schema) if good else None
    rows = pl.DataFrame(schema=schema) if frame is None else frame
    numbers = pl.Series("row", [first + at for at in good], dtype=pl.Int64)
    bad = sorted(set(range(len(lines))) - set(good))
    broken = [(first + at, "not a JSON object", lines[at].decode(errors="replace")) for at in bad if lines[at].strip()]
    return RawFrame(rows.rename(columns).with_columns(numbers), _broken(broken))


def _object(line: bytes) -> dict[str, Any]:
    """The JSON object a line holds; empty where it holds none."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _row_numbers(first: int, height: int) -> pl.Expr:
    return pl.int_range(first, first + height, dtype=pl.Int64).alias("row")


def _broken(rows: list[tuple[int, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=BROKEN, orient="row")
