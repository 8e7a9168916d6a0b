"""Stage 1: parse, check and shuffle each raw file once, and append it to the store.

raw files not taken yet -> ReadLogs -> PartitionByBucket -> WriteDays -> ROOT/store, and its next snapshot
catalogue, users        -> ReadLogs -> nights/DATE/catalogue
rows refused            -> nights/DATE/rejects: table, file, row, reason, text
"""

from __future__ import annotations

import datetime as dt
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import apache_beam as beam

from pipelines import manifest, paths, raw_files, store
from pipelines.stages import Night, Plan, StageError, StageResult, complete, stage_main
from pipelines.store import Snapshot, StoreFile, TakenFile
from transforms import files, ingest, parsing, schemas
from transforms.collect import Record, WriteRecords, take_records
from transforms.files import FileEntry
from transforms.logs import LogTable, count_rows

LOGS = {schemas.WATCHES: parsing.parse_watches, schemas.SEARCHES: parsing.parse_searches}


def plan(night: Night) -> Plan:
    """Done when no raw file is left to take, and the catalogue and users are still those that were read."""
    return _plan(night, _pending(night, store.latest(night.root.snapshots)))


def run(night: Night) -> None:
    """Take every raw file not taken yet. Raises StageError above `max_reject_fraction`: then nothing is taken."""
    before = store.latest(night.root.snapshots)
    pending = _pending(night, before)
    if pending:
        store.sweep(night.root.store, before)
    complete(night, _plan(night, []), partial(_work, night, before, pending), force=bool(pending))


def _plan(night: Night, pending: list[TakenFile]) -> Plan:
    side = {name: [asdict(file) for file in _raw(night, name)] for name in ("videos", "users")}
    inputs = {name: manifest.fingerprint(raw) for name, raw in side.items()}
    if pending:
        inputs["pending"] = manifest.fingerprint([asdict(file) for file in pending])
    settings = night.job.logs.model_dump(exclude={"max_reject_fraction", "batch_bytes"})
    return Plan("ingest", inputs, [settings, night.job.examples.user_categories])


def _raw(night: Night, table: str) -> list[TakenFile]:
    pattern = getattr(night.job.logs, table)
    first = night.date - dt.timedelta(days=night.job.examples.window_days)
    return raw_files.find(f"logs.{table}", pattern, start=first, end=night.date) if pattern is not None else []


def _pending(night: Night, snapshot: Snapshot | None) -> list[TakenFile]:
    taken = set(snapshot.taken) if snapshot else set()
    return [file for table in LOGS for file in _raw(night, table.name) if file not in taken]


def _work(night: Night, before: Snapshot | None, pending: list[TakenFile], folder: str, attempt: str) -> StageResult:
    reader = _Reader(night, folder, attempt, before.buckets if before else _buckets(night, pending))
    reader.sweep_rejects(before)
    side = reader.catalogue()
    entries = [FileEntry(**record["written"]) for record in side if "written" in record]
    seconds = [paths.join(folder, entry.name) for entry in entries if entry.name.startswith("videos-")]
    snapshot = before or Snapshot(buckets=reader.buckets)
    if pending:
        snapshot = reader.take(snapshot, pending, side, catalogue=seconds[0] if seconds else None)
    if not snapshot.rows("watches"):
        raise StageError(f"logs.watches = {night.job.logs.watches!r}: there is not one valid watch in these logs")
    ours = snapshot.result if snapshot.date == night.date.isoformat() else {}
    return StageResult(
        entries, {"snapshot": snapshot.number, "store": snapshot.digest, "buckets": reader.buckets, **ours}
    )


def _buckets(night: Night, pending: list[TakenFile]) -> int:
    """The bucket count of a new store."""
    if night.job.storage.buckets:
        return night.job.storage.buckets
    watches = {file.path for file in _raw(night, "watches")}
    return store.bucket_count(sum(count_rows(file.path) for file in pending if file.path in watches))


@dataclass(frozen=True)
class _Source:
    """One table's raw files, and what becomes of their rows."""

    table: LogTable
    raw: list[TakenFile]
    parse: Any
    write: beam.PTransform


@dataclass(frozen=True)
class _Reader:
    """One attempt at reading raw files: short pipelines, whose records say what they wrote and counted."""

    night: Night
    folder: str
    attempt: str
    buckets: int

    @property
    def rejects(self) -> str:
        return paths.join(self.night.root.night(self.night.date), "rejects")

    def sweep_rejects(self, before: Snapshot | None) -> None:
        """Remove what failed attempts refused; what the snapshot of this night refused stays."""
        kept = before.result["rejects_files"] if before and before.date == self.night.date.isoformat() else []
        listed = {paths.join(self.rejects, name) for name in kept}
        files.remove_files(path for path in files.list_files(self.rejects) if path not in listed)

    def catalogue(self) -> list[Record]:
        """The catalogue and the users as they are today -> one file of videos, one file a bucket of users."""
        return self._read(self._videos(), self._users())

    def _videos(self) -> _Source:
        parse = partial(parsing.parse_videos, time_zone=self.night.job.logs.time_zone)
        write = ingest.WriteDistinct("videos", "video_id", 1, self.folder, f"videos-{self.attempt}.parquet")
        return _Source(schemas.VIDEOS, _raw(self.night, "videos"), parse, write)

    def _users(self) -> _Source:
        extra = tuple(self.night.job.examples.user_categories)
        table = replace(schemas.USERS, optional=tuple(dict.fromkeys((*schemas.USERS.optional, *extra))))
        name = f"users/{{bucket:05d}}-of-{self.buckets:05d}-{self.attempt}.parquet"
        write = ingest.WriteDistinct("users", "user_id", self.buckets, self.folder, name)
        return _Source(table, _raw(self.night, "users"), partial(parsing.parse_users, categories=extra), write)

    def take(self, snapshot: Snapshot, pending: list[TakenFile], side: list[Record], catalogue: str | None) -> Snapshot:
        """Read the pending logs, at most `batch_bytes` at a time, and commit the store's next snapshot."""
        logs, records = self.night.job.logs, list(side)
        rules = parsing.ParseRules(
            before=self.night.future,
            time_zone=logs.time_zone,
            completed_fraction=logs.completed_fraction,
            completed_seconds=logs.completed_seconds,
            catalogue=catalogue,
        )
        of_table = {table: {file.path for file in _raw(self.night, table.name)} for table in LOGS}
        for batch in _batches(pending, logs.batch_bytes):
            found = self._read(
                *(
                    _Source(
                        table,
                        [file for file in batch if file.path in of_table[table]],
                        partial(parse, rules=rules),
                        self._days(table.name, snapshot),
                    )
                    for table, parse in LOGS.items()
                )
            )
            new = [StoreFile(**r | {"file": FileEntry(**r["file"])}) for r in found if "day" in r]
            snapshot = replace(snapshot, files=sorted([*snapshot.files, *new], key=lambda f: f.file.name))
            records += found
        result = _summary(records)
        self._check_rejects(result)
        date, taken = self.night.date.isoformat(), sorted([*snapshot.taken, *pending])
        done = replace(snapshot, number=snapshot.number + 1, date=date, taken=taken, result=result)
        store.commit(self.night.root.snapshots, done)
        return done

    def _days(self, table: str, snapshot: Snapshot) -> beam.PTransform:
        base = self.night.root.store
        there = [(f.bucket, (f.day, paths.join(base, f.file.name))) for f in snapshot.files if f.table == table]
        name = f"{{bucket:05d}}-of-{self.buckets:05d}-{manifest.new_attempt()}.parquet"
        return ingest.WriteDays(table, base, self.buckets, name, there)

    def _read(self, *sources: _Source) -> list[Record]:
        """Run one pipeline over the raw files of some tables."""
        given = [source for source in sources if source.raw]
        if not given:
            return []
        records = paths.join(self.folder, f"records-{manifest.new_attempt()}.json")
        with self.night.pipeline() as pipeline:
            [self._branch(pipeline, source) for source in given] | beam.Flatten() | WriteRecords(records)
        return take_records(records)

    def _branch(self, pipeline: beam.Pipeline, source: _Source) -> beam.PCollection[Record]:
        """One table's part of a pipeline; gives all its records."""
        name, renamed = source.table.name, self.night.job.logs.renamed(source.table.name)
        read = ingest.ReadLogs(source.table, renamed, source.parse)
        refuse = ingest.WriteRefused(self.rejects, f"{name}-{manifest.new_attempt()}.parquet")
        logs = pipeline | f"Files of {name}" >> self.night.create([file.path for file in source.raw])
        logs = logs | f"Read {name}" >> read
        written = logs["valid"] | f"Write {name}" >> source.write
        refused = logs["refused"] | f"Refused {name}" >> refuse
        return (logs["counts"], written, refused) | f"Records of {name}" >> beam.Flatten()

    def _check_rejects(self, result: Record) -> None:
        read = sum(table["read"] for table in result["tables"].values())
        refused = sum(table["refused"] for table in result["tables"].values())
        limit = self.night.job.logs.max_reject_fraction
        if refused > limit * read:
            reasons = "; ".join(f"{n:,} x {reason}" for reason, n in result["rejects"].items())
            raise StageError(
                f"{refused:,} of {read:,} rows were refused, above max_reject_fraction = {limit:g} ([logs] in the job "
                f"file): {reasons}. They are listed in {self.rejects}; nothing was taken"
            )


def _summary(records: list[Record]) -> Record:
    """What one ingest did: rows by table, refused rows by reason, and the files those are in."""
    tables: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    for record in records:
        counts = {name: record[name] for name in ("read", "refused", "duplicates") if name in record}
        if counts:
            tables.setdefault(record["table"], Counter(read=0, refused=0, duplicates=0)).update(counts)
        if "reason" in record:
            reasons[f"{record['table']}: {record['reason']}"] += record["rejected"]
    for rows in tables.values():
        rows["kept"] = rows["read"] - rows["refused"] - rows["duplicates"]
    return {
        "tables": {name: dict(rows) for name, rows in sorted(tables.items())},
        "rejects": dict(reasons.most_common()),
        "rejects_files": sorted(record["rejects_file"] for record in records if "rejects_file" in record),
    }


def _batches(pending: list[TakenFile], most_bytes: int) -> Iterator[list[TakenFile]]:
    """Raw files in order, as many at a time as stay within `most_bytes`, at least one."""
    batch: list[TakenFile] = []
    for file in sorted(pending):
        if batch and sum(one.bytes for one in batch) + file.bytes > most_bytes:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
