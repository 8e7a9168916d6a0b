"""The logs of a job as doctor's checks use them: files, first rows, and read errors."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.base import snapshot_store
from pipelines.base.raw_files import RawFiles
from pipelines.base.snapshot_store import Snapshot
from pipelines.checks.timeouts import with_timeout
from pipelines.config.jobs import JobError
from pipelines.config.settings import TABLES
from pipelines.logs import ingest_plan, log_samples
from pipelines.logs.log_samples import TableSample
from pipelines.night import privacy
from pipelines.night.night import Night
from transforms.logs.privacy import PrivacyFilter
from transforms.logs.readers import LogError, LogTable, column_names, partition_values
from transforms.logs.schemas import BIGQUERY_PREFIX

ANSWER_SECONDS = 60.0  # time limit for listing a table's files
CATALOGUE_ROWS = 2_000_000  # rows to read per file of the catalogue


@dataclass(frozen=True, kw_only=True)
class InspectedLogs:
    """The files and sampled rows of a job's logs, and read errors, by table."""

    found: dict[str, RawFiles]
    samples: dict[str, TableSample]
    columns: dict[str, list[str]]  # of the newest file
    tables: dict[str, LogTable]
    failed: dict[str, str]  # table -> error message
    privacy_filter: PrivacyFilter
    privacy_error: str  # why `[privacy]` cannot be applied, so that no row may be shown; empty if it can
    before: Snapshot | None

    @property
    def shows_ids(self) -> bool:
        """Return whether user ids may be shown as they are in the logs."""
        return not self.privacy_error and self.privacy_filter.key is None

    @classmethod
    def inspect(cls, night: Night, *, with_store: bool) -> InspectedLogs:
        """Inspect all tables of a job. An error in one table is stored in `failed`.

        with_store: also read the newest snapshot of the store.
        """
        before = snapshot_store.latest(night.root.snapshots) if with_store else None
        found, failed = dict[str, RawFiles](), dict[str, str]()
        for table in TABLES:
            try:
                found[table] = with_timeout(ANSWER_SECONDS, partial(ingest_plan.find, night, table, before))
            except (LogError, TimeoutError) as error:
                found[table], failed[table] = RawFiles(), str(error)
        privacy_filter, privacy_error = _load_filter(night, before)
        with tempfile.TemporaryDirectory() as scratch:
            inspected, columns, tables = dict[str, TableSample](), dict[str, list[str]](), dict[str, LogTable]()
            for name in sorted(found, key=lambda table: table != "videos"):  # first videos, for their lengths
                catalogue = _catalogue(inspected.get("videos"), scratch)
                source = log_samples.sources(night, found, privacy_filter=privacy_filter, catalogue=catalogue).get(name)
                if source is None or source.raw[-1].path.startswith(BIGQUERY_PREFIX):
                    continue
                tables[name] = source.table
                try:
                    path = source.raw[-1].path
                    columns[name] = [*column_names(path), *partition_values(path)]
                    whole = {"most_files": len(source.raw), "rows": CATALOGUE_ROWS} if name == "videos" else {}
                    inspected[name] = log_samples.sample_table(source, night.job.logs.renamed(name), **whole)
                except LogError as error:
                    failed[name] = str(error)
        return cls(
            found=found,
            samples=inspected,
            columns=columns,
            tables=tables,
            failed=failed,
            privacy_filter=privacy_filter,
            privacy_error=privacy_error,
            before=before,
        )


def _load_filter(night: Night, before: Snapshot | None) -> tuple[PrivacyFilter, str]:
    """Return the privacy filter of ingest, and an error message if it cannot be made."""
    try:
        return privacy.load_filter(night.job, before.key_check if before else None), ""
    except (JobError, LogError) as error:
        return PrivacyFilter(), str(error)


def _catalogue(videos: TableSample | None, scratch: str) -> str | None:
    """Write the catalogue's valid rows to a file for parsing. Return its path; None if there is no catalogue."""
    path = Path(scratch) / "videos.parquet"
    if videos is not None and not path.exists():
        videos.valid.unique("video_id").write_parquet(path)
    return str(path) if path.exists() else None
