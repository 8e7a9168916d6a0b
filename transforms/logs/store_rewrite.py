"""Rewrite files of the store: drop or change rows, or move rows to other buckets and days.

RewriteTasks -> RewriteFiles -> records of the new files and of the dropped rows
RewriteTasks -> Rebucket -> records of the new files
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl

from transforms.core import days, files, progress
from transforms.core.event_order import sort_events
from transforms.core.files import FileEntry
from transforms.core.frames import GroupFrames, partition_by_bucket
from transforms.core.tensorflow_import import import_tensorflow
from transforms.logs.ingest import EventFile
from transforms.logs.privacy import PrivacyFilter

RowRule = Callable[[pl.DataFrame], pl.DataFrame]  # maps the rows of a file to its new rows


def drop_stored_rows(rows: pl.DataFrame, *, privacy: PrivacyFilter) -> pl.DataFrame:
    """Return the rows of a file of the store without those of users to forget."""
    return rows.join(privacy.stored_names().to_frame("user_id"), on="user_id", how="anti", maintain_order="left")


@dataclass(frozen=True, kw_only=True)
class RewriteTask:
    """A file of the store, its table, day and bucket, and the name of the file that replaces it."""

    table: str
    day: str
    bucket: int
    name: str  # relative to the store
    new_name: str
    digest: str = ""  # recorded digest of the file; empty: not verified
    repair: str = ""  # how to restore a damaged file

    def read(self, store: str) -> pl.DataFrame:
        """Return the file's events. Raises DamagedFileError if the file is damaged."""
        path = files.join(store, self.name)
        return files.read_parquet(files.VerifiedPath(path, self.digest, self.repair) if self.digest else path)


@dataclass(frozen=True, kw_only=True)
class RewrittenFile:
    """The result of rewriting one file."""

    table: str
    replaced: str  # name of the old file
    left_out: int  # number of dropped rows
    file: FileEntry | None  # the new file; None if no row remains


def rewrite(task: RewriteTask, rule: RowRule, store: str) -> Iterator[RewrittenFile]:
    """Apply a rule to a file. If it changes rows, write the new file and yield it."""
    events = task.read(store)
    kept = rule(events)
    if kept.equals(events):
        return
    entry = files.write_parquet(kept, store, task.new_name) if kept.height else None
    yield RewrittenFile(table=task.table, replaced=task.name, left_out=events.height - kept.height, file=entry)


@dataclass
class RewriteFiles(beam.PTransform):
    """Apply `rewrite` to tasks and return the `RewrittenFile`s."""

    rule: RowRule
    store: str

    def expand(self, tasks: beam.PCollection[RewriteTask]) -> beam.PCollection[RewrittenFile]:
        return tasks | beam.Reshuffle() | beam.FlatMap(self._rewrite)

    def _rewrite(self, task: RewriteTask) -> Iterator[RewrittenFile]:
        yield from rewrite(task, self.rule, self.store)
        progress.advance()


DayKey = tuple[str, str, int]  # table, day, bucket


@dataclass
class Rebucket(beam.PTransform):
    """Write the events of the tasks' files to `buckets` buckets and days of the time zone `zone`.

    One sorted file is written for each table, day and bucket, and its record returned. name: the pattern of a file's
    name within its day, with `{bucket}`.
    """

    store: str
    buckets: int
    name: str
    zone: str = days.UTC

    def expand(self, tasks: beam.PCollection[RewriteTask]) -> beam.PCollection[EventFile]:
        split = beam.FlatMap(self._split).with_output_types(tuple[DayKey, pl.DataFrame])
        return tasks | beam.Reshuffle() | split | GroupFrames() | beam.MapTuple(self._write)

    def _split(self, task: RewriteTask) -> Iterator[tuple[DayKey, pl.DataFrame]]:
        events = task.read(self.store)
        dated = events.with_columns(days.local_dates(events["time"], self.zone).alias("day"))
        for (day,), of_day in dated.partition_by("day", as_dict=True, include_key=False).items():
            for bucket, frame in partition_by_bucket(of_day, buckets=self.buckets):
                yield (task.table, str(day), bucket), frame
        progress.advance()

    def _write(self, key: DayKey, events: pl.DataFrame) -> EventFile:
        table, day, bucket = key
        name = f"{table}/{day}/{self.name.format(bucket=bucket)}"
        entry = files.write_parquet(sort_events(events, distinct=True), self.store, name)
        return EventFile(table=table, day=day, bucket=bucket, file=entry)


def scrub(name: str, folder: str, privacy: PrivacyFilter) -> FileEntry:
    """Remove the users to forget from a Parquet or TFRecord file, replacing it atomically.

    Returns the entry of the file even if nothing was removed, as an earlier attempt may have changed the file before
    it was killed.
    """
    if name.endswith(".parquet"):
        rows = files.read_parquet(files.join(folder, name))
        kept = drop_stored_rows(rows, privacy=privacy) if "user_id" in rows.columns else rows
        if kept.height < rows.height:
            return files.replace_parquet(kept, folder, name)
        return replace(files.file_entry(folder, name), rows=rows.height)
    return _scrub_records(name, folder, set(privacy.stored_names()))


def _scrub_records(name: str, folder: str, users: set[str]) -> FileEntry:
    """Remove the records of users. The other records keep their bytes."""
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
    """Apply `scrub` to names of files in a folder, and return the entry of each file."""

    folder: str
    privacy: PrivacyFilter

    def expand(self, names: beam.PCollection[str]) -> beam.PCollection[FileEntry]:
        return names | beam.Reshuffle() | beam.Map(self._scrub)

    def _scrub(self, name: str) -> FileEntry:
        entry = scrub(name, self.folder, self.privacy)
        progress.advance()
        return entry
