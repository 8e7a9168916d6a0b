"""The list of the files that one publication serves, `nights/DATE/publish/lists-DIGITS.json`: written once, before
anything is switched.

    found = read(root, Reference(file="nights/2026-11-21/publish/lists-1f2e3d4c.json", digest="..."))
    found.paths(root, "lists")        # one Parquet file a bucket

`published.json` names the one that is served and the one that was served before it. As long as such a file exists,
nothing that it names is changed or removed (`protected`); only to forget users rewrites files, under the same names.
"""

from __future__ import annotations

import datetime as dt
import json
import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.base import paths
from transforms.core import files
from transforms.core.files import FileEntry

FORMAT_VERSION = 1
PREFIX = "lists-"  # of the names of these files in the folder of stage publish
Kind = Literal["lists", "defaults", "user_vectors", "similar"]
KINDS: tuple[Kind, ...] = ("lists", "defaults", "user_vectors", "similar")


class PublishedListsError(RuntimeError):
    """A list of served files that is missing, cannot be read, or names what it must not."""


class Reference(BaseModel):
    """One such file, as `published.json` names it."""

    model_config = ConfigDict(frozen=True, defer_build=True)  # most stages read no publication

    file: str  # relative to ROOT
    digest: str  # XXH3-128 of its bytes; changes only if users are forgotten

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        return _checked_name(file)


class PublishedLists(BaseModel):
    """All files that a publication serves, their names relative to ROOT."""

    model_config = ConfigDict(frozen=True, defer_build=True)  # most stages read no publication

    format_version: int = FORMAT_VERSION
    date: dt.date
    stage: Literal["neighbours", "ranking"]  # whose lists are served
    buckets: int = Field(gt=0)
    users: int = Field(ge=0)  # rows of all lists
    attempt: str  # the same only for the same files, whether or not users were forgotten since
    neighbours: str  # digest of the manifest of stage neighbours
    lists: tuple[FileEntry, ...]  # one a bucket, in order: user_id, video_ids, scores
    defaults: tuple[FileEntry, ...] = ()  # country, video_ids, scores
    user_vectors: tuple[FileEntry, ...] = ()  # one a bucket that has users: user_id, vector
    similar: tuple[FileEntry, ...] = ()  # video_id, video_ids, scores
    video_vectors: FileEntry | None = None  # of the model that made them: neither kept nor protected, as it is large

    @model_validator(mode="after")
    def _is_whole(self) -> PublishedLists:
        for entry in self.entries:
            _checked_name(entry.name)
        buckets = [paths.shard_index(entry.name) for entry in self.lists]
        if buckets != list(range(self.buckets)):
            raise ValueError(f"there must be one file of lists for each of {self.buckets} buckets, but is {buckets}")
        if (rows := sum(entry.rows for entry in self.lists)) != self.users:
            raise ValueError(f"the lists have {rows:,} rows, but there are {self.users:,} users")
        return self

    @property
    def entries(self) -> tuple[FileEntry, ...]:
        """All files that are protected."""
        return tuple(entry for kind in KINDS for entry in self.of(kind))

    def of(self, kind: Kind) -> tuple[FileEntry, ...]:
        return tuple(getattr(self, kind))

    def paths(self, root: paths.Root, kind: Kind) -> tuple[str, ...]:
        return tuple(paths.join(root.path, entry.name) for entry in self.of(kind))

    def rows(self, kind: Kind) -> int:
        return sum(entry.rows for entry in self.of(kind))

    def changed(self, entries: dict[str, FileEntry]) -> PublishedLists:
        """The same with these entries, by name, in place of those of the same names, and the users counted anew."""
        of_kind = {kind: tuple(entries.get(entry.name, entry) for entry in self.of(kind)) for kind in KINDS}
        users = sum(entry.rows for entry in of_kind["lists"])
        return type(self).model_validate(dict(self) | of_kind | {"users": users})

    def has_content_of(self, other: PublishedLists) -> bool:
        """Whether all files have the same content, under whatever names."""
        return all([e.digest for e in self.of(kind)] == [e.digest for e in other.of(kind)] for kind in KINDS)

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), indent=1).encode()


def _checked_name(name: str) -> str:
    """The name. Raises ValueError unless it stays below the folder that it is relative to."""
    if not is_below(name):
        raise ValueError(f"{name!r} does not lie below the root")
    return name


def is_below(name: str, folder: str = "") -> bool:
    """Whether a relative path, seen from a sub-folder of some folder, stays within that folder."""
    whole = posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))
    return bool(name) and not (whole.startswith(("..", "/")) or "://" in name or re.match(r"[A-Za-z]:", name))


def write(root: paths.Root, lists: PublishedLists) -> Reference:
    """Write the file, under a name that depends on its content."""
    content = lists.to_bytes()
    name = f"{PREFIX}{xxhash.xxh3_128_hexdigest(content)[:8]}.json"
    path = paths.join(root.stage(lists.date, "publish"), name)
    if not files.exists(path) or files.read_bytes(path) != content:
        files.replace_file(path, content)
    return Reference(file=relative(root, path), digest=xxhash.xxh3_128_hexdigest(content))


def rewrite(path: str, lists: PublishedLists) -> None:
    """Replace the content of such a file, as users were forgotten."""
    files.replace_file(path, lists.to_bytes())


def relative(root: paths.Root, path: str) -> str:
    """A path below ROOT, relative to it."""
    return path[len(root.path.rstrip("/")) + 1 :]


def read(root: paths.Root, reference: Reference) -> PublishedLists:
    """The content of such a file. Raises PublishedListsError."""
    return load(paths.join(root.path, reference.file))


def load(path: str) -> PublishedLists:
    """The content of the file at a path. Raises PublishedListsError."""
    if not files.exists(path):
        raise PublishedListsError(f"{path} does not exist")
    try:
        content: Any = json.loads(files.read_bytes(path))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise PublishedListsError(
                f"{path} has format_version {version}, this is {FORMAT_VERSION}: read it with the "
                "watchnext that wrote it"
            )
        return PublishedLists.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise PublishedListsError(f"{path} is damaged ({f'{where}: ' if where else ''}{problem['msg']})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise PublishedListsError(f"{path} is damaged ({error!r})") from error


def reference_to(root: paths.Root, path: str) -> Reference:
    """The reference to such a file as it is now."""
    return Reference(
        file=relative(root, path), digest=files.file_entry(path.rsplit("/", 1)[0], path.rsplit("/", 1)[-1]).digest
    )


def paths_of_night(root: paths.Root, date: dt.date) -> list[str]:
    """The paths of all such files of a night."""
    folder = root.stage(date, "publish")
    return [path for path in files.list_files(folder) if is_lists_file(path.rsplit("/", 1)[-1])]


def is_lists_file(name: str) -> bool:
    """Whether a file name is that of such a file."""
    return bool(re.fullmatch(rf"{PREFIX}[0-9a-f]+\.json", name))


def protected(folder: str) -> set[str] | None:
    """The paths of all such files of the night of a stage's folder, and of everything that they name; None if one of
    them cannot be read: nothing may be removed then."""
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
    """Entries of a manifest of a stage's folder, their names relative to ROOT."""
    return tuple(replace(entry, name=relative(root, paths.join(folder, entry.name))) for entry in entries)
