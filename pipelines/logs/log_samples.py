"""Sample a job's logs without ingesting them: the files, an estimate of the rows, and some rows parsed as in ingest.

found = {table: ingest_plan.find(night, table, None) for table in TABLES}
sample = sample_tables(night, found)["watches"]      # sample.rows, sample.parts[0].valid, sample.rejected
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
from pipelines.night.night import Night
from transforms.core.digests import FRAME_ROWS, MIN_BUCKETS
from transforms.logs.ingest import REJECTED, parse_frame
from transforms.logs.privacy import PrivacyFilter
from transforms.logs.readers import BROKEN, RawFrame, estimate_file_rows, read_log
from transforms.logs.schemas import BIGQUERY_PREFIX

FILES = 4  # number of files whose first rows are read
COUNTED_FILES = 12  # number of files whose rows are estimated
OPEN = PrivacyFilter()
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class FileSample:
    """The first rows of one raw file."""

    file: TakenFile
    raw: pl.DataFrame  # unparsed rows, with their number `row`
    valid: pl.DataFrame  # parsed rows, with the table's schema
    rejected: pl.DataFrame  # rejected rows, with the schema `REJECTED`


@dataclass(frozen=True, kw_only=True)
class TableSample:
    """A sample of the rows of one table."""

    files: tuple[TakenFile, ...]  # all raw files
    rows: int  # estimated rows of all files
    parts: tuple[FileSample, ...]  # the sampled files, in order

    @property
    def valid(self) -> pl.DataFrame:
        return pl.concat(part.valid for part in self.parts)

    @property
    def rejected(self) -> pl.DataFrame:
        return pl.concat(part.rejected for part in self.parts)

    def distinct(self, column: str, rows: int) -> int:
        """Estimate the number of distinct values of a column in `rows` rows."""
        return extrapolate_distinct([part.valid[column] for part in self.parts], rows)


def sources(
    night: Night, found: Mapping[str, RawFiles], *, privacy_filter: PrivacyFilter = OPEN, catalogue: str | None = None
) -> dict[str, Source]:
    """Return the ingest source of each table that has raw files. catalogue: path of a catalogue, for video lengths."""
    every = dict.fromkeys((*found, *(table.name for table in LOGS)), RawFiles()) | dict(found)
    reader = Reader(
        night=night, folder=night.root.path, attempt="", buckets=MIN_BUCKETS, privacy_filter=privacy_filter, found=every
    )
    logs = [file for table in LOGS for file in every[table.name].files]
    listed = [*reader.log_sources(logs, Snapshot(buckets=MIN_BUCKETS), catalogue), *reader.side_sources()]
    return {source.table.name: source for source in listed if source.raw}


def sample_tables(night: Night, found: Mapping[str, RawFiles]) -> dict[str, TableSample]:
    """Sample each table that has raw files, except BigQuery tables. Raises LogError."""
    return {
        name: sample_table(source, night.job.logs.renamed(name))
        for name, source in sources(night, found).items()
        if not source.raw[0].path.startswith(BIGQUERY_PREFIX)
    }


def sample_table(
    source: Source, renamed: dict[str, str], *, most_files: int = FILES, rows: int = FRAME_ROWS
) -> TableSample:
    """Read about `rows` rows of at most `most_files` evenly spaced files, including the newest. Raises LogError."""
    raw = sorted(source.raw)
    parts = []
    for file in evenly_spaced(raw, most_files):
        frame = _first_rows(file.path, source, renamed, rows)
        parsed = parse_frame(frame, file.path, source.table, source.parse, source.privacy_filter)
        parts.append(FileSample(file=file, raw=frame.rows, valid=parsed.valid, rejected=parsed.rejected.cast(REJECTED)))
    return TableSample(files=tuple(raw), rows=estimate_rows(raw), parts=tuple(parts))


def _first_rows(path: str, source: Source, renamed: dict[str, str], rows: int) -> RawFrame:
    """Return the first frames of a file as one; a frame without rows for a file that contains only a header.

    Broken rows may come in a later frame than their neighbours.
    """
    frames, height = [], 0
    for frame in read_log(path, source.table, renamed):
        frames.append(frame)
        height += frame.rows.height
        if height >= rows:
            break
    if not frames:
        schema = dict.fromkeys((*source.table.required, *source.table.optional), pl.String) | {"row": pl.Int64}
        return RawFrame(pl.DataFrame(schema=schema), pl.DataFrame(schema=BROKEN))
    return RawFrame(pl.concat(frame.rows for frame in frames), pl.concat(frame.broken for frame in frames))


def estimate_rows(raw: Sequence[TakenFile]) -> int:
    """Estimate the number of rows of raw files; 0 for BigQuery tables. Raises LogError."""
    counted = [
        file for file in evenly_spaced(raw, COUNTED_FILES) if not file.path.startswith(BIGQUERY_PREFIX) and file.bytes
    ]
    if not counted:
        return 0
    rows = sum(estimate_file_rows(file.path, file.bytes) for file in counted)
    return round(rows * sum(file.bytes for file in raw) / sum(file.bytes for file in counted))


def evenly_spaced(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` of the items, evenly spaced and including the last one."""
    if len(items) <= most:
        return list(items)
    return [items[math.ceil((n + 1) * len(items) / most) - 1] for n in range(most)]


def extrapolate_distinct(parts: Sequence[pl.Series], rows: int) -> int:
    """Estimate the number of distinct values of a column of `rows` rows from samples; `rows` without samples.

    Distinct values grow as a power of the rows (Heaps' law). The exponent is fitted to the first half of the samples
    and to all of them. The result is limited by Chao's estimator, if there are values that occur exactly twice.
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
