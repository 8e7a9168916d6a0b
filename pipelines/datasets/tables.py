"""Read the files of a public data set as frames, a block at a time.

CSV with a header, JSON lines and Parquet are read by `transforms.logs.readers`. This module adds text whose columns are
separated by a fixed text and never quoted (`Separated`), such as `1::1193::5::978300760`.

for block in read_table(path, {"user_id": "userId", "video_id": "movieId"}):
    block.rows        # user_id, video_id
    block.broken      # the number of rows with too few or too many values
"""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from transforms.logs.csv_rows import guess_encoding
from transforms.logs.readers import LOG_ENDING, LogError, LogSettingError, LogTable, column_names, read_log

COMPRESSIONS = (".gz", ".bz2", ".zst")
BLOCK_BYTES = 8 << 20
MAX_ROW_BYTES = 4 << 20
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, pa.ArrowException)


class DataSetError(LogSettingError):
    """The files of a data set are not those that its name stands for, or an option does not match them."""


@dataclass(frozen=True, kw_only=True)
class Separated:
    """Text whose columns are separated by `separator`, without quotes.

    columns: the names of the columns; if empty, the first row has them. A file that is not UTF-8 is decoded with
    `encoding`, if it is given.
    """

    separator: str
    columns: tuple[str, ...] = ()
    encoding: str | None = None


@dataclass(frozen=True)
class Block:
    """Some rows of a file, and the number of rows between them that have a wrong number of values."""

    rows: pl.DataFrame
    broken: int


def without_compression(path: Path) -> Path:
    """Return a path without the ending of its compression, if it has one."""
    return path.with_suffix("") if path.suffix in COMPRESSIONS else path


def read_table(
    path: Path,
    columns: Mapping[str, str],
    *,
    optional: Mapping[str, str] | None = None,
    layout: Separated | None = None,
) -> Iterator[Block]:
    """Yield blocks of a file, in order, with the columns of `columns` and those of `optional` that the file has.

    columns: the name of the column in the frames -> the name in the file. Text formats give text, Parquet the types of
    the file. Empty text is null.

    Raises DataSetError if a column is missing, and LogError if the file is damaged, empty or in another encoding.
    """
    if layout is not None:
        yield from _read_separated(path, {**columns, **(optional or {})}, [*columns.values()], layout)
        return
    if not LOG_ENDING.search(path.name):
        raise DataSetError(f"{path}: the ending must be that of a table: .csv, .jsonl, .parquet")
    check_columns(path, column_names(str(path)), columns.values())
    table = LogTable(name=path.name, required=tuple(columns), optional=tuple(optional or ()))
    for frame in read_log(str(path), table, {**columns, **(optional or {})}):
        yield Block(frame.rows.drop("row"), frame.broken.height)


def read_whole(
    path: Path,
    columns: Mapping[str, str],
    *,
    optional: Mapping[str, str] | None = None,
    layout: Separated | None = None,
) -> pl.DataFrame:
    """Return all rows of a small file, such as a users table, without those that have a wrong number of values."""
    return pl.concat(block.rows for block in read_table(path, columns, optional=optional, layout=layout))


def check_columns(path: Path, present: list[str], wanted: Iterable[str]) -> None:
    """Raise DataSetError if a file lacks some columns. present: the columns that it has."""
    if not present:
        raise DataSetError(f"{path} is empty")
    if missing := [name for name in wanted if name not in present]:
        raise DataSetError(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are {', '.join(present[:30])}"
        )


def _read_separated(path: Path, columns: dict[str, str], required: list[str], layout: Separated) -> Iterator[Block]:
    names, is_first = list(layout.columns), True
    for lines in _lines(path, layout.encoding):
        if is_first and not layout.columns:
            names, lines = lines[0].split(layout.separator), lines[1:]
        if is_first:
            check_columns(path, names, required)
        is_first = False
        yield _split(lines, {ours: theirs for ours, theirs in columns.items() if theirs in names}, names, layout)
    if is_first:
        raise DataSetError(f"{path} is empty")


def _split(lines: list[str], columns: dict[str, str], names: list[str], layout: Separated) -> Block:
    text = pl.Series("line", lines, dtype=pl.String)
    if len(names) == 1:
        return Block(pl.DataFrame(dict.fromkeys(columns, text)), 0)
    is_row = text.str.count_matches(layout.separator, literal=True) == len(names) - 1
    fields = text.filter(is_row).str.split_exact(layout.separator, len(names) - 1).struct.rename_fields(names)
    rows = fields.struct.unnest().select(pl.col(theirs).replace("", None).alias(o) for o, theirs in columns.items())
    return Block(rows, int((~is_row).sum()))


def _lines(path: Path, encoding: str | None) -> Iterator[list[str]]:
    """Yield the lines of a text file in blocks, without line ends and empty lines."""
    row = 1
    for block in _text_blocks(path):
        lines = _decoded(path, block, encoding, row).replace("\r\n", "\n").split("\n")
        row += len(lines) - 1
        if found := [line for line in lines if line]:
            yield found


def _decoded(path: Path, block: bytes, encoding: str | None, row: int) -> str:
    try:
        return block.decode("utf-8-sig" if row == 1 else "utf-8")
    except UnicodeDecodeError as error:
        if encoding is not None:
            return block.decode(encoding)
        row += block[: error.start].count(b"\n")
        raise LogError(
            f"{path}: row {row} is not UTF-8 text but probably {guess_encoding(block[error.start :])}"
        ) from error


def _text_blocks(path: Path) -> Iterator[bytes]:
    """Yield a text file, decompressed, in blocks of whole lines."""
    tail = b""
    try:
        with _open(path) as source:
            while block := source.read(BLOCK_BYTES):
                tail += block
                end = tail.rfind(b"\n") + 1
                if end:
                    yield tail[:end]
                tail = tail[end:]
                if len(tail) > MAX_ROW_BYTES:
                    raise LogError(f"{path}: a row is longer than {MAX_ROW_BYTES >> 20} MiB")
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LogError(f"{path}: not a complete file ({reason}); download it again") from error
    if tail:
        yield tail


def _open(path: Path) -> io.BufferedIOBase:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path)
    if suffix == ".bz2":
        return bz2.open(path)
    if suffix == ".zst":
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")
