"""Read raw log files of all supported formats as frames of raw columns.

The format is Parquet, JSON lines, CSV or TSV (CSV with tabs), by the ending of the name (`LOG_ENDINGS`); text may be
compressed. Text formats give columns of strings, Parquet the types of `arrow_values`; `parsing` converts both. Every
frame also has `row`, the row's number in its file from 1 (a CSV header is not counted). Rows that cannot be parsed are
returned in a separate frame with a reason, so that no row is lost. Memory is bounded for any content of a compressed
file: text is read in blocks, and a row longer than `MAX_ROW_BYTES` is an error.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from transforms.core.beam_files import CompressionTypes, FileSystems
from transforms.core.digests import FRAME_ROWS
from transforms.logs import arrow_values, csv_rows, json_rows
from transforms.logs.csv_rows import CompleteRows, FormatError, TextError
from transforms.logs.json_rows import BrokenRows

TEXT_BLOCK_BYTES = 16 << 20
CSV_BLOCK_BYTES = 4 << 20  # Arrow reads up to 32 blocks ahead
MAX_ROW_BYTES = 4 << 20  # in text formats; Arrow's CSV reader fails on rows longer than a block
_HEAD_BYTES = 4 << 20
_DAMAGE = (
    *(pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, TextError),
    *(EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile),
)

# Names of log files: the groups are the format and the compression.
LOG_ENDING = re.compile(r"\.(?:(parquet)|(jsonl|ndjson|json|csv|tsv)(\.gz|\.bz2|\.zst)?)$", re.IGNORECASE)
_CODECS = {".bz2": "bz2", ".zst": "zstd"}
LOG_ENDINGS = ".parquet, .jsonl, .ndjson, .json, .csv or .tsv (text also with .gz, .bz2 or .zst)"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class LogError(ValueError):
    """A log file cannot be read. The message has its path and says what to do."""


class LogSettingError(LogError):
    """A setting does not match the log files: for example a path without files, or a column that does not exist.

    The same command fails again until the setting or the files are corrected, so schedulers must not retry it.
    """


@dataclass(frozen=True, kw_only=True)
class LogTable:
    """The required and optional columns of a log table."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()  # optional columns of which at least one is required
    lists: tuple[str, ...] = ()  # columns that may contain lists

    def check(self, present: set[str], path: str, renamed: dict[str, str]) -> None:
        """Raise `LogSettingError` that names the missing columns, if any."""
        missing = [renamed.get(name, name) for name in self.required if renamed.get(name, name) not in present]
        if missing:
            raise LogSettingError(
                f"{path}: the {self.name} table lacks {', '.join(map(repr, missing))}; it has "
                f"{', '.join(sorted(present)) or 'no columns'} (rename columns in [logs.columns.{self.name}])"
            )
        if self.any_of and not any(renamed.get(name, name) in present for name in self.any_of):
            raise LogSettingError(f"{path}: the {self.name} table needs one of {', '.join(self.any_of)}; it has none")


BROKEN = {"row": pl.Int64, "reason": pl.String, "text": pl.String}


@dataclass(frozen=True)
class RawFrame:
    """Rows of one file: `rows` with raw columns and `row`, and unparseable rows (`row`, `reason`, `text`)."""

    rows: pl.DataFrame
    broken: pl.DataFrame


def read_log(path: str, table: LogTable, renamed: dict[str, str]) -> Iterator[RawFrame]:
    """Yield frames of at most `FRAME_ROWS` rows of one file, in order, with the columns of the table.

    `renamed` maps our column names to the file's; two of ours may refer to the same column of the file. A column that
    the file does not have is taken from Hive-style folders (`key=value`) of its path, or else omitted. Raises LogError
    for unsupported extensions, damaged files, and missing required columns.
    """
    partitions, names = partition_values(path), names_in_file(table, renamed)
    constants: dict[str, str | None] = {}

    def select(present: list[str] | None) -> dict[str, str]:
        if present is not None:
            table.check({*present, *partitions}, path, renamed)
            if repeated := [theirs for theirs in names if present.count(theirs) > 1]:
                raise LogSettingError(f"{path}: it has several columns {repeated[0]!r}: rename or drop all but one")
        for theirs in (partitions.keys() & names.keys()) - set(present or ()):
            constants.update(dict.fromkeys(names[theirs], partitions[theirs]))
        return {theirs: ours[0] for theirs, ours in names.items() if ours[0] not in constants}

    for frame in _frames(path, select, table.lists):
        yield RawFrame(add_copies(frame.rows, names.values(), constants), frame.broken)


def partition_values(path: str) -> dict[str, str | None]:
    """Return the Hive-style partition values of a path: key -> value of its folders named `key=value`."""
    pairs = (name.split("=", 1) for name in path.split("/")[:-1] if name.count("=") == 1)
    return {unquote(key): None if value == _HIVE_NULL else unquote(value) for key, value in pairs if key}


def names_in_file(table: LogTable, renamed: dict[str, str]) -> dict[str, list[str]]:
    """Map the file's column names to ours, for the columns of the table."""
    names: dict[str, list[str]] = {}
    for ours in (*table.required, *table.optional):
        names.setdefault(renamed.get(ours, ours), []).append(ours)
    return names


def add_copies(rows: pl.DataFrame, names: Iterable[list[str]], constants: dict[str, str | None]) -> pl.DataFrame:
    """Add copies of columns that have several of our names, and constant columns."""
    copies = (pl.col(first).alias(name) for first, *more in names if first in rows.columns for name in more)
    return rows.with_columns(*copies, *(pl.lit(value, pl.String).alias(name) for name, value in constants.items()))


def column_names(path: str) -> list[str]:
    """Return the columns of a log file, in order, or sorted for JSON lines, where only the first objects are read.

    Raises LogError if the file cannot be read.
    """
    names: list[str] = []

    def stop(present: list[str] | None) -> dict[str, str]:
        names.extend(present or ())
        raise _StopReadingError

    with suppress(_StopReadingError):
        next(_frames(path, stop, ()), None)
    return names


class _StopReadingError(Exception):
    """Stop a reader once the names of the columns are known."""


def _frames(path: str, select: SelectColumns, lists: tuple[str, ...]) -> Iterator[RawFrame]:
    ending = LOG_ENDING.search(path)
    if not ending:
        raise LogSettingError(f"{path}: the ending must be {LOG_ENDINGS}")
    tabs = partial(_read_csv, delimiter="\t")
    readers: dict[str, Reader] = {"parquet": _read_parquet, "csv": _read_csv, "tsv": tabs}
    reader = readers.get((ending[1] or ending[2]).lower(), _read_json)
    with _open(path) as source, _damage_reported(path):
        yield from reader(source, select, lists)


@contextmanager
def _open(path: str) -> Iterator[io.BufferedIOBase]:
    """Open a log file, decompressed."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw:
        yield _decompressed(raw, path)


def _decompressed(raw: io.BufferedIOBase, path: str) -> io.BufferedIOBase:
    ending = LOG_ENDING.search(path)
    compression = (ending[3] or "").lower() if ending else ""
    if compression == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if compression and _is_text(raw):  # some programs decompress downloads and keep the name
        return raw
    return pa.CompressedInputStream(raw, _CODECS[compression]) if compression else raw


def _is_text(raw: io.BufferedIOBase) -> bool:
    """Return whether a file starts like text and not like a compressed file."""
    head = raw.read(8)
    raw.seek(0)
    return bool(head) and not head.startswith(b"BZh") and head.isascii() and b"\0" not in head


@contextmanager
def _damage_reported(path: str) -> Iterator[None]:
    """Raise LogError instead of the readers' errors about damaged or truncated files and invalid columns."""
    try:
        yield
    except arrow_values.ColumnTypeError as error:
        raise LogSettingError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise LogError(_damage_message(path, error)) from error
    except OSError as error:
        if error.errno is not None or type(error) is not OSError:  # an error of the system: Arrow's have no number
            raise
        raise LogError(_damage_message(path, error)) from error


def _damage_message(path: str, error: BaseException) -> str:
    if isinstance(error, FormatError):
        return f"{path}: {error}"
    kind = path.rsplit("/", 1)[-1].partition(".")[2]
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, pa.ArrowException | pl.exceptions.PolarsError) and not path.lower().endswith(".parquet"):
        reason = reason.partition(":")[0]  # the rest may quote the row, which may contain a user id
    return f"{path}: not a complete {kind} file ({reason}); deliver it again or remove it"


def count_rows(path: str) -> int:
    """Return the number of rows of a log file: from the footer of Parquet, or by line ends (at most a few too many)."""
    with _open(path) as source, _damage_reported(path):
        if path.lower().endswith(".parquet"):
            return int(pa_parquet.read_metadata(source).num_rows)
        return sum(block.count(b"\n") for block in iter(lambda: source.read(1 << 20), b""))


def estimate_file_rows(path: str, size: int) -> int:
    """Estimate the rows of a log file of `size` bytes, from the footer of Parquet or the first lines of text."""
    if path.lower().endswith(".parquet"):
        return count_rows(path)
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw, _damage_reported(path):
        source = _decompressed(raw, path)
        text, rest = source.read(_HEAD_BYTES), source.read(1)
        return round(text.count(b"\n") * (size / max(1, raw.tell()) if rest else 1))


# Map the column names of a file (None: not known yet, so not checked) to {its name: our name} for the table's columns.
SelectColumns = Callable[[list[str] | None], dict[str, str]]
Reader = Callable[[io.BufferedIOBase, SelectColumns, tuple[str, ...]], Iterator[RawFrame]]


def _present(names: list[str], select: SelectColumns) -> dict[str, str]:
    return {theirs: ours for theirs, ours in select(names).items() if theirs in names}


def _read_parquet(source: io.BufferedIOBase, select: SelectColumns, lists: tuple[str, ...]) -> Iterator[RawFrame]:
    file = pa_parquet.ParquetFile(source, coerce_int96_timestamp_unit="us")
    schema = file.schema_arrow
    columns = _present(schema.names, select)
    for name, ours in columns.items():
        arrow_values.check_type(name, ours, schema.field(name).type, lists=ours in lists)
    first = 1
    for batch in file.iter_batches(FRAME_ROWS, columns=list(columns)):
        arrays = {ours: arrow_values.plain_values(batch.column(name), ours) for name, ours in columns.items()}
        frame = pl.DataFrame(pa.table(arrays))
        numbers = pl.int_range(first, first + batch.num_rows, dtype=pl.Int64)
        yield RawFrame(frame.with_columns(row=numbers), _broken_frame([]))
        first += batch.num_rows
    if first - 1 != file.metadata.num_rows:
        raise TextError(f"{first - 1:,} rows could be read of {file.metadata.num_rows:,}")


def _read_csv(
    source: io.BufferedIOBase, select: SelectColumns, lists: tuple[str, ...], *, delimiter: str = ","
) -> Iterator[RawFrame]:
    limits = {"block_bytes": CSV_BLOCK_BYTES, "max_row_bytes": MAX_ROW_BYTES}
    names, head = csv_rows.read_header(source, delimiter=delimiter, **limits)
    if not names:
        return
    columns = _present(names, select)
    time = next((names.index(theirs) for theirs, ours in columns.items() if ours == "time"), None)
    text = CompleteRows(source, head, columns=len(names), time=time, delimiter=delimiter, **limits)
    buffered = io.BufferedReader(text)
    if not buffered.peek(1):
        return
    skipped: BrokenRows = []
    next_row, total = 1, 0
    for frame in _parse_csv(buffered, names, list(columns), skipped, delimiter):
        numbers = number_rows(next_row, frame.height, [row[0] for row in skipped])
        next_row = int(numbers[-1]) + 1
        # Arrow reads ahead: some of the rows that it skipped come after this frame.
        broken, skipped[:] = [row for row in skipped if row[0] < next_row], [r for r in skipped if r[0] >= next_row]
        rows = frame.rename(columns).with_columns(pl.Series("row", numbers, dtype=pl.Int64))
        yield RawFrame(rows, _broken_frame(broken))
        total += len(rows) + len(broken)
    empty = pl.DataFrame(schema=dict.fromkeys(columns.values(), pl.String) | {"row": pl.Int64})
    yield RawFrame(empty, _broken_frame(skipped))
    total += len(skipped)
    if total != text.rows:
        raise TextError(f"{total:,} rows could be read of {text.rows:,}: look for quotes that are not closed")


def _parse_csv(
    source: io.BufferedIOBase, names: list[str], columns: list[str], skipped: BrokenRows, delimiter: str
) -> Iterator[pl.DataFrame]:
    """Parse CSV without a header: yield frames of `columns`, all strings, at most `FRAME_ROWS` rows each.

    Rows with a wrong number of values are appended to `skipped`, with their row numbers from 1, in order.
    """

    def skip(row: pa_csv.InvalidRow) -> str:
        skipped.append((row.number, f"{row.actual_columns} values under a header of {row.expected_columns}", row.text))
        return "skip"

    batches = pa_csv.open_csv(
        source,
        read_options=pa_csv.ReadOptions(column_names=names, block_size=CSV_BLOCK_BYTES, use_threads=False),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(
            include_columns=columns,
            column_types={name: pa.string() for name in columns},
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    for batch in batches:
        yield from pl.DataFrame(pa.Table.from_batches([batch])).iter_slices(FRAME_ROWS)


def number_rows(first: int, height: int, skipped: Iterable[int]) -> np.ndarray:
    """Return the numbers of the next `height` rows that were not skipped, starting from number `first`: int64."""
    skipped_numbers = np.array(list(skipped), np.int64)
    numbers = np.arange(first, first + height + len(skipped_numbers), dtype=np.int64)
    return np.setdiff1d(numbers, skipped_numbers, assume_unique=True)[:height] if len(skipped_numbers) else numbers


def _read_json(source: io.BufferedIOBase, select: SelectColumns, lists: tuple[str, ...]) -> Iterator[RawFrame]:
    first, columns, checked = 1, dict[str, str](), False
    for lines, has_escapes in json_rows.line_blocks(source, TEXT_BLOCK_BYTES, MAX_ROW_BYTES):
        if not checked:  # read all columns of the table, because later lines may have columns that the first ones lack
            names = json_rows.field_names(lines)
            columns, checked = select(names or None), bool(names)
        for start in range(0, len(lines), FRAME_ROWS):
            part = lines[start : start + FRAME_ROWS]
            rows, broken = json_rows.parse_lines(part, columns, first, lists, has_escapes=has_escapes)
            yield RawFrame(rows, _broken_frame(broken))
            first += len(part)


def _broken_frame(rows: BrokenRows) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=BROKEN, orient="row")
