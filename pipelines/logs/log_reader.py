"""Read raw files in short Beam pipelines, which return records of the files they wrote and the rows they counted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import apache_beam as beam

from pipelines.base import manifest, paths, raw_files, snapshot_store
from pipelines.base.raw_files import RawFiles
from pipelines.base.snapshot_store import Snapshot, TakenFile
from pipelines.night.night import Night
from transforms.core.records import Records, WriteRecords, pop_records
from transforms.logs import bigquery_source, ingest, parsing, schemas
from transforms.logs.ingest import Parse, ReadLogs, Tagged
from transforms.logs.privacy import PrivacyFilter, Span
from transforms.logs.readers import LogTable
from transforms.logs.schemas import BIGQUERY_PREFIX

LOGS = {
    schemas.WATCHES: parsing.parse_watches,
    schemas.SEARCHES: parsing.parse_searches,
    schemas.IMPRESSIONS: parsing.parse_impressions,
}


@dataclass(frozen=True)
class Source:
    """One table's raw files, and how to parse, filter and write their rows."""

    table: LogTable
    raw: Sequence[TakenFile]
    parse: Parse
    privacy_filter: PrivacyFilter
    write: beam.PTransform
    ranks: Mapping[str, int] = field(default_factory=dict)  # path -> rank, oldest first; empty: files have no order


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads raw files in one attempt of stage ingest."""

    night: Night
    folder: str  # of the stage
    attempt: str
    buckets: int
    privacy_filter: PrivacyFilter
    found: dict[str, RawFiles]  # table -> its raw files
    forgotten: set[int] = field(default_factory=set)  # positions, in the list of users to forget, of users with rows
    start: dt.datetime | None = None  # earliest event to read from BigQuery; None: the start of the window
    rejected: Mapping[str, int] = field(default_factory=dict)  # `table: reason` -> rows counted before

    def catalogue(self) -> Records:
        """Read the side tables, and write a file of videos, and files per bucket of users and of hidden videos."""
        return self._read(*self.side_sources())

    def side_sources(self) -> list[Source]:
        """Return the sources of the tables that are read again each night: videos, users, hidden."""
        return [self._videos(), self._users(), self._hidden()]

    def _videos(self) -> Source:
        parse = partial(parsing.parse_videos, time_zone=self.night.job.logs.time_zone, before=self.night.dates.future)
        name = f"videos-{self.attempt}.parquet"
        write = ingest.WriteDistinct("videos", ("video_id",), 1, self.folder, name, self._first_of_newest_day("videos"))
        return Source(
            schemas.VIDEOS, self.found["videos"].files, parse, self.privacy_filter, write, self._ranks("videos")
        )

    def _users(self) -> Source:
        extra = tuple(self.night.job.examples.user_categories)
        table = replace(schemas.USERS, optional=tuple(dict.fromkeys((*schemas.USERS.optional, *extra))))
        name = "users/" + paths.shard_pattern(self.buckets, self.attempt, "parquet")
        write = ingest.WriteDistinct("users", ("user_id",), self.buckets, self.folder, name)
        parse = partial(parsing.parse_users, categories=extra, before=self.night.dates.future)
        return Source(table, self.found["users"].files, parse, self.privacy_filter, write, self._ranks("users"))

    def _oldest_first(self, table: str) -> list[tuple[str, TakenFile]]:
        """Return (day, file) of a table's raw files, oldest first; empty for a BigQuery table, which has no order."""
        pattern = getattr(self.night.job.logs, table) or ""
        of_files = not pattern.startswith(BIGQUERY_PREFIX)
        return raw_files.oldest_first(pattern, self.found[table].files) if of_files else []

    def _ranks(self, table: str) -> dict[str, int]:
        return {file.path: rank for rank, (_, file) in enumerate(self._oldest_first(table))}

    def _first_of_newest_day(self, table: str) -> int:
        """Return the lowest rank of the newest day's files: with `{date}`, the files of one day are the whole table."""
        ordered = [day for day, _ in self._oldest_first(table)]
        return ordered.index(ordered[-1]) if ordered else 0

    def _hidden(self) -> Source:
        name = "hidden/" + paths.shard_pattern(self.buckets, self.attempt, "parquet")
        write = ingest.WriteDistinct("hidden", ("user_id", "video_id"), self.buckets, self.folder, name)
        return Source(schemas.HIDDEN, self.found["hidden"].files, parsing.parse_hidden, self.privacy_filter, write)

    def logs(
        self, batch: Sequence[TakenFile], snapshot: Snapshot, catalogue: str | None, spans: tuple[Span, ...] = ()
    ) -> Records:
        """Read a batch of raw logs, only events in `spans` if there are any, and write new files of the store, which
        the snapshot does not list yet. Return the records."""
        return self._read(*self.log_sources(batch, snapshot, catalogue, spans))

    def log_sources(
        self, batch: Sequence[TakenFile], snapshot: Snapshot, catalogue: str | None, spans: tuple[Span, ...] = ()
    ) -> list[Source]:
        """Return the sources of a batch of raw logs, by table."""
        rules = self.rules(catalogue)
        privacy_filter, wanted = replace(self.privacy_filter, spans=spans), set(batch)
        sources = []
        for table, parse in LOGS.items():
            raw = [file for file in self.found[table.name].files if file in wanted]
            sources.append(
                Source(table, raw, partial(parse, rules=rules), privacy_filter, self._days(table.name, snapshot))
            )
        return sources

    def rules(self, catalogue: str | None) -> parsing.ParseRules:
        """Return the rules for parsing events. catalogue: path of the night's catalogue."""
        logs = self.night.job.logs
        return parsing.ParseRules(
            before=self.night.dates.future,
            time_zone=logs.time_zone,
            completed_fraction=logs.completed_fraction,
            completed_seconds=logs.completed_seconds,
            catalogue=catalogue,
        )

    def _days(self, table: str, snapshot: Snapshot) -> beam.PTransform:
        base = self.night.root.store
        stored = [(f.bucket, (f.day, snapshot_store.path_to_read(base, f))) for f in snapshot.files if f.table == table]
        name = paths.shard_pattern(self.buckets, manifest.new_attempt(), "parquet")
        return ingest.WriteDays(table, base, self.buckets, name, stored, snapshot.time_zone)

    def _read(self, *sources: Source) -> Records:
        """Run one pipeline over the raw files of some tables. Return the records."""
        given = [source for source in sources if source.raw]
        if not given:
            return Records(ingest.RECORDS)
        records = paths.join(self.folder, f"records-{manifest.new_attempt()}.json")
        with self.night.beam.pipeline("ingest") as pipeline:
            [self.branch(pipeline, source) for source in given] | beam.Flatten() | WriteRecords(records)
        found = pop_records(records, *ingest.RECORDS)
        for forgotten in found.of(ingest.ForgottenIds):
            self.forgotten.update(forgotten.places)
        return found

    def branch(self, pipeline: beam.Pipeline, source: Source) -> beam.PCollection:
        """Add one table's steps to a pipeline. Return its records."""
        name = source.table.name
        logs = self._frames(pipeline, source)
        reject = ingest.WriteRejected(
            self.night.root.rejects(self.night.date), f"{name}-{manifest.new_attempt()}.parquet", self.rejected
        )
        written = logs["valid"] | f"Write {name}" >> source.write
        rejected = logs["rejected"] | f"Rejected {name}" >> reject
        return (logs["counts"], written, rejected) | f"Records of {name}" >> beam.Flatten()

    def _frames(self, pipeline: beam.Pipeline, source: Source) -> Tagged:
        """Read a table's frames from files or from BigQuery."""
        table, renamed = source.table, self.night.job.logs.renamed(source.table.name)
        name = source.raw[0].path
        if name.startswith(BIGQUERY_PREFIX):
            window = (self.start or self.night.dates.start, self.night.dates.future)
            read = bigquery_source.ReadBigQuery(name, table, renamed, source.parse, *window, source.privacy_filter)
            return pipeline | f"Read {table.name}" >> read
        paths_read = pipeline | f"Files of {table.name}" >> self.night.beam.create([file.path for file in source.raw])
        return paths_read | f"Read {table.name}" >> ReadLogs(
            table, renamed, source.parse, source.privacy_filter, source.ranks
        )
