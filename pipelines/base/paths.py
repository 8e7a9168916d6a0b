"""The layout of files below the storage root. Paths may be on any file system that Beam supports."""

from __future__ import annotations

import datetime as dt
import glob
import re
from dataclasses import dataclass
from pathlib import Path

from transforms.core import files
from transforms.core.files import join as join

# stage -> its folder, relative to the night's folder
FOLDERS = {
    "ingest": "catalogue",
    "vocabulary": "vocabulary",
    "examples": "examples",
    "train": "model",
    "index": "index",
    "neighbours": "neighbours",
    "ranking": "ranked",
    "evaluation": "evaluation",
    "publish": "publish",
}
# stage -> further folders that it writes to, relative to its own folder
EXTRA_FOLDERS = {"neighbours": ("../user_vectors", "../similar", "../defaults")}


def resolve(folder: str, path: str) -> str:
    """Return a local relative path joined to `folder`; any other path, or a BigQuery table, unchanged."""
    if re.match(r"^([a-zA-Z][a-zA-Z0-9+.-]*://|bigquery:)", path) or Path(path).is_absolute():
        return path
    return str(Path(folder) / path) if "://" not in folder else join(folder, path)


def escape_pattern(folder: str) -> str:
    """Escape a folder's path for use in a pattern with wildcards and `{date}`."""
    return glob.escape(folder).replace("{date}", "[{]date}")


def shard(index: int, count: int, attempt: str, ending: str) -> str:
    """Return the name of file `index` of `count` files that one attempt at a stage writes."""
    return shard_pattern(count, attempt, ending).format(bucket=index)


def shard_pattern(count: int, attempt: str, ending: str) -> str:
    """Return a format string for the names of all shards; a worker fills in `{bucket}`."""
    return f"{{bucket:05d}}-of-{count:05d}-{attempt}.{ending}"


def shard_index(name: str) -> int:
    """Return the bucket or shard number in a name that `shard` made."""
    return int(name.rsplit("/", 1)[-1].split("-of-", 1)[0])


@dataclass(frozen=True)
class _Below:
    """An attribute of `Root`: the path of a file or folder below the root."""

    name: str

    def __get__(self, root: Root, _kind: type[Root]) -> str:
        return join(root.path, self.name)


@dataclass(frozen=True)
class Root:
    """Paths of the storage root: the store, the nights, and the published night."""

    path: str

    store = _Below("store")
    snapshots = _Below("store/snapshots")
    nights = _Below("nights")
    published = _Below("published.json")
    publishing = _Below("publishing.json")
    withdrawn = _Below("withdrawn.json")
    metrics = _Below("metrics.prom")
    index = _Below("index.html")
    lock = _Below("LOCK")

    def night(self, date: dt.date, *names: str) -> str:
        """Return the path of a night's folder, or of a file or folder in it."""
        return join(self.nights, date.isoformat(), *names)

    def stage(self, date: dt.date, stage: str) -> str:
        return self.night(date, FOLDERS[stage])

    def gates(self, date: dt.date) -> str:
        return self.night(date, "gates.json")

    def report(self, date: dt.date) -> str:
        return self.night(date, "report.html")

    def outcome(self, date: dt.date) -> str:
        return self.night(date, "outcome.json")

    def rejects(self, date: dt.date) -> str:
        return self.night(date, "rejects")


def nights(root: Root) -> list[dt.date]:
    """Return the dates of all nights that have a folder, in order."""
    named = (name for name in files.list_folders(root.nights) if re.fullmatch(r"\d{4}-\d\d-\d\d", name))
    return [dt.date.fromisoformat(name) for name in named]
