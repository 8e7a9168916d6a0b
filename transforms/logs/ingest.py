"""Raw files to checked events in the store's files.

paths -> ReadLogs -> valid frames -> PartitionByBucket -> WriteDays -> records of the files written
                  -> refused rows -> WriteRefused
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.core import days, files, progress
from transforms.core.event_order import sort_events
from transforms.core.frames import GroupFrames, KeyedFrame, PartitionByBucket, concat
from transforms.core.records import Record
from transforms.logs.parsing import Parsed
from transforms.logs.privacy import PrivacyFilter, screened
from transforms.logs.readers import LogTable, RawFrame, read_log
from transforms.logs.schemas import DECIDED

REFUSED = pl.Schema(
    {"table": pl.String(), "file": pl.String(), "row": pl.Int64(), "reason": pl.String(), "text": pl.String()}
)

_FILES_AT_ONCE = 2  # that a bucket is written to: compressing them is native code

Parse = Callable[[pl.DataFrame], Parsed]
ExistingFile = tuple[str, Any]  # day, path: a `VerifiedPath` stays one on its way to the workers
LISTED_ROWS = 1_000  # refused rows that are kept of each table and reason; all are counted
OPEN = PrivacyFilter()  # lets everything through
RANK, ROW = "file_rank", "file_row"  # where a row of a table with one row a key comes from


def parse_log(
    path: str,
    table: LogTable,
    renamed: dict[str, str],
    parse: Parse,
    screen: PrivacyFilter = OPEN,
    rank: int | None = None,
) -> Iterator[Parsed]:
    """One file -> `screened_frame` of each of its frames. rank: the file's place among those of the table, the newest
    last; if given, valid rows have it as `file_rank`, and as `file_row` their number in the file."""
    for raw in read_log(path, table, renamed):
        yield screened_frame(raw, path, table, parse, screen, rank)


def screened_frame(
    raw: RawFrame, source: str, table: LogTable, parse: Parse, screen: PrivacyFilter, rank: int | None = None
) -> Parsed:
    """A raw frame -> valid rows, and refused ones as `REFUSED`; every row is in one of the two or counted as left
    out."""
    rows = screen.admitted(raw.rows)
    parsed = parse(rows)
    if rank is not None:
        numbers = rows.select("row").join(parsed.refused, on="row", how="anti", maintain_order="left")["row"]
        ranked = parsed.valid.with_columns(numbers.alias(ROW), pl.lit(rank, pl.Int64).alias(RANK))
        parsed = replace(parsed, valid=ranked)
    texts = rows.join(parsed.refused, on="row", how="semi")
    texts = texts.select("row", text=pl.struct(pl.all().exclude("row")).struct.json_encode())
    refused = pl.concat(
        [
            parsed.refused.join(texts, on="row", how="left", maintain_order="left"),
            raw.broken.select("row", "reason", "text"),
        ]
    ).select(table=pl.lit(table.name), file=pl.lit(source), row="row", reason="reason", text="text")
    let_through = screened(Parsed(parsed.valid, refused), screen, forgotten=raw.rows.height - rows.height)
    return replace(let_through, forgotten_ids=screen.forgotten_ids(raw.rows)) if let_through.forgotten else let_through


def write_days(
    bucket: int,
    events: pl.DataFrame,
    existing: Iterable[ExistingFile],
    *,
    table: str,
    store: str,
    name: str,
    zone: str = days.UTC,
) -> Iterator[Record]:
    """Append a bucket's new events to the store: one file a day of the time zone `zone`, distinct, ordered by user,
    time and the rest.

    Events that the `existing` files of the bucket hold already are left out. Equal are events in which all columns are
    equal but those of `DECIDED`: if these differ, the new event replaces the old one, whose file is written anew.
    `name` is the new file's within its day. Gives a record a file (table, day, bucket, file), one with `replaced`, the
    name of a file that counts no more, and one with `table`, `duplicates` (rows left out or put in place of equal ones)
    and `doubled` (rows of the store that it held twice).
    """
    distinct = sort_events(events, distinct=True, ignoring=_decided(events))
    distinct = distinct.with_columns(day=days.local_dates(distinct["time"], zone))
    before: dict[str, list[str]] = {}
    for day, path in sorted(existing):
        before.setdefault(day, []).append(path)
    new = doubled = 0
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        written, replaced = [], []
        for (day,), part in distinct.partition_by("day", as_dict=True, include_key=False, maintain_order=True).items():
            merged = merge_events(part, before.get(str(day), ()))
            new, doubled = new + merged.new, doubled + merged.doubled
            place = {"table": table, "day": str(day), "bucket": bucket}
            for frame, mark in ((merged.events, ""), (merged.older, "older-")):
                if frame.height:
                    file = f"{table}/{day}/{_marked(name, mark)}"
                    written.append((place, pool.submit(files.write_parquet, frame, store, file)))
            replaced += [f"{table}/{day}/{path.rsplit('/', 1)[-1]}" for path in merged.replaced]
        for place, entry in written:
            yield place | {"file": asdict(entry.result())}
    yield from ({"replaced": name} for name in replaced)
    yield {"table": table, "duplicates": events.height - new} | ({"doubled": doubled} if doubled else {})


def _decided(events: pl.DataFrame) -> tuple[str, ...]:
    """The columns of events that do not tell them apart: none, if `completed` may be what the log says."""
    return DECIDED if "completed_given" in events.columns else ()


def _marked(name: str, mark: str) -> str:
    """A file's name with a mark after its bucket: 00003-of-00008-older-1a2b3c4d.parquet."""
    head, dash, tail = name.rpartition("-")
    return f"{head}{dash}{mark}{tail}"


@dataclass(frozen=True, kw_only=True)
class MergedEvents:
    """What becomes of the files of one day and bucket when further events come."""

    events: pl.DataFrame  # to be written: what is new, and what of `replaced` files stays
    older: pl.DataFrame  # the same of files of older versions, with the columns these have
    replaced: tuple[str, ...] = ()  # paths of files that count no more
    new: int  # events that no file held
    doubled: int = 0  # further rows of an event that files held under another decision


def merge_events(events: pl.DataFrame, paths: Sequence[str]) -> MergedEvents:
    """Distinct events of a day, in order, and the paths of the files that the bucket has of it -> what to write.

    Files of older versions do not have `completed_given`: the same row of the log is told there by the other columns.
    """
    if not paths:
        return MergedEvents(events=events, older=events.clear(), new=events.height)
    decided, fresh, matched = _decided(events), events.with_row_index("at"), set[int]()
    unwritten, kept = fresh, {True: [events.clear()], False: list[pl.DataFrame]()}
    replaced, stale_rows = list[str](), 0
    for path in paths:
        there = files.read_parquet(path)
        same = [name for name in events.columns if name in there.columns and name not in decided]
        equal = [name for name in events.columns if name in there.columns]
        found = fresh.join(there, on=same, how="semi", nulls_equal=True)["at"]
        if found.is_empty():
            continue
        matched.update(found)
        held = there.join(fresh, on=same, how="semi", nulls_equal=True, maintain_order="left")
        stale = held.join(fresh, on=equal, how="anti", nulls_equal=True)
        unwritten = unwritten.join(there, on=equal, how="anti", nulls_equal=True, maintain_order="left")
        if stale.height:
            rest = there.join(stale, on=there.columns, how="anti", nulls_equal=True, maintain_order="left")
            kept[set(events.columns) <= set(there.columns)].append(rest)
            replaced.append(path)
            stale_rows += stale.height
    put_in_place = len(matched.intersection(unwritten["at"]))
    current = concat([*(frame.select(events.columns) for frame in kept[True]), unwritten.drop("at")])
    return MergedEvents(
        events=sort_events(current) if replaced else current,
        older=sort_events(concat(kept[False])) if kept[False] else events.clear(),
        replaced=tuple(replaced),
        new=events.height - len(matched),
        doubled=stale_rows - put_in_place,
    )


Tagged = dict[str, beam.PCollection]


@dataclass
class ReadLogs(beam.PTransform):
    """Paths of raw files -> {`valid`: frames, `refused`: frames of `REFUSED`, `counts`: records of rows read}."""

    table: LogTable
    renamed: dict[str, str]
    parse: Parse
    screen: PrivacyFilter = OPEN
    ranks: Mapping[str, int] = field(default_factory=dict)  # path -> `rank` of its rows

    def expand(self, paths: beam.PCollection[str]) -> Tagged:
        return parsed_outputs(paths | beam.Reshuffle(), self._parse, self.table)

    def _parse(self, path: str) -> Iterator[Parsed]:
        yield from parse_log(path, self.table, self.renamed, self.parse, self.screen, self.ranks.get(path))
        progress.advance()


def parsed_outputs(raw: beam.PCollection, parse: Callable[[Any], Iterable[Parsed]], table: LogTable) -> Tagged:
    """What `ReadLogs` gives, of whatever `parse` takes. Parsed frames are no elements: Beam would pickle some to see
    how large they are."""
    parts = beam.FlatMap(lambda one: (part for parsed in parse(one) for part in _split(parsed, table.name)))
    # Told, or Beam infers it from the code of all that `parse` calls: 0.1 to 0.2 s a table.
    split = raw | "Parse" >> parts.with_output_types(pl.DataFrame).with_outputs("refused", "counts", main="valid")
    split.refused.element_type = pl.DataFrame
    return {"valid": split.valid, "refused": split.refused, "counts": split.counts}


def _split(parsed: Parsed, table: str) -> Iterator[Any]:
    if parsed.valid.height:
        yield parsed.valid
    if parsed.refused.height:
        yield beam.pvalue.TaggedOutput("refused", first_refused(parsed.refused))
        for reason, rows in parsed.refused["reason"].value_counts().iter_rows():
            yield beam.pvalue.TaggedOutput("counts", {"table": table, "reason": reason, "rejected": rows})
    if parsed.forgotten_ids:
        yield beam.pvalue.TaggedOutput("counts", {"table": table, "forgotten_ids": list(parsed.forgotten_ids)})
    left_out = {"refused": parsed.refused.height, "forgotten": parsed.forgotten, "other_days": parsed.other_days}
    read = parsed.valid.height + sum(left_out.values())
    yield beam.pvalue.TaggedOutput("counts", {"table": table, "read": read, **left_out})


@dataclass
class WriteDays(beam.PTransform):
    """Valid frames -> the store's files of one table; gives `write_days`'s records.

    `name` is the pattern of a file's name within its day, with `{bucket}`; `existing` the table's files by bucket;
    `zone` the time zone of the store's days.
    """

    table: str
    store: str
    buckets: int
    name: str
    existing: list[tuple[int, ExistingFile]]
    zone: str = days.UTC

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[Record]:
        # A side input, not a CoGroupByKey: that one shuffles pickled frames.
        existing = frames.pipeline | beam.Create(self.existing).with_output_types(tuple[int, ExistingFile])
        grouped = frames | PartitionByBucket(self.buckets) | GroupFrames()
        return grouped | beam.FlatMap(self._write, beam.pvalue.AsMultiMap(existing))

    def _write(self, keyed: KeyedFrame, existing: Any) -> Iterator[Record]:
        bucket, events = keyed
        name, there = self.name.format(bucket=bucket), existing[bucket]
        yield from write_days(bucket, events, there, table=self.table, store=self.store, name=name, zone=self.zone)


def first_refused(refused: pl.DataFrame) -> pl.DataFrame:
    """Of each table and reason the first `LISTED_ROWS` refused rows, by table, file and row."""
    return refused.sort("table", "file", "row").filter(_number_of_reason() < LISTED_ROWS)


def _number_of_reason() -> pl.Expr:
    """The number of a row among those of its table and reason, from 0."""
    return pl.int_range(pl.len()).over("table", "reason")


def write_refused(refused: pl.DataFrame, folder: str, name: str, counted: Mapping[str, int] = {}) -> Iterator[Record]:
    """Refused rows -> one Parquet file by table, file and row, at most `LISTED_ROWS` of each table and reason; a record
    of the file. counted: `table: reason` -> rows that other files list already, or are too many to list."""
    before = pl.concat_str("table", pl.lit(": "), "reason").replace_strict(
        dict(counted), default=0, return_dtype=pl.Int64
    )
    rows = refused.sort("table", "file", "row").filter(_number_of_reason() + before < LISTED_ROWS)
    if rows.height:
        files.write_parquet(rows, folder, name)
        yield {"rejects_file": name}


class FirstRefused(beam.CombineFn):
    """Frames of `REFUSED` -> `first_refused` of all of them; a worker holds no more than that and a frame at a time."""

    def create_accumulator(self) -> list[pl.DataFrame]:
        return []

    def add_input(self, accumulator: list[pl.DataFrame], element: pl.DataFrame) -> list[pl.DataFrame]:
        return self._cut([*accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[list[pl.DataFrame]]) -> list[pl.DataFrame]:
        merged: list[pl.DataFrame] = []
        for accumulator in accumulators:
            merged = self._cut([*merged, *accumulator])
        return merged

    def extract_output(self, accumulator: list[pl.DataFrame]) -> pl.DataFrame:
        return first_refused(pl.concat(accumulator))

    def _cut(self, frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
        """The frames as they are, or the first rows of them where they are many: cutting costs a sort."""
        many = sum(frame.height for frame in frames) > 16 * LISTED_ROWS or len(frames) > 256
        return [first_refused(pl.concat(frames))] if many else frames


@dataclass
class WriteRefused(beam.PTransform):
    """Frames of `REFUSED` -> one file in `folder` with `first_refused` of them; gives `write_refused`'s records."""

    folder: str
    name: str
    counted: Mapping[str, int] = field(default_factory=dict)

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[Record]:
        first = beam.CombineGlobally(FirstRefused()).without_defaults()
        return frames | first | beam.FlatMap(write_refused, self.folder, self.name, self.counted)


def write_distinct(
    frame: pl.DataFrame, key: Sequence[str], *, table: str, folder: str, name: str, complete_from: int = 0
) -> Iterator[Record]:
    """A table with one row a key -> one Parquet file ordered by key; of several rows the last one of the newest file
    stays, or of rows without `file_rank` and `file_row` the one that sorts last.

    complete_from: files of this rank and above are the whole table; a video that they do not name is not available.
    The order of frames and rows does not matter. Gives a record of the file and one of the rows left out, with
    `disagreeing`: the number of keys of which one file has several rows that differ, if there are some.
    """
    values = [name for name in frame.columns if name not in (*key, RANK, ROW)]
    origin = [name for name in (RANK, ROW) if name in frame.columns]
    ordered = frame.sort([*key, *origin, *values], nulls_last=False)
    rows = ordered.unique(list(key), keep="last", maintain_order=True)
    disagreeing = 0
    if origin and values and rows.height < frame.height:
        same_file = ordered.join(rows, on=[*key, RANK], how="semi")
        disagreeing = same_file.group_by(key).agg(n=pl.struct(values).n_unique()).filter(pl.col("n") > 1).height
    if origin and complete_from and "available" in values:
        rows = rows.with_columns(pl.col("available") & (pl.col(RANK) >= complete_from))
    yield {"written": asdict(files.write_parquet(rows.drop(origin), folder, name))}
    left_out = {"table": table, "duplicates": frame.height - rows.height}
    yield left_out | ({"disagreeing": disagreeing} if disagreeing else {})


@dataclass
class WriteDistinct(beam.PTransform):
    """Valid frames of a table with one row a `key` -> one file, or one a user bucket; gives `write_distinct`'s records.

    `name` is the pattern of a file's name, with `{bucket}` where there are several.
    """

    table: str
    key: tuple[str, ...]
    buckets: int
    folder: str
    name: str
    complete_from: int = 0

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[Record]:
        one = beam.Map(lambda frame: (0, frame)).with_output_types(KeyedFrame)
        keyed = frames | (one if self.buckets == 1 else PartitionByBucket(self.buckets))
        return keyed | GroupFrames() | beam.FlatMapTuple(self._write)

    def _write(self, bucket: int, frame: pl.DataFrame) -> Iterator[Record]:
        name, whole = self.name.format(bucket=bucket), self.complete_from
        yield from write_distinct(frame, self.key, table=self.table, folder=self.folder, name=name, complete_from=whole)
