"""The files of outcomes by day (`transforms/ranking/outcomes.py`) of a night, and those that it takes over.

A day's counts depend on the events of the day and on settings, of which `fingerprints` makes a digest. Stage ranking
records it, and takes over the file of the newest earlier night with an equal one. So a night counts only days whose
events changed, which usually is the newest one.
"""

from __future__ import annotations

import datetime as dt

from pipelines.base import manifest, paths
from pipelines.base.snapshot_store import StoreFile
from pipelines.night import publication_file
from pipelines.night.night import Night
from pipelines.night.outputs import RankingOutputs
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.logs.parsing import CompletionRule
from transforms.ranking.outcomes import file_name

IMPRESSIONS = "impressions"
TABLES = ("watches", "searches", IMPRESSIONS)
_VERSION = 1  # of the counts: a change of what is counted needs another one


def completion_rule(night: Night) -> CompletionRule:
    """Return when a click counts as completed."""
    return CompletionRule(fraction=night.job.logs.completed_fraction, seconds=night.job.logs.completed_seconds)


def fingerprints(night: Night) -> dict[dt.date, str]:
    """Return each day of the window with stored impressions, and the digest of all that its counts depend on.

    The catalogue's lengths and the users table count as they were in the night that counted the day.
    """
    dates, rule = night.dates, completion_rule(night)
    settings = [dates.time_zone, dates.window.max_events_per_day, rule.fraction, rule.seconds]
    settings += [bool(night.ingested.catalogue()), night.job.logs.users is not None, _VERSION]
    return {
        day: manifest.fingerprint(day, settings, sorted((file.table, file.bucket, file.file.digest) for file in stored))
        for day, stored in _stored(night).items()
    }


def _stored(night: Night) -> dict[dt.date, list[StoreFile]]:
    """Return the store's files with events of each day of the window that has impressions, oldest first."""
    dates, snapshot = night.dates, night.ingested.snapshot
    window = [night.date + dt.timedelta(days=shift) for shift in range(-night.job.examples.window_days, 0)]
    by_day: dict[dt.date, list[StoreFile]] = {day: [] for day in window}
    if snapshot.time_zone == dates.time_zone:
        for file in snapshot.files_between(dates.start, dates.end):
            by_day[dt.date.fromisoformat(file.day)].append(file)
    else:  # written by an older version
        by_day = {day: snapshot.files_between(*dates.span(day)) for day in window}
    by_day = {day: [file for file in stored if file.table in TABLES] for day, stored in by_day.items()}
    return {day: stored for day, stored in by_day.items() if any(file.table == IMPRESSIONS for file in stored)}


def paths_of(night: Night) -> tuple[str, ...]:
    """Return the paths of the night's files, oldest first, whether or not they are written yet."""
    return tuple(paths.join(night.folder(publication_file.RANKING), file_name(day)) for day in _stored(night))


def take_over(night: Night, wanted: dict[dt.date, str], folder: str) -> dict[dt.date, FileEntry]:
    """Copy the files of days whose counts an earlier night has to `folder`, and return their entries.

    wanted: `fingerprints`. A file that is missing or damaged is not taken over.
    """
    found = dict[dt.date, FileEntry]()
    earlier = (
        date for date in reversed(paths.nights(night.root)) if min(wanted, default=night.date) < date < night.date
    )
    for date in earlier:
        missing = {day: digest for day, digest in wanted.items() if day not in found}
        if not missing:
            break
        found |= _copy_from(night.root.stage(date, publication_file.RANKING), missing, folder)
    return found


def _copy_from(other: str, wanted: dict[dt.date, str], folder: str) -> dict[dt.date, FileEntry]:
    """Copy the files of another night's folder whose days have equal fingerprints."""
    done, outputs = manifest.load_readable(other), manifest.load_outputs(other, RankingOutputs)
    counted = outputs.outcomes if outputs else {}
    entries = {entry.name: entry for entry in done.present} if done else {}
    found = {}
    for day in (day for day, digest in wanted.items() if counted.get(day.isoformat()) == digest):
        entry = entries.get(file_name(day))
        if entry and not manifest.difference(other, entry):
            content = files.read_bytes(paths.join(other, entry.name))
            found[day] = files.write_bytes(folder, entry.name, entry.rows, content)
    return found
