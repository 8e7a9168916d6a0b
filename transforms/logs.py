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
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.frames import FRAME_ROWS, concat

TEXT_BLOCK_BYTES = 16 << 20
CSV_BLOCK_BYTES = 4 << 20  # Arrow reads up to 32 of them ahead
_HEAD_BYTES = 1 << 18
_DAMAGE = (pa.ArrowInvalid, pl.exceptions.ComputeError, EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile)
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_ENDING = re.compile(r"\.(parquet|jsonl|ndjson|json|csv)(\.gz)?$", re.IGNORECASE)


class LogError(ValueError):
    """A log file that cannot be read, with its path and what to do."""


class LogSettingError(LogError):
    """A setting that does not fit the log files, with its name: no file at its path, a column that no file has.

    The same command fails again until somebody corrects the setting or the files: schedules must not retry it.
    """


@dataclass(frozen=True, kw_only=True)
class LogTable:
    """One of the tables users bring: which columns it must have, which it may have."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()  # at least one of these optional ones is needed
    lists: tuple[str, ...] = ()  # may hold a list of values a row, where the format has lists

    def check(self, present: set[str], path: str, renamed: dict[str, str]) -> None:
        """Raise `LogError` naming the columns this table lacks."""
        lacking = [renamed.get(name, name) for name in self.required if renamed.get(name, name) not in present]
        if lacking:
            raise LogSettingError(
                f"{path}: the {self.name} table lacks {', '.join(map(repr, lacking))}; it has "
                f"{', '.join(sorted(present)) or 'no columns'} (rename columns in [logs.columns.{self.name}])"
            )
        if self.any_of and not any(renamed.get(name, name) in present for name in self.any_of):
            raise LogSettingError(f"{path}: the {self.name} table needs one of {', '.join(self.any_of)}; it has none")


BROKEN = {"row": pl.Int64, "reason": pl.String, "text": pl.String}


@dataclass(frozen=True)
class RawFrame:
    """Rows of one file: `rows` in raw columns with `row`, and what is not even a row (`row`, `reason`, `text`)."""

    rows: pl.DataFrame
    broken: pl.DataFrame


def read_log(path: str, table: LogTable, renamed: dict[str, str]) -> Iterator[RawFrame]:
    """Frames of at most `FRAME_ROWS` rows of one file, in the file's order, with the columns the table knows.

    `renamed` maps our column names to the file's; two of ours may be read from one of the file's. A column that the
    file does not have is taken from the folders of its path that are named `key=value`, else absent from the frames.
    Raises LogError for an ending that is not supported, a file cut short, and required columns that are missing.
    """
    by_folder, names = folder_values(path), names_in_file(table, renamed)
    constants: dict[str, str | None] = {}

    def wanted(present: list[str] | None) -> dict[str, str]:
        if present is not None:
            table.check({*present, *by_folder}, path, renamed)
        for theirs in (by_folder.keys() & names.keys()) - set(present or ()):
            constants.update(dict.fromkeys(names[theirs], by_folder[theirs]))
        return {theirs: ours[0] for theirs, ours in names.items() if ours[0] not in constants}

    for frame in _frames(path, wanted, table.lists):
        yield RawFrame(with_copies(frame.rows, names.values(), constants), frame.broken)


def folder_values(path: str) -> dict[str, str | None]:
    """key -> value of the folders of a path that are named `key=value`, as Hive and Spark name the parts of a table."""
    pairs = (name.split("=", 1) for name in path.split("/")[:-1] if name.count("=") == 1)
    return {unquote(key): None if value == _HIVE_NULL else unquote(value) for key, value in pairs if key}


def names_in_file(table: LogTable, renamed: dict[str, str]) -> dict[str, list[str]]:
    """The file's name -> our names of the columns that the table knows."""
    names: dict[str, list[str]] = {}
    for ours in (*table.required, *table.optional):
        names.setdefault(renamed.get(ours, ours), []).append(ours)
    return names


def with_copies(rows: pl.DataFrame, names: Iterable[list[str]], constants: dict[str, str | None]) -> pl.DataFrame:
    """The rows with further columns: copies of those that have several of our names, and constants."""
    copies = (pl.col(first).alias(name) for first, *more in names if first in rows.columns for name in more)
    return rows.with_columns(*copies, *(pl.lit(value, pl.String).alias(name) for name, value in constants.items()))


def column_names(path: str) -> list[str]:
    """The columns a log file has, in its order; of JSON lines those of the first objects, sorted. Raises LogError for a
    file that cannot be read."""
    found: list[str] = []

    def note(present: list[str] | None) -> dict[str, str]:
        found.extend(present or ())
        raise _EnoughError

    with suppress(_EnoughError):
        next(_frames(path, note, ()), None)
    return found


class _EnoughError(Exception):
    """The names of the columns were all that was wanted."""


def _frames(path: str, wanted: Columns, lists: tuple[str, ...]) -> Iterator[RawFrame]:
    ending = _ENDING.search(path)
    if not ending:
        raise LogSettingError(
            f"{path}: the ending must be .parquet, .jsonl, .ndjson, .json or .csv (text also with .gz)"
        )
    readers: dict[str, Reader] = {"parquet": partial(_read_parquet, path=path, lists=lists), "csv": _read_csv}
    reader = readers.get(ending[1].lower(), _read_json)
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw:
        source = gzip.GzipFile(fileobj=raw) if ending[2] else raw
        with _whole(path):
            yield from reader(source, wanted)


@contextmanager
def _whole(path: str) -> Iterator[None]:
    """LogError in place of what the readers raise where a file is damaged or was cut short."""
    try:
        yield
    except _DAMAGE as error:
        kind = path.rsplit("/", 1)[-1].partition(".")[2]
        raise LogError(f"{path}: not a whole {kind} file ({error}); send it again or take it out") from error


def count_rows(path: str) -> int:
    """How many rows a log file has: from the footer of Parquet, by line ends in text (at most a few too many)."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw, _whole(path):
        if path.lower().endswith(".parquet"):
            return int(pa_parquet.read_metadata(raw).num_rows)
        source = gzip.GzipFile(fileobj=raw) if path.lower().endswith(".gz") else raw
        return sum(block.count(b"\n") for block in iter(lambda: source.read(1 << 20), b""))


def estimated_rows(path: str, size: int) -> int:
    """About how many rows a log file of `size` bytes has: from the footer of Parquet, by the first lines of text."""
    if path.lower().endswith(".parquet"):
        return count_rows(path)
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw, _whole(path):
        head, read = raw.read(_HEAD_BYTES), 0
        text = head
        if path.lower().endswith(".gz"):
            member = zlib.decompressobj(wbits=31)
            text, read = member.decompress(head), len(member.unused_data)
        return round(text.count(b"\n") * size / max(1, len(head) - read))


# The names a file has (None: not known yet, so not checked) -> {its name: our name} of all that the table knows.
Columns = Callable[[list[str] | None], dict[str, str]]
Reader = Callable[[Any, Columns], Iterator[RawFrame]]


def _present(names: list[str], wanted: Columns) -> dict[str, str]:
    return {theirs: ours for theirs, ours in wanted(names).items() if theirs in names}


def _read_parquet(
    source: io.BufferedIOBase, wanted: Columns, *, path: str, lists: tuple[str, ...]
) -> Iterator[RawFrame]:
    file = pa_parquet.ParquetFile(source)
    columns = _present(file.schema_arrow.names, wanted)
    for name, ours in columns.items():
        kind = file.schema_arrow.field(name).type
        if ours in lists and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            kind = kind.value_type
        if pa.types.is_nested(kind):
            raise LogSettingError(f"{path}: the column {name!r} is nested ({kind}), but {ours} must be one value a row")
    first = 1
    for batch in file.iter_batches(FRAME_ROWS, columns=list(columns)):
        frame = pl.DataFrame(pa.Table.from_batches([batch])).rename(columns)
        frame = frame.with_columns(pl.col(pl.Binary).cast(pl.String))  # old writers do not mark text
        yield RawFrame(frame.with_columns(_row_numbers(first, frame.height)), pl.DataFrame(schema=BROKEN))
        first += frame.height


def _read_csv(source: io.BufferedIOBase, wanted: Columns) -> Iterator[RawFrame]:
    text = io.BufferedReader(source)
    names = next(csv.reader([text.readline().decode("utf-8-sig")]), [])
    columns = _present(names, wanted)
    if not text.peek(1):
        return
    broken: list[tuple[int, str, str]] = []

    def skip(row: Any) -> str:
        broken.append((row.number, f"{row.actual_columns} values under a header of {row.expected_columns}", row.text))
        return "skip"

    batches = pa_csv.open_csv(
        text,
        read_options=pa_csv.ReadOptions(column_names=names, block_size=CSV_BLOCK_BYTES, use_threads=False),
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
    nothing = pl.DataFrame(schema=dict.fromkeys(columns.values(), pl.String) | {"row": pl.Int64})
    yield RawFrame(nothing, _broken(broken))


def _read_json(source: io.BufferedIOBase, wanted: Columns) -> Iterator[RawFrame]:
    first, tail, columns, checked = 1, source.read(len(BOM_UTF8)).removeprefix(BOM_UTF8), dict[str, str](), False
    while True:
        block = source.read(TEXT_BLOCK_BYTES)
        text, end, tail = (tail + block).rpartition(b"\n") if block else (tail, b"", b"")
        lines = (text + end).splitlines()  # with its end, so that an empty last line counts
        if lines and not checked:  # all that the table knows is read: a later line may have what the first ones lack
            objects = islice(filter(None, map(_object, lines)), 100)
            names = sorted({key for found in objects for key in found})
            columns, checked = wanted(names or None), bool(names)
        for start in range(0, len(lines), FRAME_ROWS):
            part = lines[start : start + FRAME_ROWS]
            yield _parse_lines(part, columns, first)
            first += len(part)
        if not block:
            return


NumberedLines = list[tuple[int, bytes]]


def _parse_lines(lines: list[bytes], columns: dict[str, str], first: int) -> RawFrame:
    """One frame of the lines that are objects, and those that are not; empty lines are neither."""
    numbered = [(first + at, line) for at, line in enumerate(lines) if line.strip()]
    rows, broken = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String) | {"row": pl.Int64})], NumberedLines()
    for frame, bad in _parse_objects(numbered, list(columns)):
        rows.append(frame)
        broken += bad
    texts = [(number, "not a JSON object", line.decode(errors="replace")) for number, line in sorted(broken)]
    return RawFrame(concat(rows).rename(columns), _broken(texts))


def _parse_objects(lines: NumberedLines, columns: list[str]) -> Iterator[tuple[pl.DataFrame, NumberedLines]]:
    """Frames of the lines, and lines that are no object, each looked at alone where the reader refuses them together.

    What Python takes and the reader does not (1e999) is found by halving: a call of the reader costs about 1 ms.
    """
    if not lines:
        return
    schema = dict.fromkeys(columns, pl.String)
    try:
        frame = pl.read_ndjson(io.BytesIO(b"\n".join(line for _, line in lines)), schema=schema)
        yield frame.with_columns(pl.Series("row", [number for number, _ in lines], dtype=pl.Int64)), []
    except pl.exceptions.PolarsError:
        objects = [(number, line) for number, line in lines if _object(line) is not None]
        half = len(objects) // 2 if len(objects) == len(lines) else len(objects)
        yield pl.DataFrame(schema=schema | {"row": pl.Int64}), sorted(set(lines) - set(objects)) if half else lines
        if half:
            yield from _parse_objects(objects[:half], columns)
            yield from _parse_objects(objects[half:], columns)


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object a line holds; None where it holds none."""
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON, though Python writes it")


def _row_numbers(first: int, height: int) -> pl.Expr:
    return pl.int_range(first, first + height, dtype=pl.Int64).alias("row")


def _broken(rows: list[tuple[int, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=BROKEN, orient="row")
