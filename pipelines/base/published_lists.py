"""The list of the files that a publication serves: `nights/DATE/publish/lists-DIGEST.json`, written before the switch.

    lists = read(root, Reference(file="nights/2026-11-21/publish/lists-1f2e3d4c.json", digest="..."))
    lists.paths(root, "lists")        # one Parquet file per bucket

`published.json` refers to the list that is served and to the one served before it. As long as a list exists, the files
that it names are neither changed nor removed (`protected`). The only exception is forgetting users, which rewrites
files under the same names.
"""

from __future__ import annotations

import datetime as dt
import json
import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal

import xxhash
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.base import paths
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.messages import invalid_fields

FORMAT_VERSION = 2  # since 2, lists of stage ranking have expected_seconds; before, their scores were the seconds
READABLE_VERSIONS = (1, FORMAT_VERSION)
PREFIX = "lists-"  # of the names of these files in the folder of stage publish
Kind = Literal["lists", "defaults", "user_vectors", "similar"]
KINDS: tuple[Kind, ...] = ("lists", "defaults", "user_vectors", "similar")


def supported_versions() -> str:
    """Return the format versions that can be read, in words."""
    return " and ".join(map(str, READABLE_VERSIONS))


class PublishedListsError(RuntimeError):
    """A list of served files that is missing, cannot be read, or names files outside the root."""


def is_below(name: str) -> bool:
    """Return whether a path relative to a folder stays within that folder."""
    whole = posixpath.normpath(name.replace("\\", "/"))
    return bool(name) and not (whole.startswith(("..", "/")) or "://" in name or re.match(r"[A-Za-z]:", name))


def _checked_name(name: str) -> str:
    """Return the name. Raises ValueError if it leads out of the root."""
    if not is_below(name):
        raise ValueError(f"{name!r} lies outside the root")
    return name


class Reference(BaseModel):
    """A reference in `published.json` to a list of served files."""

    model_config = ConfigDict(frozen=True, defer_build=True)  # most stages read no publication

    file: Annotated[str, AfterValidator(_checked_name)]  # relative to ROOT
    digest: str  # XXH3-128 of its bytes; changes only when users are forgotten


class PublishedLists(BaseModel):
    """All files that a publication serves, with names relative to ROOT."""

    model_config = ConfigDict(frozen=True, defer_build=True)  # most stages read no publication

    format_version: int = FORMAT_VERSION
    date: dt.date
    stage: Literal["neighbours", "ranking"]  # the stage that wrote the lists
    buckets: int = Field(gt=0)
    users: int = Field(ge=0)  # number of lists
    attempt: str  # identifies the files; does not change when users are forgotten
    neighbours: str  # digest of the manifest of stage neighbours
    lists: tuple[FileEntry, ...]  # one per bucket, in order: user_id, video_ids, scores, and expected_seconds if ranked
    defaults: tuple[FileEntry, ...] = ()  # country, video_ids, scores
    user_vectors: tuple[FileEntry, ...] = ()  # one per bucket that has users: user_id, vector
    similar: tuple[FileEntry, ...] = ()  # video_id, video_ids, scores
    video_vectors: FileEntry | None = None  # of the model of these lists; large, so it is not protected

    @model_validator(mode="after")
    def _is_whole(self) -> PublishedLists:
        for entry in self.entries:
            _checked_name(entry.name)
        buckets = [paths.shard_index(entry.name) for entry in self.lists]
        if buckets != list(range(self.buckets)):
            raise ValueError(
                f"there must be one file of lists for each of {self.buckets} buckets, but there are {buckets}"
            )
        if (rows := sum(entry.rows for entry in self.lists)) != self.users:
            raise ValueError(f"the lists have {rows:,} rows, but there are {self.users:,} users")
        return self

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """Return the entries of all protected files."""
        return tuple(entry for kind in KINDS for entry in self.of(kind))

    def of(self, kind: Kind) -> tuple[FileEntry, ...]:
        return tuple(getattr(self, kind))

    def paths(self, root: paths.Root, kind: Kind) -> tuple[str, ...]:
        return tuple(paths.join(root.path, entry.name) for entry in self.of(kind))

    def rows(self, kind: Kind) -> int:
        return sum(entry.rows for entry in self.of(kind))

    def with_entries(self, entries: dict[str, FileEntry]) -> PublishedLists:
        """Return a copy in which `entries` replace those of the same names, with the number of users updated."""
        by_kind = {kind: tuple(entries.get(entry.name, entry) for entry in self.of(kind)) for kind in KINDS}
        users = sum(entry.rows for entry in by_kind["lists"])
        return type(self).model_validate(dict(self) | by_kind | {"users": users})

    def has_content_of(self, other: PublishedLists) -> bool:
        """Return whether all files have the same content as those of `other`; names may differ."""
        return all([e.digest for e in self.of(kind)] == [e.digest for e in other.of(kind)] for kind in KINDS)

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), indent=1).encode()


def write(root: paths.Root, lists: PublishedLists) -> Reference:
    """Write the list under a name that contains its digest, and return the reference to it."""
    content = lists.to_bytes()
    name = f"{PREFIX}{xxhash.xxh3_128_hexdigest(content)[:8]}.json"
    path = paths.join(root.stage(lists.date, "publish"), name)
    if not files.exists(path) or files.read_bytes(path) != content:
        files.replace_file(path, content)
    return Reference(file=relative(root, path), digest=xxhash.xxh3_128_hexdigest(content))


def relative(root: paths.Root, path: str) -> str:
    """Return a path below ROOT relative to ROOT."""
    return path[len(root.path.rstrip("/")) + 1 :]


def read(root: paths.Root, reference: Reference) -> PublishedLists:
    """Read the list that a reference names. Raises PublishedListsError."""
    return load(paths.join(root.path, reference.file))


def load(path: str) -> PublishedLists:
    """Read the list at a path. Raises PublishedListsError."""
    if not files.exists(path):
        raise PublishedListsError(f"{path} does not exist")
    try:
        content: Any = json.loads(files.read_bytes(path))
        version = content["format_version"]
        if version not in READABLE_VERSIONS:
            raise PublishedListsError(
                f"{path} has format_version {version}, but {supported_versions()} are supported: read it with the "
                "version of watchnext that wrote it"
            )
        return PublishedLists.model_validate(content)
    except (ValueError, TypeError, KeyError) as error:
        fault = invalid_fields(error) if isinstance(error, ValidationError) else repr(error)
        raise PublishedListsError(f"{path} is damaged ({fault})") from error


def paths_of_night(root: paths.Root, date: dt.date) -> list[str]:
    """Return the paths of all lists of served files of a night."""
    folder = root.stage(date, "publish")
    return [path for path in files.list_files(folder) if is_lists_file(path.rsplit("/", 1)[-1])]


def is_lists_file(name: str) -> bool:
    """Return whether a file name is that of a list of served files."""
    return bool(re.fullmatch(rf"{PREFIX}[0-9a-f]+\.json", name))


def protected(folder: str) -> set[str] | None:
    """Return the paths that publications of a night serve: its lists of served files, and all files that these name.

    folder: the folder of a stage of the night. Returns None if a list cannot be read: then no file may be removed.
    """
    publish = paths.join(folder, f"../{paths.FOLDERS['publish']}")
    found = set[str]()
    for path in files.list_files(publish):
        if is_lists_file(path.rsplit("/", 1)[-1]):
            found.add(path)
            try:
                found |= {paths.join(folder, f"../../../{entry.name}") for entry in load(path).entries}
            except PublishedListsError:
                return None
    return found


def relative_entries(entries: Iterable[FileEntry], folder: str, root: paths.Root) -> tuple[FileEntry, ...]:
    """Return entries of the manifest in `folder` with their names relative to ROOT."""
    return tuple(replace(entry, name=relative(root, paths.join(folder, entry.name))) for entry in entries)
