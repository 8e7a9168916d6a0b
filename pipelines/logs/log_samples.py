"""A look at a job's logs before anything is taken: which files there are, about how many rows, and some of these rows,
read and parsed as ingest would.

    found = {table: due.find(night, table, None) for table in due.TABLES}
    sample = look_at(night, found)["watches"]      # sample.rows, sample.parts[0].valid, sample.refused
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

from pipelines.base.raw_files import RawFiles
from pipelines.base.snapshot_store import Snapshot, TakenFile
from pipelines.logs.log_reader import LOGS, Reader, Source
from pipelines.night.stage import Night
from transforms.core.frames import FRAME_ROWS, MIN_BUCKETS
from transforms.logs.bigquery_source import PREFIX
from transforms.logs.ingest import REFUSED, parse_frame
from transforms.logs.privacy import PrivacyFilter
from transforms.logs.readers import BROKEN, RawFrame, estimate_file_rows, read_log

FILES = 4  # whose first rows are read
COUNTED_FILES = 12  # whose rows are counted
OPEN = PrivacyFilter()
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class FileSample:
    """The first rows of one raw file."""

    file: TakenFile
    raw: pl.DataFrame  # as they came, with `row`
    valid: pl.DataFrame  # under the table's schema
    refused: pl.DataFrame  # `REFUSED`


@dataclass(frozen=True, kw_only=True)
class TableSample:
    """Some rows of one table."""

    files: tuple[TakenFile, ...]
    rows: int  # about so many in all files
    parts: tuple[FileSample, ...]  # by file, in order

    @property
    def valid(self) -> pl.DataFrame:
        return pl.concat(part.valid for part in self.parts)

    @property
    def refused(self) -> pl.DataFrame:
        return pl.concat(part.refused for part in self.parts)

    def distinct(self, column: str, rows: int) -> int:
        """About how many values a column has in `rows` rows."""
        return extrapolate_distinct([part.valid[column] for part in self.parts], rows)


def sources(
    night: Night, found: Mapping[str, RawFiles], *, screen: PrivacyFilter = OPEN, catalogue: str | None = None
) -> dict[str, Source]:
    """Of each table that has raw files, what ingest makes of their rows. catalogue: path of its file, for lengths."""
    every = dict.fromkeys((*found, *(table.name for table in LOGS)), RawFiles()) | dict(found)
    reader = Reader(night=night, folder=night.root.path, attempt="", buckets=MIN_BUCKETS, screen=screen, found=every)
    logs = [file for table in LOGS for file in every[table.name].files]
    listed = [*reader.log_sources(logs, Snapshot(buckets=MIN_BUCKETS), catalogue), *reader.side_sources()]
    return {source.table.name: source for source in listed if source.raw}


def sample_tables(night: Night, found: Mapping[str, RawFiles]) -> dict[str, TableSample]:
    """A sample of each table that has raw files which can be read. Raises LogError."""
    given = sources(night, found)
    return {
        name: sample_table(source, night.job.logs.renamed(name)) for name, source in given.items() if _is_files(source)
    }


def _is_files(source: Source) -> bool:
    return not source.raw[0].path.startswith(PREFIX)


def sample_table(
    source: Source, renamed: dict[str, str], *, most_files: int = FILES, rows: int = FRAME_ROWS
) -> TableSample:
    """The first `rows` rows, or somewhat more, of some of a table's files, spread evenly, the newest among them. Raises
    LogError."""
    raw = sorted(source.raw)
    parts = []
    for file in evenly_spaced(raw, most_files):
        frame = _first_rows(file.path, source, renamed, rows)
        parsed = parse_frame(frame, file.path, source.table, source.parse, source.screen)
        parts.append(FileSample(file=file, raw=frame.rows, valid=parsed.valid, refused=parsed.refused.cast(REFUSED)))
    return TableSample(files=tuple(raw), rows=estimate_rows(raw), parts=tuple(parts))


def _first_rows(path: str, source: Source, renamed: dict[str, str], rows: int) -> RawFrame:
    """The first frames of a file as one: rows that are none may come in a frame behind those around them."""
    frames, height = [], 0
    for frame in read_log(path, source.table, renamed):
        frames.append(frame)
        height += frame.rows.height
        if height >= rows:
            break
    if not frames:
        return _nothing(source)
    return RawFrame(pl.concat(frame.rows for frame in frames), pl.concat(frame.broken for frame in frames))


def _nothing(source: Source) -> RawFrame:
    """What a file with a header alone holds."""
    columns = (*source.table.required, *source.table.optional)
    schema = dict.fromkeys(columns, pl.String) | {"row": pl.Int64}
    return RawFrame(pl.DataFrame(schema=schema), pl.DataFrame(schema=BROKEN))


def estimate_rows(raw: Sequence[TakenFile]) -> int:
    """About how many rows some raw files have; none where they are tables of BigQuery. Raises LogError."""
    counted = [file for file in evenly_spaced(raw, COUNTED_FILES) if not file.path.startswith(PREFIX) and file.bytes]
    if not counted:
        return 0
    rows = sum(estimate_file_rows(file.path, file.bytes) for file in counted)
    return round(rows * sum(file.bytes for file in raw) / sum(file.bytes for file in counted))


def evenly_spaced(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spread, the last one always among them."""
    if len(items) <= most:
        return list(items)
    return [items[math.ceil((at + 1) * len(items) / most) - 1] for at in range(most)]


def extrapolate_distinct(parts: Sequence[pl.Series], rows: int) -> int:
    """How many distinct values a column of `rows` rows has, judged from parts of it; `rows` where there is no part.

    Distinct values grow as a power of the rows (Heaps' law), whose exponent the first half of the parts and all of them
    give; but not beyond what Chao's estimator says of values that come once and twice, where it has something to say.
    """
    given = pl.concat(parts).drop_nulls() if parts else pl.Series([], dtype=pl.String)
    if len(given) < 2:
        return rows
    half = pl.concat(parts[: len(parts) // 2]) if len(parts) > 1 else given.head(len(given) // 2)
    distinct, fewer = given.n_unique(), max(1, half.n_unique())
    if rows <= len(given):
        return distinct
    exponent = math.log(distinct / fewer) / math.log(len(given) / max(1, min(len(half), len(given) - 1)))
    law = distinct * (rows / len(given)) ** min(1.0, max(0.0, exponent))
    times = given.value_counts()["count"]
    once, twice = int((times == 1).sum()), int((times == 2).sum())
    most = distinct + once * once / (2 * twice) if twice else math.inf
    return round(min(law, max(float(distinct), most), rows))
