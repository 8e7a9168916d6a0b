"""Validate raw log files and write their events to the store.

paths -> ReadLogs -> valid frames -> WriteDays -> records of the files written
                  -> rejected rows -> WriteRejected

Each step returns records of the classes in `RECORDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.core import days, files, progress
from transforms.core.digests import concat
from transforms.core.event_order import sort_events
from transforms.core.files import FileEntry
from transforms.core.frames import GroupFrames, KeyedFrame, PartitionByBucket
from transforms.logs.parsing import Parsed
from transforms.logs.privacy import PrivacyFilter
from transforms.logs.readers import LogTable, RawFrame, read_log
from transforms.logs.schemas import NON_KEY_COLUMNS

REJECTED = pl.Schema(
    {"table": pl.String(), "file": pl.String(), "row": pl.Int64(), "reason": pl.String(), "text": pl.String()}
)

_WRITE_THREADS = 2  # per bucket; compression runs in native code

Parse = Callable[[pl.DataFrame], Parsed]
ExistingFile = tuple[str, Any]  # day, path; typed as Any so that a `VerifiedPath` is pickled and not encoded as str
MAX_LISTED_ROWS = 1_000  # rejected rows that are listed for each table and reason; all are counted
NO_FILTER = PrivacyFilter()
FILE_RANK, FILE_ROW = "file_rank", "file_row"  # the origin of a row of a table with one row per key


@dataclass(frozen=True, kw_only=True)
class EventFile:
    """A file written to the store, with events of one table, day and bucket."""

    table: str
    day: str  # ISO date
    bucket: int
    file: FileEntry  # its name is relative to the store


@dataclass(frozen=True)
class ReplacedFile:
    """A file of the store that an `EventFile` replaces."""

    name: str  # relative to the store


@dataclass(frozen=True, kw_only=True)
class RowsRead:
    """The number of rows read from raw files, and the numbers of dropped rows among them."""

    table: str
    read: int
    rejected: int
    forgotten: int
    other_days: int


@dataclass(frozen=True, kw_only=True)
class RejectedRows:
    """The number of rows rejected for one reason."""

    table: str
    reason: str
    rows: int


@dataclass(frozen=True)
class RejectedFile:
    """A file that lists rejected rows."""

    name: str  # relative to the folder of rejected rows


@dataclass(frozen=True, kw_only=True)
class DuplicateRows:
    """The number of rows that were dropped as duplicates, or replaced the same event."""

    table: str
    duplicates: int
    doubled: int = 0  # rows that the store contained twice
    disagreeing: int = 0  # keys for which one file has several different rows


@dataclass(frozen=True)
class ForgottenIds:
    """The positions in the forget list of users with dropped rows."""

    places: tuple[int, ...]


RECORDS = (FileEntry, EventFile, ReplacedFile, RowsRead, RejectedRows, RejectedFile, DuplicateRows, ForgottenIds)


def parse_log(
    path: str,
    table: LogTable,
    renamed: dict[str, str],
    parse: Parse,
    privacy: PrivacyFilter = NO_FILTER,
    rank: int | None = None,
) -> Iterator[Parsed]:
    """Yield `parse_frame` of each frame of a file.

    rank: the position of the file among those of the table, the newest last. If not None, valid rows get it as
    `file_rank`, and their number in the file as `file_row`.
    """
    for raw in read_log(path, table, renamed):
        yield parse_frame(raw, path, table, parse, privacy, rank)


def parse_frame(
    raw: RawFrame, source: str, table: LogTable, parse: Parse, privacy: PrivacyFilter, rank: int | None = None
) -> Parsed:
    """Parse a raw frame into valid rows and rejected rows (`REJECTED`), and count the rows that the filter drops."""
    rows = privacy.drop_forgotten(raw.rows)
    parsed = parse(rows)
    if rank is not None:
        numbers = rows.select("row").join(parsed.rejected, on="row", how="anti", maintain_order="left")["row"]
        ranked = parsed.valid.with_columns(numbers.alias(FILE_ROW), pl.lit(rank, pl.Int64).alias(FILE_RANK))
        parsed = replace(parsed, valid=ranked)
    texts = rows.join(parsed.rejected, on="row", how="semi")
    texts = texts.select("row", text=pl.struct(pl.all().exclude("row")).struct.json_encode())
    rejected = pl.concat(
        [
            parsed.rejected.join(texts, on="row", how="left", maintain_order="left"),
            raw.broken.select("row", "reason", "text"),
        ]
    ).select(table=pl.lit(table.name), file=pl.lit(source), row="row", reason="reason", text="text")
    valid, forgotten = privacy.select_spans(parsed.valid), raw.rows.height - rows.height
    return Parsed(
        privacy.pseudonymise(valid),
        privacy.redact(rejected),
        forgotten=forgotten,
        other_days=parsed.valid.height - valid.height,
        forgotten_ids=privacy.forgotten_ids(raw.rows) if forgotten else (),
    )


def write_days(
    bucket: int,
    events: pl.DataFrame,
    existing: Iterable[ExistingFile],
    *,
    table: str,
    store: str,
    name: str,
    zone: str = days.UTC,
) -> Iterator[EventFile | ReplacedFile | DuplicateRows]:
    """Append a bucket's new events to the store: one file per day of the time zone `zone`, distinct and sorted.

    Events that the `existing` files of the bucket contain are skipped. Two events are the same if all columns except
    `NON_KEY_COLUMNS` are equal; if those differ, the new event replaces the old one, and the old one's file is written
    again. `name` is the new file's name within its day.

    Yields an `EventFile` for each new file, a `ReplacedFile` for each file that is no longer valid, and one
    `DuplicateRows`.
    """
    distinct = sort_events(events, distinct=True, ignoring=_non_key_columns(events))
    distinct = distinct.with_columns(day=days.local_dates(distinct["time"], zone))
    before: dict[str, list[str]] = {}
    for day, path in sorted(existing):
        before.setdefault(day, []).append(path)
    new = doubled = 0
    with ThreadPoolExecutor(_WRITE_THREADS) as pool:
        written, replaced = [], []
        for (day,), part in distinct.partition_by("day", as_dict=True, include_key=False, maintain_order=True).items():
            merged = merge_events(part, before.get(str(day), ()))
            new, doubled = new + merged.new, doubled + merged.doubled
            for frame, mark in ((merged.events, ""), (merged.older, "older-")):
                if frame.height:
                    file = f"{table}/{day}/{_add_mark(name, mark)}"
                    written.append((str(day), pool.submit(files.write_parquet, frame, store, file)))
            replaced += [f"{table}/{day}/{path.rsplit('/', 1)[-1]}" for path in merged.replaced]
        for day, entry in written:
            yield EventFile(table=table, day=day, bucket=bucket, file=entry.result())
    yield from map(ReplacedFile, replaced)
    yield DuplicateRows(table=table, duplicates=events.height - new, doubled=doubled)


def _non_key_columns(events: pl.DataFrame) -> tuple[str, ...]:
    """Return the columns that do not identify events: none if `completed` may be the logged value."""
    return NON_KEY_COLUMNS if "completed_given" in events.columns else ()


def _add_mark(name: str, mark: str) -> str:
    """Insert a mark after the bucket of a file's name: 00003-of-00008-older-1a2b3c4d.parquet."""
    head, dash, tail = name.rpartition("-")
    return f"{head}{dash}{mark}{tail}"


@dataclass(frozen=True, kw_only=True)
class MergedEvents:
    """The result of merging new events with the files of one day and bucket."""

    events: pl.DataFrame  # to write: new events, and the remaining events of `replaced` files
    older: pl.DataFrame  # to write: the remaining events of replaced files from earlier versions, with their columns
    replaced: tuple[str, ...] = ()  # paths of files that are no longer valid
    new: int  # events that no file contained
    doubled: int = 0  # additional rows of one event that files contained with different `NON_KEY_COLUMNS`


def merge_events(events: pl.DataFrame, paths: Sequence[str]) -> MergedEvents:
    """Merge distinct, sorted events of a day with the files of the bucket for this day.

    Files of earlier versions do not have `completed_given`; their events are compared by the other columns.
    """
    if not paths:
        return MergedEvents(events=events, older=events.clear(), new=events.height)
    ignored, fresh, matched = _non_key_columns(events), events.with_row_index("index"), set[int]()
    unwritten, current, older = fresh, [events.clear()], list[pl.DataFrame]()
    replaced, stale_rows = list[str](), 0
    for path in paths:
        stored = files.read_parquet(path)
        equal = [name for name in events.columns if name in stored.columns]
        same = [name for name in equal if name not in ignored]
        matches = fresh.join(stored, on=same, how="semi", nulls_equal=True)["index"]
        if matches.is_empty():
            continue
        matched.update(matches)
        same_events = stored.join(fresh, on=same, how="semi", nulls_equal=True, maintain_order="left")
        stale = same_events.join(fresh, on=equal, how="anti", nulls_equal=True)
        unwritten = unwritten.join(stored, on=equal, how="anti", nulls_equal=True, maintain_order="left")
        if stale.height:
            rest = stored.join(stale, on=stored.columns, how="anti", nulls_equal=True, maintain_order="left")
            (current if len(equal) == events.width else older).append(rest)
            replaced.append(path)
            stale_rows += stale.height
    replacing = len(matched.intersection(unwritten["index"]))
    to_write = concat([*(frame.select(events.columns) for frame in current), unwritten.drop("index")])
    return MergedEvents(
        events=sort_events(to_write) if replaced else to_write,
        older=sort_events(concat(older)) if older else events.clear(),
        replaced=tuple(replaced),
        new=events.height - len(matched),
        doubled=stale_rows - replacing,
    )


Tagged = dict[str, beam.PCollection]


@dataclass
class ReadLogs(beam.PTransform):
    """Parse raw files.

    The outputs are `valid` (frames), `rejected` (frames of `REJECTED`) and `counts` (`RowsRead`, `RejectedRows` and
    `ForgottenIds`).
    """

    table: LogTable
    renamed: dict[str, str]
    parse: Parse
    privacy: PrivacyFilter = NO_FILTER
    ranks: Mapping[str, int] = field(default_factory=dict)  # path -> `rank` of its rows

    def expand(self, paths: beam.PCollection[str]) -> Tagged:
        return parsed_outputs(paths | beam.Reshuffle(), self._parse, self.table)

    def _parse(self, path: str) -> Iterator[Parsed]:
        yield from parse_log(path, self.table, self.renamed, self.parse, self.privacy, self.ranks.get(path))
        progress.advance()


def parsed_outputs(raw: beam.PCollection, parse: Callable[[Any], Iterable[Parsed]], table: LogTable) -> Tagged:
    """Apply `parse` to each element and return the outputs of `ReadLogs`.

    `Parsed` objects are not elements of a collection, because Beam would pickle some of them to estimate their size.
    """
    parts = beam.FlatMap(lambda element: (part for parsed in parse(element) for part in _split(parsed, table.name)))
    # Without explicit types, Beam infers them from the code that `parse` calls, which takes 0.1 to 0.2 s per table.
    split = raw | "Parse" >> parts.with_output_types(pl.DataFrame).with_outputs("rejected", "counts", main="valid")
    split.rejected.element_type = pl.DataFrame
    return {"valid": split.valid, "rejected": split.rejected, "counts": split.counts}


def _split(parsed: Parsed, table: str) -> Iterator[Any]:
    if parsed.valid.height:
        yield parsed.valid
    if parsed.rejected.height:
        yield beam.pvalue.TaggedOutput("rejected", first_rejected(parsed.rejected))
        for reason, rows in parsed.rejected["reason"].value_counts().iter_rows():
            yield beam.pvalue.TaggedOutput("counts", RejectedRows(table=table, reason=reason, rows=rows))
    if parsed.forgotten_ids:
        yield beam.pvalue.TaggedOutput("counts", ForgottenIds(tuple(parsed.forgotten_ids)))
    dropped = {"rejected": parsed.rejected.height, "forgotten": parsed.forgotten, "other_days": parsed.other_days}
    read = parsed.valid.height + sum(dropped.values())
    yield beam.pvalue.TaggedOutput("counts", RowsRead(table=table, read=read, **dropped))


@dataclass
class WriteDays(beam.PTransform):
    """Write valid frames to the store's files of one table, and return the records of `write_days`.

    name: the pattern of a file's name within its day, with `{bucket}`. existing: the table's files, by bucket.
    zone: the time zone of the store's days.
    """

    table: str
    store: str
    buckets: int
    name: str
    existing: list[tuple[int, ExistingFile]]
    zone: str = days.UTC

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection:
        # A side input, because CoGroupByKey would shuffle pickled frames.
        existing = frames.pipeline | beam.Create(self.existing).with_output_types(tuple[int, ExistingFile])
        grouped = frames | PartitionByBucket(self.buckets) | GroupFrames()
        return grouped | beam.FlatMap(self._write, beam.pvalue.AsMultiMap(existing))

    def _write(self, keyed: KeyedFrame, existing: Any) -> Iterator[EventFile | ReplacedFile | DuplicateRows]:
        bucket, events = keyed
        name, stored = self.name.format(bucket=bucket), existing[bucket]
        yield from write_days(bucket, events, stored, table=self.table, store=self.store, name=name, zone=self.zone)


def first_rejected(rejected: pl.DataFrame, before: pl.Expr | int = 0) -> pl.DataFrame:
    """Return the first `MAX_LISTED_ROWS` rejected rows of each table and reason, sorted by table, file and row.

    before: the number of rows of the table and reason that precede these.
    """
    number = pl.int_range(pl.len()).over("table", "reason")
    return rejected.sort("table", "file", "row").filter(number + before < MAX_LISTED_ROWS)


def write_rejected(
    rejected: pl.DataFrame, folder: str, name: str, counted: Mapping[str, int] = {}
) -> Iterator[RejectedFile]:
    """Write rejected rows to one Parquet file, sorted by table, file and row, and yield its name.

    At most `MAX_LISTED_ROWS` rows of each table and reason are written. counted: rows by `table: reason` that earlier
    files list or that were too many to list.
    """
    before = pl.concat_str("table", pl.lit(": "), "reason").replace_strict(
        dict(counted), default=0, return_dtype=pl.Int64
    )
    rows = first_rejected(rejected, before)
    if rows.height:
        files.write_parquet(rows, folder, name)
        yield RejectedFile(name)


class FirstRejected(beam.CombineFn):
    """Combine frames of `REJECTED` to `first_rejected` of all of them, in bounded memory."""

    def create_accumulator(self) -> list[pl.DataFrame]:
        return []

    def add_input(self, accumulator: list[pl.DataFrame], element: pl.DataFrame) -> list[pl.DataFrame]:
        return self._truncate([*accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[list[pl.DataFrame]]) -> list[pl.DataFrame]:
        merged: list[pl.DataFrame] = []
        for accumulator in accumulators:
            merged = self._truncate([*merged, *accumulator])
        return merged

    def extract_output(self, accumulator: list[pl.DataFrame]) -> pl.DataFrame:
        return first_rejected(pl.concat(accumulator))

    def _truncate(self, frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
        """Keep only the first rows if there are many, because truncation sorts all rows."""
        many = sum(frame.height for frame in frames) > 16 * MAX_LISTED_ROWS or len(frames) > 256
        return [first_rejected(pl.concat(frames))] if many else frames


@dataclass
class WriteRejected(beam.PTransform):
    """Write `first_rejected` of all frames (`REJECTED`) to one file in `folder`. Return records of `write_rejected`."""

    folder: str
    name: str
    counted: Mapping[str, int] = field(default_factory=dict)

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[RejectedFile]:
        first = beam.CombineGlobally(FirstRejected()).without_defaults()
        return frames | first | beam.FlatMap(write_rejected, self.folder, self.name, self.counted)


def write_distinct(
    frame: pl.DataFrame, key: Sequence[str], *, table: str, folder: str, name: str, complete_from: int = 0
) -> Iterator[FileEntry | DuplicateRows]:
    """Write a table with one row per key to one Parquet file, sorted by key.

    Of several rows with the same key, the last one of the newest file is kept, or the one that sorts last if the frame
    has no `file_rank` and `file_row`. The order of the input does not matter.

    complete_from: files of this rank or a higher one contain the complete table; a video that they do not contain is
    not available.

    Yields the entry of the file, and one `DuplicateRows`.
    """
    values = [name for name in frame.columns if name not in (*key, FILE_RANK, FILE_ROW)]
    origin = [name for name in (FILE_RANK, FILE_ROW) if name in frame.columns]
    ordered = frame.sort([*key, *origin, *values], nulls_last=False)
    rows = ordered.unique(list(key), keep="last", maintain_order=True)
    disagreeing = 0
    if origin and values and rows.height < frame.height:
        same_file = ordered.join(rows, on=[*key, FILE_RANK], how="semi")
        disagreeing = same_file.group_by(key).agg(n=pl.struct(values).n_unique()).filter(pl.col("n") > 1).height
    if origin and complete_from and "available" in values:
        rows = rows.with_columns(pl.col("available") & (pl.col(FILE_RANK) >= complete_from))
    yield files.write_parquet(rows.drop(origin), folder, name)
    yield DuplicateRows(table=table, duplicates=frame.height - rows.height, disagreeing=disagreeing)


@dataclass
class WriteDistinct(beam.PTransform):
    """Write valid frames of a table with one row per `key` to one file, or to one file per user bucket.

    name: the pattern of a file's name, with `{bucket}` if there are several buckets. Returns the records of
    `write_distinct`.
    """

    table: str
    key: tuple[str, ...]
    buckets: int
    folder: str
    name: str
    complete_from: int = 0

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[FileEntry | DuplicateRows]:
        one = beam.Map(lambda frame: (0, frame)).with_output_types(KeyedFrame)
        keyed = frames | (one if self.buckets == 1 else PartitionByBucket(self.buckets))
        return keyed | GroupFrames() | beam.FlatMapTuple(self._write)

    def _write(self, bucket: int, frame: pl.DataFrame) -> Iterator[FileEntry | DuplicateRows]:
        name, rank = self.name.format(bucket=bucket), self.complete_from
        yield from write_distinct(frame, self.key, table=self.table, folder=self.folder, name=name, complete_from=rank)
