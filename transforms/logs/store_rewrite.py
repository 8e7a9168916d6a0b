"""Files written anew with some of their rows left out, or with their rows put into other buckets and days.

store files -> RewriteFiles -> records of the new files and of the rows left out
store files -> Rearrange -> records of the new files
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.core import days, files, progress
from transforms.core.event_order import sort_events
from transforms.core.files import FileEntry
from transforms.core.frames import GroupFrames, partition_by_bucket
from transforms.core.records import Record
from transforms.core.tensorflow_import import import_tensorflow
from transforms.logs.parsing import ParseRules, decide_again
from transforms.logs.privacy import PrivacyFilter

Rule = Callable[[pl.DataFrame], pl.DataFrame]  # the rows as they are to be


@dataclass(frozen=True)
class WithoutForgotten:
    """Leaves out the users to forget."""

    screen: PrivacyFilter

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.join(
            self.screen.names_to_remove().to_frame("user_id"), on="user_id", how="anti", maintain_order="left"
        )


@dataclass(frozen=True)
class DecideAgain:
    """Applies the completion rule to stored watches again."""

    rules: ParseRules

    def __call__(self, watches: pl.DataFrame) -> pl.DataFrame:
        return sort_events(decide_again(watches, self.rules))


@dataclass(frozen=True, kw_only=True)
class RewriteTask:
    """One file of a store: which events it holds, and under which name those that stay are written."""

    table: str
    day: str
    bucket: int
    name: str  # relative to the store
    new_name: str
    digest: str = ""  # of the file as it was written; empty: not compared
    repair: str = ""  # what to do about a file with other content

    def read(self, store: str) -> pl.DataFrame:
        """The events. Raises DamagedFileError for a file that is not what was written."""
        path = files.join(store, self.name)
        return files.read_parquet(files.VerifiedPath(path, self.digest, self.repair) if self.digest else path)


def rewrite(part: RewriteTask, rule: Rule, store: str) -> Iterator[Record]:
    """A record with `replaced` (the old name), `left_out` rows and the new `file`, None where no row stays.

    Nothing if the rule changes nothing: the file stays as it is.
    """
    events = part.read(store)
    kept = rule(events)
    if kept.equals(events):
        return
    entry = asdict(files.write_parquet(kept, store, part.new_name)) if kept.height else None
    left_out = events.height - kept.height
    yield {"table": part.table, "replaced": part.name, "left_out": left_out, "file": entry}


@dataclass
class RewriteFiles(beam.PTransform):
    """`Part`s of a store -> `rewrite`'s records."""

    rule: Rule
    store: str

    def expand(self, parts: beam.PCollection[RewriteTask]) -> beam.PCollection[Record]:
        return parts | beam.Reshuffle() | beam.FlatMap(self._rewrite)

    def _rewrite(self, part: RewriteTask) -> Iterator[Record]:
        yield from rewrite(part, self.rule, self.store)
        progress.advance()


DayKey = tuple[str, str, int]  # table, day, bucket


@dataclass
class Rearrange(beam.PTransform):
    """`Part`s of a store -> a record of each file of the same events in `buckets` buckets and in days of the time zone
    `zone`, one a table, day and bucket.

    Events keep the order that ingest gives them. `name` is the pattern of a file's name within its day.
    """

    store: str
    buckets: int
    name: str
    zone: str = days.UTC

    def expand(self, parts: beam.PCollection[RewriteTask]) -> beam.PCollection[Record]:
        split = beam.FlatMap(self._split).with_output_types(tuple[DayKey, pl.DataFrame])
        return parts | beam.Reshuffle() | split | GroupFrames() | beam.MapTuple(self._write)

    def _split(self, part: RewriteTask) -> Iterator[tuple[DayKey, pl.DataFrame]]:
        events = part.read(self.store)
        dated = events.with_columns(days.local_dates(events["time"], self.zone).alias("day"))
        for (day,), of_day in dated.partition_by("day", as_dict=True, include_key=False).items():
            for bucket, frame in partition_by_bucket(of_day, buckets=self.buckets):
                yield (part.table, str(day), bucket), frame
        progress.advance()

    def _write(self, key: DayKey, events: pl.DataFrame) -> Record:
        table, day, bucket = key
        name = f"{table}/{day}/{self.name.format(bucket=bucket)}"
        entry = files.write_parquet(sort_events(events, distinct=True), self.store, name)
        return {"table": table, "day": day, "bucket": bucket, "file": asdict(entry)}


def scrub(name: str, folder: str, screen: PrivacyFilter) -> FileEntry:
    """Take the users to forget out of a file of lists, vectors or rows (Parquet) or of records (TFRecord), in place.

    Readers find the old file or the new. Gives the entry of the file as it then is, changed or not: an attempt that was
    killed may have changed it before.
    """
    gone = WithoutForgotten(screen)
    if name.endswith(".parquet"):
        rows = files.read_parquet(files.join(folder, name))
        kept = gone(rows) if "user_id" in rows.columns else rows
        if kept.height < rows.height:
            return files.replace_parquet(kept, folder, name)
        return replace(files.file_entry(folder, name), rows=rows.height)
    return _scrub_records(name, folder, set(screen.names_to_remove()))


def _scrub_records(name: str, folder: str, users: set[str]) -> FileEntry:
    """The records that stay do so byte for byte."""
    tf = import_tensorflow()
    with files.temporary_local_copy(files.join(folder, name)) as local:
        raw = [record.numpy() for record in tf.data.TFRecordDataset(local, "GZIP")]
    kept = [record for record in raw if _user(tf, record) not in users]
    if len(kept) == len(raw):
        return replace(files.file_entry(folder, name), rows=len(raw))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "records"
        with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP", compression_level=1)) as writer:
            for record in kept:
                writer.write(record)
        return files.write_bytes(folder, name, len(kept), path.read_bytes())


def _user(tf: Any, record: bytes) -> str:
    return str(tf.train.Example.FromString(record).features.feature["user_id"].bytes_list.value[0].decode())


@dataclass
class Scrub(beam.PTransform):
    """Names of files in a folder -> a record of each as `scrub` leaves it."""

    folder: str
    screen: PrivacyFilter

    def expand(self, names: beam.PCollection[str]) -> beam.PCollection[Record]:
        return names | beam.Reshuffle() | beam.Map(self._scrub)

    def _scrub(self, name: str) -> Record:
        entry = scrub(name, self.folder, self.screen)
        progress.advance()
        return {"file": asdict(entry)}
