"""How large a night's logs are: what the store knows of them, and for the rest a sample of the raw files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from pipelines.base import snapshot_store
from pipelines.base.raw_files import RawFiles
from pipelines.base.snapshot_store import Snapshot, TakenFile
from pipelines.config.jobs import Job
from pipelines.logs import ingest_plan, log_samples
from pipelines.logs.log_reader import LOGS
from pipelines.logs.log_samples import TableSample
from pipelines.night.stage import Night
from transforms.examples.tokens import tokenize
from transforms.logs.readers import LogError

MEASURED_ROWS = 50_000  # written as the store would write them, to see how large an event is
LEAST_FILE_BYTES = 2_500  # of a file of the store, before its rows


@dataclass(frozen=True, kw_only=True)
class LogSize:
    """Of a night's logs. Rows and distinct values are judged from samples: to within a factor of two, mostly less."""

    watches: int  # of the window
    searches: int
    impressions: int
    new_events: int  # rows of raw logs that are to be taken
    batch_bytes: int  # of the raw files that are read together, at most
    event_bytes: float  # of an event in the store
    users: int  # with a watch in the window
    videos: int  # that get a vector
    tokens: int
    completed: int  # watches
    token_occurrences: int
    labels: int  # training examples of one pass
    buckets: int

    @property
    def events(self) -> int:
        return self.watches + self.searches


def estimate_size(night: Night) -> LogSize | None:
    """How large the logs are; None where they cannot be looked at, or lie in BigQuery."""
    before = ingest_plan.newest_snapshot(night)
    try:
        found = {table: ingest_plan.find(night, table, before) for table in ingest_plan.TABLES}
        return measure_size(night, found, log_samples.sample_tables(night, found), before)
    except (LogError, OSError):
        return None


def measure_size(
    night: Night, found: Mapping[str, RawFiles], looked: Mapping[str, TableSample], before: Snapshot | None
) -> LogSize | None:
    """`size_of`, from samples by table; None without a valid watch among them."""
    if "watches" not in looked or looked["watches"].valid.is_empty():
        return None
    job, watches = night.job, looked["watches"]
    taken = set(before.taken) if before else set()
    pending = {table.name: [file for file in found[table.name].files if file not in taken] for table in LOGS}
    new = {name: log_samples.estimate_rows(raw) for name, raw in pending.items()}
    rows = {name: _rows_kept(night, before, name) + count for name, count in new.items()}
    buckets = before.buckets if before else job.storage.buckets or snapshot_store.bucket_count(rows["watches"])
    done = watches.valid.filter("completed")
    completed = round(rows["watches"] * done.height / watches.valid.height)
    users = watches.distinct("user_id", rows["watches"])
    videos = log_samples.extrapolate_distinct(
        [part.valid.filter("completed")["video_id"] for part in watches.parts], completed
    )
    tokens, occurrences = _tokens(looked.get("searches"), rows["searches"])
    return LogSize(
        watches=rows["watches"],
        searches=rows["searches"],
        impressions=rows["impressions"],
        new_events=sum(new.values()),
        batch_bytes=_batch_bytes(job, [file for raw in pending.values() for file in raw]),
        event_bytes=_event_bytes(watches.valid, new["watches"], buckets * job.examples.window_days),
        users=users,
        videos=min(videos, job.examples.watch_vocabulary),
        tokens=min(tokens, job.examples.search_vocabulary),
        completed=completed,
        token_occurrences=occurrences,
        labels=min(completed, users * job.examples.per_user) if job.examples.per_user else completed,
        buckets=buckets,
    )


def _rows_kept(night: Night, before: Snapshot | None, table: str) -> int:
    """Rows of the window that the store has already."""
    listed = before.files_between(night.start, night.end) if before else []
    return sum(file.file.rows for file in listed if file.table == table)


def _batch_bytes(job: Job, pending: Sequence[TakenFile]) -> int:
    """Of the raw files ingest reads together: whole files, up to `batch_bytes`, or one that is larger."""
    sizes = [file.bytes for file in pending]
    return min(sum(sizes), max([job.logs.batch_bytes, *sizes]))


def _event_bytes(watches: pl.DataFrame, rows: int, file_count: int) -> float:
    """Of a watch in the store, with its share of what every file costs."""
    written, some = io.BytesIO(), watches.head(MEASURED_ROWS).sort("user_id", "time")
    some.write_parquet(written, compression="zstd", compression_level=1)
    return written.tell() / some.height + LEAST_FILE_BYTES * min(file_count, rows) / max(1, rows)


def _tokens(searches: TableSample | None, rows: int) -> tuple[int, int]:
    """(distinct tokens, all their occurrences) of so many searches."""
    if searches is None or searches.valid.is_empty():
        return 0, 0
    parts = [tokenize(part.valid["query"])["token"] for part in searches.parts]
    occurrences = round(rows * sum(map(len, parts)) / searches.valid.height)
    return log_samples.extrapolate_distinct(parts, occurrences), occurrences
