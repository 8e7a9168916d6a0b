"""Estimate the size of a night's logs from the store, and from a sample of the raw files that are not ingested yet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from pipelines.base import snapshot_store
from pipelines.base.raw_files import RawFiles
from pipelines.base.snapshot_store import Snapshot, TakenFile
from pipelines.config.jobs import Job
from pipelines.config.settings import TABLES
from pipelines.logs import ingest_plan, log_samples
from pipelines.logs.log_reader import LOGS
from pipelines.logs.log_samples import TableSample
from pipelines.night.night import Night
from trainer.auto import labels_per_user
from transforms.examples.tokens import tokenize
from transforms.logs.readers import LogError

MEASURED_ROWS = 50_000  # rows that are written as in the store to measure the bytes per event
LEAST_FILE_BYTES = 2_500  # of a file of the store without rows


@dataclass(frozen=True, kw_only=True)
class LogSize:
    """The size of a night's logs. Estimates from samples are usually correct within a factor of two."""

    watches: int  # in the window
    searches: int
    impressions: int
    new_events: int  # rows of raw logs to ingest
    batch_bytes: int  # largest size of raw files that are read together
    event_bytes: float  # per event in the store
    users: int  # with a watch in the window
    holdout_users: int  # with a completed watch in the held-out days
    videos: int  # with a vector
    tokens: int
    completed: int  # watches
    token_occurrences: int
    labels: int  # training examples of one pass
    buckets: int

    @property
    def events(self) -> int:
        return self.watches + self.searches


def estimate_size(night: Night) -> LogSize | None:
    """Estimate the size of a night's logs; None if they cannot be read, or are in BigQuery."""
    before = ingest_plan.newest_snapshot(night)
    try:
        found = {table: ingest_plan.find(night, table, before) for table in TABLES}
        return measure_size(night, found, log_samples.sample_tables(night, found), before)
    except (LogError, OSError):
        return None


def measure_size(
    night: Night, found: Mapping[str, RawFiles], samples: Mapping[str, TableSample], before: Snapshot | None
) -> LogSize | None:
    """Estimate the size of a night's logs from samples by table; None if these contain no valid watch."""
    if "watches" not in samples or samples["watches"].valid.is_empty():
        return None
    job, watches = night.job, samples["watches"]
    pending = pending_files(found, before)
    new = {name: log_samples.estimate_rows(raw) for name, raw in pending.items()}
    rows = {name: _rows_in_store(night, before, name) + count for name, count in new.items()}
    buckets = before.buckets if before else job.storage.buckets or snapshot_store.bucket_count(rows["watches"])
    users = watches.distinct("user_id", rows["watches"])
    completed, videos = estimate_completed(watches, rows["watches"])
    per_user, _ = labels_per_user(job.examples.per_user, watches=completed, users=users, preset=job.model.preset)
    tokens, occurrences = _tokens(samples.get("searches"), rows["searches"])
    return LogSize(
        watches=rows["watches"],
        searches=rows["searches"],
        impressions=rows["impressions"],
        new_events=sum(new.values()),
        batch_bytes=_batch_bytes(job, [file for raw in pending.values() for file in raw]),
        event_bytes=_event_bytes(watches.valid, new["watches"], buckets * job.examples.window_days),
        users=users,
        holdout_users=_holdout_users(job, watches, completed),
        videos=min(videos, job.examples.watch_vocabulary),
        tokens=min(tokens, job.examples.search_vocabulary),
        completed=completed,
        token_occurrences=occurrences,
        labels=min(completed, users * per_user) if per_user else completed,
        buckets=buckets,
    )


def pending_files(found: Mapping[str, RawFiles], before: Snapshot | None) -> dict[str, list[TakenFile]]:
    """Return the raw files of each table of events that were not ingested yet."""
    taken = set(before.taken) if before else set()
    return {table.name: [file for file in found[table.name].files if file not in taken] for table in LOGS}


def estimate_completed(watches: TableSample, rows: int) -> tuple[int, int]:
    """Return (completed watches, distinct videos with one) of `rows` watches, from a sample that is not empty."""
    completed = [part.valid.filter("completed")["video_id"] for part in watches.parts]
    count = round(rows * sum(map(len, completed)) / watches.valid.height)
    return count, log_samples.extrapolate_distinct(completed, count)


def _holdout_users(job: Job, watches: TableSample, completed: int) -> int:
    """Estimate the users with a completed watch in the held-out days, from the mean over as many days of the window.

    completed: estimated number of completed watches.
    """
    days, window_days = job.examples.holdout_days, job.examples.window_days
    sampled = watches.valid.filter("completed").select("user_id", "time")
    if not days or sampled.is_empty():
        return 0
    users = sampled.with_columns(pl.col("time").dt.truncate(f"{days}d")).n_unique()  # summed over periods
    return round(completed * days / window_days * users / sampled.height)


def _rows_in_store(night: Night, before: Snapshot | None, table: str) -> int:
    """Return the rows of the window that are already in the store."""
    listed = before.files_between(night.dates.start, night.dates.end) if before else []
    return sum(file.file.rows for file in listed if file.table == table)


def _batch_bytes(job: Job, pending: Sequence[TakenFile]) -> int:
    """Return the largest size of raw files that ingest reads together: up to `batch_bytes`, or one larger file."""
    sizes = [file.bytes for file in pending]
    return min(sum(sizes), max([job.logs.batch_bytes, *sizes]))


def _event_bytes(watches: pl.DataFrame, rows: int, file_count: int) -> float:
    """Return the bytes of a watch in the store, including its share of the constant size of a file."""
    written, measured = io.BytesIO(), watches.head(MEASURED_ROWS).sort("user_id", "time")
    measured.write_parquet(written, compression="zstd", compression_level=1)
    return written.tell() / measured.height + LEAST_FILE_BYTES * min(file_count, rows) / max(1, rows)


def _tokens(searches: TableSample | None, rows: int) -> tuple[int, int]:
    """Estimate (distinct tokens, occurrences of tokens) in `rows` searches."""
    if searches is None or searches.valid.is_empty():
        return 0, 0
    parts = [tokenize(part.valid["query"])["token"] for part in searches.parts]
    occurrences = round(rows * sum(map(len, parts)) / searches.valid.height)
    return log_samples.extrapolate_distinct(parts, occurrences), occurrences
