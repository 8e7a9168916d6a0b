"""COMPLETED: the small JSON file that commits a stage. It is written last, and what it does not list does not exist.

A stage writes files under names unique to the attempt, then replaces its manifest in one step, then removes what the
new manifest does not list. A reader that came before still finds the old manifest, a crash leaves orphans and never
half a stage; the next attempt removes them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from pipelines.base import lock, paths, published_lists
from transforms.core import files
from transforms.core.files import FileEntry

NAME = "COMPLETED"
FORMAT_VERSION = 1


class ManifestError(RuntimeError):
    """A manifest that is missing, unreadable, or of another format version."""


class DamagedManifestError(ManifestError):
    """A manifest whose content is not what was written."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one completed stage left."""

    stage: str
    date: str
    fingerprint: str  # of the stage's inputs and settings
    files: list[FileEntry]  # names relative to the stage's folder
    counts: dict[str, Any] = field(default_factory=dict)  # what the stage did, for people and for later stages
    seconds: float = 0.0
    processor_seconds: float = 0.0  # of all cores of this machine together
    peak_bytes: int = 0  # of memory, of the stage's process
    attempt: str = ""
    inputs: dict[str, str] = field(default_factory=dict)  # what the fingerprint is of: what -> digest,
    settings: dict[str, Any] = field(default_factory=dict)  # and the settings by table
    run: str = ""  # id of the run that did it
    dropped: str | None = None  # files whose names begin with this were removed after publishing; "": all of them
    timed: list[str] = field(default_factory=list)  # files that tell how long things took: not in the digest
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """Of the content alone: the same for an attempt that left the same bytes under other names."""
        counts = logical_name(json.dumps(self.counts, sort_keys=True), self.attempt)
        content = [(logical_name(f.name, self.attempt), f.digest) for f in self.files if f.name not in self.timed]
        return fingerprint(sorted(content), counts)

    @property
    def has_fixed_names(self) -> bool:
        """Whether another attempt would write over some of the files."""
        return any(logical_name(f.name, self.attempt) == f.name for f in self.files)

    @property
    def present(self) -> list[FileEntry]:
        """The files that were not dropped."""
        return [f for f in self.files if self.dropped is None or not f.name.startswith(self.dropped)]

    def named(self, prefix: str = "", ending: str = "") -> list[FileEntry]:
        return [f for f in self.files if f.name.startswith(prefix) and f.name.endswith(ending)]


def logical_name(name: str, attempt: str) -> str:
    """A file's name without the mark of the attempt that wrote it."""
    return name.replace(f"-{attempt}", "") if attempt else name


def new_attempt() -> str:
    return secrets.token_hex(4)


def fingerprint(*parts: Any) -> str:
    """A stable digest of JSON-able values: XXH3-128 of their canonical JSON."""
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True, default=str).encode())


def load(folder: str) -> Manifest | None:
    """The manifest of a stage's folder, or None where the stage never completed or all it left was dropped since."""
    found = record(folder)
    return None if found is None or found.dropped == "" else found


def load_readable(folder: str) -> Manifest | None:
    """`load`, and None for a manifest that is damaged or of another version: the stage is to be run again."""
    try:
        return load(folder)
    except ManifestError:
        return None


def record(folder: str) -> Manifest | None:
    """What a stage once left, whether or not its files are still there; None where it never completed."""
    path = paths.join(folder, NAME)
    if not files.exists(path):
        return None
    try:
        content = json.loads(files.read_bytes(path))
        if content["format_version"] != FORMAT_VERSION:
            raise ManifestError(
                f"{path} has format_version {content['format_version']}, this is {FORMAT_VERSION}: run the night anew"
            )
        listed = [file_entry(entry, above=1) for entry in content["files"]]
        return Manifest(**content | {"files": listed})
    except (ValueError, KeyError, TypeError) as error:
        again = f"watchnext nightly JOB.toml --date {Path(folder).parent.name} removes it and makes the stage anew"
        raise DamagedManifestError(f"{path} cannot be read ({error}): {again}") from error


def discard_damaged(folder: str) -> bool:
    """Remove the manifest of a stage's folder if it is damaged, so that the stage counts as not complete; whether it
    was."""
    try:
        record(folder)
    except DamagedManifestError:
        revoke(folder)
        return True
    return False


def file_entry(record: Mapping[str, Any], *, above: int = 0) -> FileEntry:
    """A file as a manifest or a snapshot lists it. above: how many folders up its name may begin.

    Raises ValueError for a record of another shape, and for a name that leads out of the folders it belongs to.
    """
    entry = FileEntry(**record)
    if not isinstance(entry.name, str) or not isinstance(entry.digest, str):
        raise ValueError(f"{dict(record)!r} is no entry of a file")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in (entry.rows, entry.bytes)):
        raise ValueError(f"{dict(record)!r} has rows or bytes that are no counts")
    parts = entry.name.split("/")
    while above and parts[0] == "..":
        parts, above = parts[1:], above - 1
    if not parts or not all(parts) or {".", ".."} & {*parts} or "://" in entry.name or "\0" in entry.name:
        raise ValueError(f"it names {entry.name!r}, which lies outside the storage root or is no file's name")
    return entry


def require(folder: str, stage: str) -> Manifest:
    """The manifest of a stage another one needs; ManifestError says how to get it."""
    found = record(folder)
    if found is None:
        raise ManifestError(
            f"stage {stage} is not complete in {folder}: run it first, or run without --only and --from"
        )
    if found.dropped == "":
        raise ManifestError(
            f"what stage {stage} left in {folder} was dropped, as the night is older than the keep_nights ([storage]) "
            "that stay whole: run the night again, without --only and --from"
        )
    return found


def commit(folder: str, manifest: Manifest) -> None:
    """Make the manifest count, once its files are on the disk, then remove what it does not list.

    Raises LockError if this run lost its lock.
    """
    root = files.parent(files.parent(files.parent(folder)))
    files.sync(entry_paths(manifest.present, folder), root)
    lock.require()
    files.replace_file(paths.join(folder, NAME), json.dumps(asdict(manifest), indent=1).encode())
    sweep(folder, manifest, paths.EXTRA_FOLDERS.get(manifest.stage, ()))


def revoke(folder: str) -> None:
    """Make the manifest of a stage's folder count no more. Raises LockError if this run lost its lock."""
    lock.require()
    files.remove_files([paths.join(folder, NAME)])


def sweep(folder: str, manifest: Manifest | None, beside: Iterable[str] = (), *, keep: str = "") -> None:
    """Remove every file of a stage's folders that its manifest does not list.

    What a publication of the night serves stays, whether or not the manifest lists it (`published_lists.protected`).
    `beside`: further folders of the stage, seen from its own; `keep`: what is below this path of its own is left alone.
    Raises LockError if this run lost its lock: the files may be those of the run that took it over.
    """
    lock.require()
    listed = set(entry_paths(manifest.present, folder)) if manifest else set()
    listed.add(paths.join(folder, NAME))
    kept = paths.join(folder, keep) if keep else None
    found = [path for name in ("", *beside) for path in files.list_files(paths.join(folder, name) if name else folder)]
    doomed = [path for path in found if path not in listed and not (kept and path.startswith(kept))]
    served = published_lists.protected(folder) if doomed else set()
    if served is not None:
        files.remove_files(path for path in doomed if path not in served)


def find_damage(folder: str, manifest: Manifest, *, deep: bool = False) -> Iterator[str]:
    """What is wrong with the files that a manifest lists, a line for each: missing, or of another size.

    deep: compare their digests too, which reads them whole.
    """
    sizes = files.list_sizes(folder)
    for beside in {"/".join(entry.name.split("/")[:2]) for entry in manifest.present if entry.name.startswith("../")}:
        sizes |= files.list_sizes(paths.join(folder, beside))
    for entry in manifest.present:
        path = paths.join(folder, entry.name)
        if path not in sizes:
            yield f"{path} is missing"
        elif sizes[path] != entry.bytes:
            yield f"{path} has {sizes[path]:,} bytes, but stage {manifest.stage} wrote {entry.bytes:,}"
        elif deep and files.file_entry(folder, entry.name).digest != entry.digest:
            yield f"{path} is not what stage {manifest.stage} wrote: its digest is another"


def difference(folder: str, entry: FileEntry) -> str:
    """What is wrong with one listed file, which is read whole; empty if nothing is."""
    path = paths.join(folder, entry.name)
    if not files.exists(path):
        return f"{path} is missing"
    found = files.file_entry(folder, entry.name)
    if (found.bytes, found.digest) != (entry.bytes, entry.digest):
        return f"{path} is not what was written: its digest is another"
    return ""


def entry_paths(found: Iterable[FileEntry], base: str) -> list[str]:
    """Full paths of manifest entries."""
    return [paths.join(base, entry.name) for entry in found]
