"""What a person should know about the raw files of a job: which ones are passed over, and which values are not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipelines.base import raw_files
from pipelines.base.raw_files import RawFiles
from pipelines.config.jobs import Job
from pipelines.config.settings import COLUMNS
from pipelines.night import privacy


def file_notes(job: Job, found: Mapping[str, RawFiles]) -> Iterator[tuple[str, str]]:
    """(setting, sentence) of files that were passed over and of folders' keys that no column is read from.

    found: table -> its raw files, as `due.find` gives them.
    """
    for table, files in found.items():
        yield from _of_setting(f"logs.{table}", files, columns_of(job, table))
    if job.privacy.forget:
        yield from _of_setting("privacy.forget", privacy.forget_files(job), columns_of(job, "forget"))


def columns_of(job: Job, table: str) -> list[str]:
    """The names, as the files have them, of all columns that a table knows."""
    renamed = job.logs.renamed(table)
    extra = job.examples.user_categories if table == "users" else []
    return [renamed.get(ours, ours) for ours in (*COLUMNS.get(table, ("user_id",)), *extra)]


def _of_setting(setting: str, found: RawFiles, columns: list[str]) -> Iterator[tuple[str, str]]:
    if text := raw_files.describe_skipped(found):
        yield setting, text
    if text := raw_files.describe_ignored_keys(found, columns):
        yield setting, text
