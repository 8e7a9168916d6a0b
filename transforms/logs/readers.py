"""Raw logs of any of the supported formats, read as frames of raw columns.

A table is Parquet, JSON lines or CSV, by the file's ending (`LOG_ENDINGS`), the text ones also compressed. Text comes
as strings, Parquet in the few types of `arrow_values`: `parsing` makes one of both. Every frame also has `row`, the
row's number in its file from 1 (a CSV header is not counted). What no reader can make sense of comes in a frame of its
own, so that no row is lost without a reason. Memory is bounded whatever a compressed file holds: text is read a block
at a time, and a row longer than `LONGEST_ROW_BYTES` is damage.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.core.frames import FRAME_ROWS
from transforms.logs import arrow_values, csv_rows, json_rows
from transforms.logs.csv_rows import FormatError, TextError, WholeRows

TEXT_BLOCK_BYTES = 16 << 20
CSV_BLOCK_BYTES = 4 << 20  # Arrow reads up to 32 of them ahead
LONGEST_ROW_BYTES = 4 << 20  # of text; not above a block of CSV, or its reader fails
_HEAD_BYTES = 4 << 20
_DAMAGE = (
    *(pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, TextError),
    *(EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile),
)

# Which files are logs: of which format, and how compressed.
LOG_ENDING = re.compile(r"\.(?:(parquet)|(jsonl|ndjson|json|csv)(\.gz|\.bz2|\.zst)?)$", re.IGNORECASE)
_CODECS = {".bz2": "bz2", ".zst": "zstd"}
LOG_ENDINGS = ".parquet, .jsonl, .ndjson, .json or .csv (text also with .gz, .bz2 or .zst)"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


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
            if repeated := [theirs for theirs in names if present.count(theirs) > 1]:
                raise LogSettingError(f"{path}: it has several columns {repeated[0]!r}: rename or drop all but one")
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
    ending = LOG_ENDING.search(path)
    if not ending:
        raise LogSettingError(f"{path}: the ending must be {LOG_ENDINGS}")
    readers: dict[str, Reader] = {"parquet": _read_parquet, "csv": _read_csv}
    reader = readers.get((ending[1] or ending[2]).lower(), _read_json)
    with _opened(path) as source, _whole(path):
        yield from reader(source, wanted, lists)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The content of a log file, decompressed."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw:
        yield _decompressed(raw, path)


def _decompressed(raw: Any, path: str) -> Any:
    ending = LOG_ENDING.search(path)
    compression = (ending[3] or "").lower() if ending else ""
    if compression == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if compression and _is_text(raw):  # some programs decompress what they fetch and keep its name
        return raw
    return pa.CompressedInputStream(raw, _CODECS[compression]) if compression else raw


def _is_text(raw: Any) -> bool:
    """Whether a file begins as text does and no compressed file of ours does."""
    head = raw.read(8)
    raw.seek(0)
    return bool(head) and not head.startswith(b"BZh") and head.isascii() and b"\0" not in head


@contextmanager
def _whole(path: str) -> Iterator[None]:
    """LogError in place of what the readers raise if a file is damaged, was cut short, or has columns that cannot be
    read."""
    try:
        yield
    except arrow_values.ColumnTypeError as error:
        raise LogSettingError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise LogError(_why_damaged(path, error)) from error
    except OSError as error:
        if error.errno is not None or type(error) is not OSError:  # of the machine; Arrow gives its own no number
            raise
        raise LogError(_why_damaged(path, error)) from error


def _why_damaged(path: str, error: BaseException) -> str:
    if isinstance(error, FormatError):
        return f"{path}: {error}"
    kind = path.rsplit("/", 1)[-1].partition(".")[2]
    what = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, pa.ArrowException | pl.exceptions.PolarsError) and not path.lower().endswith(".parquet"):
        what = what.partition(":")[0]  # what follows may quote the row, and with it a user
    return f"{path}: not a whole {kind} file ({what}); send it again or take it out"


def count_rows(path: str) -> int:
    """How many rows a log file has: from the footer of Parquet, by line ends in text (at most a few too many)."""
    with _opened(path) as source, _whole(path):
        if path.lower().endswith(".parquet"):
            return int(pa_parquet.read_metadata(source).num_rows)
        return sum(block.count(b"\n") for block in iter(lambda: source.read(1 << 20), b""))


def estimated_rows(path: str, size: int) -> int:
    """About how many rows a log file of `size` bytes has: from the footer of Parquet, by the first lines of text."""
    if path.lower().endswith(".parquet"):
        return count_rows(path)
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw, _whole(path):
        source = _decompressed(raw, path)
        text, rest = source.read(_HEAD_BYTES), source.read(1)
        return round(text.count(b"\n") * (size / max(1, raw.tell()) if rest else 1))


# The names a file has (None: not known yet, so not checked) -> {its name: our name} of all that the table knows.
Columns = Callable[[list[str] | None], dict[str, str]]
Reader = Callable[[Any, Columns, tuple[str, ...]], Iterator[RawFrame]]


def _present(names: list[str], wanted: Columns) -> dict[str, str]:
    return {theirs: ours for theirs, ours in wanted(names).items() if theirs in names}


def _read_parquet(source: io.BufferedIOBase, wanted: Columns, lists: tuple[str, ...]) -> Iterator[RawFrame]:
    file = pa_parquet.ParquetFile(source, coerce_int96_timestamp_unit="us")
    schema = file.schema_arrow
    columns = _present(schema.names, wanted)
    for name, ours in columns.items():
        arrow_values.check_type(name, ours, schema.field(name).type, lists=ours in lists)
    first = 1
    for batch in file.iter_batches(FRAME_ROWS, columns=list(columns)):
        arrays = {ours: arrow_values.plain_values(batch.column(name), ours) for name, ours in columns.items()}
        frame = pl.DataFrame(pa.table(arrays))
        yield RawFrame(frame.with_columns(_row_numbers(first, batch.num_rows)), pl.DataFrame(schema=BROKEN))
        first += batch.num_rows
    if first - 1 != file.metadata.num_rows:
        raise TextError(f"{first - 1:,} rows could be read of {file.metadata.num_rows:,}")


def _read_csv(source: io.BufferedIOBase, wanted: Columns, lists: tuple[str, ...]) -> Iterator[RawFrame]:
    names, head = csv_rows.read_header(source, block_bytes=CSV_BLOCK_BYTES, longest=LONGEST_ROW_BYTES)
    if not names:
        return
    columns = _present(names, wanted)
    time = next((names.index(theirs) for theirs, ours in columns.items() if ours == "time"), None)
    limits = {"block_bytes": CSV_BLOCK_BYTES, "longest": LONGEST_ROW_BYTES}
    text = WholeRows(source, head, columns=len(names), time=time, **limits)
    buffered = io.BufferedReader(text)
    if not buffered.peek(1):
        return
    broken: list[tuple[int, str, str]] = []

    def skip(row: Any) -> str:
        broken.append((row.number, f"{row.actual_columns} values under a header of {row.expected_columns}", row.text))
        return "skip"

    batches = pa_csv.open_csv(
        buffered,
        read_options=pa_csv.ReadOptions(column_names=names, block_size=CSV_BLOCK_BYTES, use_threads=False),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(
            include_columns=list(columns),
            column_types={name: pa.string() for name in columns},
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    first, rows_read, rows_broken = 1, 0, 0
    for batch in batches:
        for frame in pl.DataFrame(pa.Table.from_batches([batch])).rename(columns).iter_slices(FRAME_ROWS):
            # The reader runs ahead: the broken rows it has met lie in this frame or behind it.
            numbers = np.arange(first, first + frame.height + len(broken))
            if broken:
                numbers = np.setdiff1d(numbers, [row[0] for row in broken])
            rows = frame.with_columns(pl.Series("row", numbers[: frame.height], dtype=pl.Int64))
            first = int(numbers[frame.height - 1]) + 1
            found, broken[:] = [row for row in broken if row[0] < first], [row for row in broken if row[0] >= first]
            yield RawFrame(rows, _broken(found))
            rows_read, rows_broken = rows_read + rows.height, rows_broken + len(found)
    nothing = pl.DataFrame(schema=dict.fromkeys(columns.values(), pl.String) | {"row": pl.Int64})
    yield RawFrame(nothing, _broken(broken))
    if (found_rows := rows_read + rows_broken + len(broken)) != text.rows:
        raise TextError(f"{found_rows:,} rows could be read of {text.rows:,}: look for quotes that are not closed")


def _read_json(source: io.BufferedIOBase, wanted: Columns, lists: tuple[str, ...]) -> Iterator[RawFrame]:
    first, columns, checked = 1, dict[str, str](), False
    for lines, has_escapes in json_rows.line_blocks(source, TEXT_BLOCK_BYTES, LONGEST_ROW_BYTES):
        if not checked:  # all that the table knows is read: a later line may have what the first ones lack
            names = json_rows.names_of(lines)
            columns, checked = wanted(names or None), bool(names)
        for start in range(0, len(lines), FRAME_ROWS):
            part = lines[start : start + FRAME_ROWS]
            rows, broken = json_rows.parse_lines(part, columns, first, lists, has_escapes=has_escapes)
            yield RawFrame(rows, _broken(broken))
            first += len(part)


def _row_numbers(first: int, height: int) -> pl.Expr:
    return pl.int_range(first, first + height, dtype=pl.Int64).alias("row")


def _broken(rows: list[tuple[int, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=BROKEN, orient="row")
