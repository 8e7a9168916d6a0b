"""Data files of the store written anew, and what a snapshot is like with those in place of the old ones."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from pipelines import accounts, manifest, paths
from pipelines.stages import Night
from pipelines.store import Snapshot, StoreFile
from transforms.collect import Record, WriteRecords, take_records
from transforms.files import FileEntry
from transforms.rewrite import Part, RewriteFiles


def part_of(file: StoreFile, buckets: int) -> Part:
    """A data file as a step that rewrites it takes it, with a name nobody used for what stays."""
    name = f"{file.table}/{file.day}/{file.bucket:05d}-of-{buckets:05d}-{manifest.new_attempt()}.parquet"
    return Part(table=file.table, day=file.day, bucket=file.bucket, name=file.file.name, new_name=name)


def run(night: Night, parts: list[Part], rewrite: RewriteFiles) -> list[Record]:
    """The records of rewriting some data files."""
    if not parts:
        return []
    records = paths.join(night.root.store, f"records-{manifest.new_attempt()}.json")
    with night.pipeline("ingest") as pipeline:
        pipeline | night.create(parts) | rewrite | WriteRecords(records)
    return take_records(records)


def replaced(snapshot: Snapshot, records: list[Record]) -> Snapshot:
    """The snapshot with the files of `RewriteFiles`'s records in place of those they replace."""
    of_name = {file.file.name: file for file in snapshot.files}
    new = [
        replace(of_name[record["replaced"]], file=FileEntry(**record["file"])) for record in records if record["file"]
    ]
    return snapshot.changed((record["replaced"] for record in records), new)


def accounted(snapshot: Snapshot, date: dt.date, *added: accounts.Account) -> Snapshot:
    """The snapshot with more in its account of a night."""
    before = snapshot.accounts.get(date.isoformat())
    whole = accounts.total([*([before] if before else []), *added])
    return replace(snapshot, accounts=snapshot.accounts | {date.isoformat(): whole})
