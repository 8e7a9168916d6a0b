"""Raw files to checked events in the store's files.

paths -> ReadLogs -> valid frames -> PartitionByBucket -> WriteDays -> records of the files written
                  -> refused rows -> WriteRefused
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import polars as pl

from transforms import files, progress
from transforms.collect import Record
from transforms.event_order import sort_events
from transforms.frames import GatherFrames, GroupFrames, KeyedFrame, PartitionByBucket, concat
from transforms.logs import LogTable, read_log
from transforms.parsing import Parsed

REFUSED = pl.Schema(
    {"table": pl.String(), "file": pl.String(), "row": pl.Int64(), "reason": pl.String(), "text": pl.String()}
)

Parse = Callable[[pl.DataFrame], Parsed]
ExistingFile = tuple[str, str]  # day, path


def parse_log(path: str, table: LogTable, renamed: dict[str, str], parse: Parse) -> Iterator[Parsed]:
    """One file -> valid rows, and refused ones as `REFUSED`; every row of the file is in exactly one of the two."""
    for raw in read_log(path, table, renamed):
        parsed = parse(raw.rows)
        texts = raw.rows.join(parsed.refused, on="row", how="semi")
        texts = texts.select("row", text=pl.struct(pl.all().exclude("row")).struct.json_encode())
        refused = pl.concat(
            [
                parsed.refused.join(texts, on="row", how="left", maintain_order="left"),
                raw.broken.select("row", "reason", "text"),
            ]
        )
        yield Parsed(
            parsed.valid,
            refused.select(table=pl.lit(table.name), file=pl.lit(path), row="row", reason="reason", text="text"),
        )


def write_days(
    bucket: int, events: pl.DataFrame, existing: Iterable[ExistingFile], *, table: str, store: str, name: str
) -> Iterator[Record]:
    """Append a bucket's new events to the store: one file a UTC day, distinct, ordered by user, time and the rest.

    Events that are there already, equal in every column, are left out: in `events` itself or in the `existing` files of
    the bucket. `name` is the new file's within its day. Gives a record a file (table, day, bucket, file) and one with
    `table` and `duplicates`, the number of rows left out.
    """
    distinct = sort_events(events, distinct=True).with_columns(day=pl.col("time").dt.date())
    before: dict[str, list[str]] = {}
    for day, path in sorted(existing):
        before.setdefault(day, []).append(path)
    kept = 0
    for (day,), part in distinct.partition_by("day", as_dict=True, include_key=False, maintain_order=True).items():
        if paths := before.get(str(day)):
            there = concat(files.read_parquet(path) for path in paths)
            part = part.join(there, on=part.columns, how="anti", nulls_equal=True, maintain_order="left")
        if part.height:
            kept += part.height
            entry = files.write_parquet(part, store, f"{table}/{day}/{name}")
            yield {"table": table, "day": str(day), "bucket": bucket, "file": asdict(entry)}
    yield {"table": table, "duplicates": events.height - kept}


@dataclass
class ReadLogs(beam.PTransform):
    """Paths of raw files -> {`valid`: frames, `refused`: frames of `REFUSED`, `counts`: records of rows read}."""

    table: LogTable
    renamed: dict[str, str]
    parse: Parse

    def expand(self, paths: beam.PCollection[str]) -> dict[str, beam.PCollection]:
        parsed = (
            paths
            | beam.Reshuffle()
            | beam.ParDo(_ParseLog(self.table, self.renamed, self.parse)).with_outputs(
                "refused", "counts", main="valid"
            )
        )
        parsed.valid.element_type = pl.DataFrame
        parsed.refused.element_type = pl.DataFrame
        return {"valid": parsed.valid, "refused": parsed.refused, "counts": parsed.counts}


class _ParseLog(beam.DoFn):
    def __init__(self, table: LogTable, renamed: dict[str, str], parse: Parse) -> None:
        self._table, self._renamed, self._parse = table, renamed, parse

    def process(self, path: str) -> Iterator[Any]:
        for parsed in parse_log(path, self._table, self._renamed, self._parse):
            if parsed.valid.height:
                yield parsed.valid
            if parsed.refused.height:
                yield beam.pvalue.TaggedOutput("refused", parsed.refused)
            rows = {"read": parsed.valid.height + parsed.refused.height, "refused": parsed.refused.height}
            yield beam.pvalue.TaggedOutput("counts", {"table": self._table.name, **rows})
        progress.advance()


@dataclass
class WriteDays(beam.PTransform):
    """Valid frames -> the store's files of one table; gives `write_days`'s records.

    `name` is the pattern of a file's name within its day, with `{bucket}`; `existing` the table's files by bucket.
    """

    table: str
    store: str
    buckets: int
    name: str
    existing: list[tuple[int, ExistingFile]]

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[Record]:
        existing = frames.pipeline | beam.Create(self.existing).with_output_types(tuple[int, ExistingFile])
        bucketed = frames | PartitionByBucket(self.buckets)
        return {"frames": bucketed, "existing": existing} | beam.CoGroupByKey() | beam.FlatMapTuple(self._write)

    def _write(self, bucket: int, found: dict[str, Iterable[Any]]) -> Iterator[Record]:
        if frames := list(found["frames"]):
            name = self.name.format(bucket=bucket)
            yield from write_days(
                bucket, concat(frames), found["existing"], table=self.table, store=self.store, name=name
            )


def write_refused(refused: pl.DataFrame, folder: str, name: str) -> Iterator[Record]:
    """Refused rows -> one Parquet file by table, file and row; a record of the file and one of the rows by reason."""
    rows = refused.sort("table", "file", "row")
    files.write_parquet(rows, folder, name)
    yield {"rejects_file": name}
    for (table, reason), part in rows.group_by("table", "reason"):
        yield {"table": table, "reason": reason, "rejected": part.height}


@dataclass
class WriteRefused(beam.PTransform):
    """Frames of `REFUSED` -> one file in `folder`; gives `write_refused`'s records."""

    folder: str
    name: str

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[Record]:
        return frames | GatherFrames() | beam.FlatMap(write_refused, self.folder, self.name)


def write_distinct(frame: pl.DataFrame, key: str, *, table: str, folder: str, name: str) -> Iterator[Record]:
    """A table with one row a key -> one Parquet file ordered by key; of several rows, the one that sorts last stays.

    The order of files and rows does not matter. Gives a record of the file and one of the rows left out.
    """
    order = [key, *(c for c in frame.columns if c != key)]
    rows = frame.sort(order, nulls_last=False).unique(key, keep="last", maintain_order=True)
    yield {"written": asdict(files.write_parquet(rows, folder, name))}
    yield {"table": table, "duplicates": frame.height - rows.height}


@dataclass
class WriteDistinct(beam.PTransform):
    """Valid frames of a table with one row a `key` -> one file, or one a user bucket; gives `write_distinct`'s records.

    `name` is the pattern of a file's name, with `{bucket}` where there are several.
    """

    table: str
    key: str
    buckets: int
    folder: str
    name: str

    def expand(self, frames: beam.PCollection[pl.DataFrame]) -> beam.PCollection[Record]:
        one = beam.Map(lambda frame: (0, frame)).with_output_types(KeyedFrame)
        keyed = frames | (one if self.buckets == 1 else PartitionByBucket(self.buckets))
        return keyed | GroupFrames() | beam.FlatMapTuple(self._write)

    def _write(self, bucket: int, frame: pl.DataFrame) -> Iterator[Record]:
        name = self.name.format(bucket=bucket)
        yield from write_distinct(frame, self.key, table=self.table, folder=self.folder, name=name)
