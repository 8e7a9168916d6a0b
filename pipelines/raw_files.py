"""Which raw files a job's log paths name: a file, a folder, a glob, or one of those for each day (`{date}`)."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from pipelines.paths import join
from pipelines.store import TakenFile
from transforms.bigquery import PREFIX
from transforms.logs import LogError, LogSettingError

_LOG_FILE = re.compile(r"\.(parquet|(jsonl|ndjson|json|csv)(\.gz)?)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The raw files of one table, sorted by path, and with `{date}` the days that have one, in order."""

    files: tuple[TakenFile, ...] = ()
    days: tuple[str, ...] = ()


def find(
    setting: str,
    pattern: str,
    *,
    start: dt.date,
    end: dt.date,
    seen: Collection[str] = (),
    allow_missing_days: bool = False,
) -> Found:
    """The raw files of one table; with `{date}` those of the days from `start` up to but not `end`.

    `seen`: days that had a file before, which may be gone since. Raises LogError, naming the setting, where there is no
    file at all, and for days without one after the first that had one, but with `allow_missing_days`.
    """
    if not pattern.strip():
        raise LogSettingError(f"{setting} is empty: give a file, a folder or a glob")
    if pattern.startswith(PREFIX):
        return Found(files=(_table(setting, pattern, end),))
    if "{date}" not in pattern:
        if not (found := _match(pattern)):
            raise LogSettingError(_nothing(setting, pattern, ""))
        return Found(files=tuple(sorted(found)))
    days = [(start + dt.timedelta(days=n)).isoformat() for n in range((end - start).days)]
    by_day = {day: files for day in days if (files := _match(pattern.replace("{date}", day)))}
    if not by_day and not set(days) & set(seen):
        span = f" on a day from {days[0]} to {days[-1]}, the window of {end}" if days else ""
        # Where files of earlier days were read, the pattern is right, and those of these days are late.
        kind = LogError if seen else LogSettingError
        raise kind(_nothing(setting, pattern, span))
    if not allow_missing_days:
        _check_days(setting, pattern, days, {*by_day, *seen})
    return Found(files=tuple(sorted({file for files in by_day.values() for file in files})), days=tuple(by_day))


def _nothing(setting: str, pattern: str, span: str) -> str:
    return f"{setting} = {pattern!r}: no log files there{span} (.parquet, .jsonl, .json, .ndjson, .csv, .gz)"


def _check_days(setting: str, pattern: str, days: list[str], there: set[str]) -> None:
    missing = [day for day in days if day not in there and day > min(there)]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise LogError(
            f"{setting} = {pattern!r}: no file for {shown}, though the logs begin on {min(there)}: wait for it, check "
            f"--date, or say allow_missing_days = true ([logs]) where a day may have none"
        )


def _table(setting: str, name: str, end: dt.date) -> TakenFile:
    """A BigQuery table as the one raw file of a date: its rows change, so each night reads its window anew."""
    if not re.fullmatch(r"[\w:.-]+\.\w+\.[\w-]+", name.removeprefix(PREFIX)):
        raise LogSettingError(
            f"{setting} = {name!r}: a BigQuery table is named {PREFIX}project.dataset.table, without {{date}}"
        )
    day = dt.datetime.combine(end, dt.time(), dt.UTC)
    return TakenFile(path=name, bytes=0, changed=day.timestamp())


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
