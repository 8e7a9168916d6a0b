"""Where everything lies. The only module that joins paths; all of them may lie on any Beam file system."""

from __future__ import annotations

import datetime as dt
import glob
import re
from dataclasses import dataclass
from pathlib import Path

from transforms.core import files
from transforms.core.files import join as join

# stage -> its folder below the night's
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


# stage -> further folders it writes to, as seen from its own
EXTRA_FOLDERS = {"neighbours": ("../user_vectors", "../similar", "../defaults")}


def resolve(folder: str, path: str) -> str:
    """`path` against `folder`, where it is relative and on no file system of its own; a table's name as it is."""
    if re.match(r"^([a-zA-Z][a-zA-Z0-9+.-]*://|bigquery:)", path) or Path(path).is_absolute():
        return path
    return str(Path(folder) / path) if "://" not in folder else join(folder, path)


def escape_pattern(folder: str) -> str:
    """A folder's path as a part of a glob, with `{date}` too, in which it stands for itself."""
    return glob.escape(folder).replace("{date}", "[{]date}")


def shard(index: int, count: int, attempt: str, ending: str) -> str:
    """The name of one of `count` files written by one attempt at a stage."""
    return shard_pattern(count, attempt, ending).format(bucket=index)


def shard_pattern(count: int, attempt: str, ending: str) -> str:
    """The names of all of them: what a worker puts its `{bucket}` into."""
    return f"{{bucket:05d}}-of-{count:05d}-{attempt}.{ending}"


def shard_index(name: str) -> int:
    """The bucket or shard a file made by `shard` holds."""
    return int(name.rsplit("/", 1)[-1].split("-of-", 1)[0])


@dataclass(frozen=True)
class Root:
    """The storage root: the store, the nights, and which night is published."""

    path: str

    @property
    def store(self) -> str:
        return join(self.path, "store")

    @property
    def snapshots(self) -> str:
        return join(self.path, "store", "snapshots")

    @property
    def nights(self) -> str:
        return join(self.path, "nights")

    @property
    def published(self) -> str:
        return join(self.path, "published.json")

    @property
    def publishing(self) -> str:
        return join(self.path, "publishing.json")

    @property
    def withdrawn(self) -> str:
        return join(self.path, "withdrawn.json")

    @property
    def metrics(self) -> str:
        return join(self.path, "metrics.prom")

    @property
    def index(self) -> str:
        return join(self.path, "index.html")

    @property
    def lock(self) -> str:
        return join(self.path, "LOCK")

    def night(self, date: dt.date) -> str:
        return join(self.path, "nights", date.isoformat())

    def stage(self, date: dt.date, stage: str) -> str:
        return join(self.path, "nights", date.isoformat(), FOLDERS[stage])

    def gates(self, date: dt.date) -> str:
        return join(self.path, "nights", date.isoformat(), "gates.json")

    def report(self, date: dt.date) -> str:
        return join(self.path, "nights", date.isoformat(), "report.html")

    def outcome(self, date: dt.date) -> str:
        return join(self.path, "nights", date.isoformat(), "outcome.json")

    def rejects(self, date: dt.date) -> str:
        return join(self.path, "nights", date.isoformat(), "rejects")


def nights(root: Root) -> list[dt.date]:
    """The dates of all nights that have left anything, in order."""
    named = (name for name in files.list_folders(root.nights) if re.fullmatch(r"\d{4}-\d\d-\d\d", name))
    return [dt.date.fromisoformat(name) for name in named]
