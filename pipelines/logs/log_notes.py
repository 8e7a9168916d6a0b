"""Notes about the raw files of a job: skipped files, and values in folder names that are not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipelines.base import raw_files
from pipelines.base.raw_files import RawFiles
from pipelines.config.jobs import Job
from pipelines.config.settings import COLUMNS
from pipelines.night import privacy


def file_notes(job: Job, found: Mapping[str, RawFiles]) -> Iterator[tuple[str, str]]:
    """Yield (setting, sentence) about skipped files, and about keys in folder names that are not read as columns.

    found: table -> its raw files, from `ingest_plan.find`.
    """
    for table, files in found.items():
        yield from _of_setting(f"logs.{table}", files, columns_of(job, table))
    if job.privacy.forget:
        yield from _of_setting("privacy.forget", privacy.forget_files(job), columns_of(job, "forget"))


def columns_of(job: Job, table: str) -> list[str]:
    """Return the names, as in the files, of all columns that a table reads."""
    renamed = job.logs.renamed(table)
    extra = job.examples.user_categories if table == "users" else []
    return [renamed.get(ours, ours) for ours in (*COLUMNS.get(table, ("user_id",)), *extra)]


def _of_setting(setting: str, found: RawFiles, columns: list[str]) -> Iterator[tuple[str, str]]:
    if text := raw_files.describe_skipped(found):
        yield setting, text
    if text := raw_files.describe_ignored_keys(found, columns):
        yield setting, text
