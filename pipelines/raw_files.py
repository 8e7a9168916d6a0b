"""Which raw files a job's log paths name: a file, a folder, a glob, or one of those for each day (`{date}`)."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from pipelines.paths import join
from pipelines.store import TakenFile
from transforms.logs import LogError

_LOG_FILE = re.compile(r"\.(parquet|(jsonl|ndjson|json|csv)(\.gz)?)$", re.IGNORECASE)


def find(setting: str, pattern: str, *, start: dt.date, end: dt.date) -> list[TakenFile]:
    """The raw files of one table, sorted by path; with `{date}` those of the days from `start` up to but not `end`.

    Raises LogError, naming the setting, where there is none.
    """
    if not pattern.strip():
        raise LogError(f"{setting} is empty: give a file, a folder or a glob")
    days = [start + dt.timedelta(days=n) for n in range((end - start).days)]
    patterns = [pattern.replace("{date}", day.isoformat()) for day in days] if "{date}" in pattern else [pattern]
    found = sorted({file for one in patterns for file in _match(one)})
    if not found:
        span = f" on a day from {days[0]} to {days[-1]}" if "{date}" in pattern and days else ""
        raise LogError(
            f"{setting} = {pattern!r}: no log files there{span} (.parquet, .jsonl, .json, .ndjson, .csv, .gz)"
        )
    return found


def _match(pattern: str) -> list[TakenFile]:
    """Files a path or glob names; of a folder, all log files below it.

    What begins with . or _, or lies in a folder that does, is not a log unless the pattern spells it out: other
    programs keep unfinished files there.
    """
    try:
        found = FileSystems.match([pattern, join(pattern, "**")])
    except Exception as error:
        raise LogError(f"{pattern}: cannot be listed ({error})") from error
    listed = {entry.path: entry for result in found for entry in result.metadata_list}
    return [
        TakenFile(path=path, bytes=entry.size_in_bytes, changed=entry.last_updated_in_seconds or 0.0)
        for path, entry in listed.items()
        if (path == pattern or (_LOG_FILE.search(path) and not _hidden(path, pattern))) and not Path(path).is_dir()
    ]


def _hidden(path: str, pattern: str) -> bool:
    spelled_out = re.match(r"[^*?\[]*/|", f"{pattern.rstrip('/')}/")
    below = path[spelled_out.end() if spelled_out else 0 :]
    return any(name.startswith((".", "_")) for name in below.split("/"))
