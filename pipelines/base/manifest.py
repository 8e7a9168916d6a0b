"""COMPLETED: the small JSON file that commits a stage. It is written last; files that it does not list do not count.

A stage writes files under names that are unique to the attempt, replaces its manifest atomically, and then removes the
files that the new manifest does not list. An earlier reader still sees the old manifest. A crash leaves orphaned files,
never half of a stage; the next attempt removes them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.base import lock, paths, published_lists
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.messages import invalid_fields

NAME = "COMPLETED"
FORMAT_VERSION = 1


class ManifestError(RuntimeError):
    """A manifest that is missing, unreadable, or of another format version."""


class DamagedManifestError(ManifestError):
    """A manifest whose content is damaged."""


class Outputs(BaseModel):
    """What one stage leaves for later stages, alongside its files: the base of one class per stage.

    `Manifest.read` validates it: an unknown or missing field is an error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    stage: ClassVar[str]
    format_version: Literal[1] = 1

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a manifest that was written before `outputs` existed, from its `counts`."""
        return {name: counts[name] for name in cls.model_fields if name in counts}


OutputsT = TypeVar("OutputsT", bound=Outputs)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record of one completed stage."""

    stage: str
    date: str
    fingerprint: str  # of the stage's inputs and settings
    files: list[FileEntry]  # names relative to the stage's folder
    outputs: dict[str, Any] | None = None  # for later stages: `Outputs` as JSON; None in manifests of older versions
    counts: dict[str, Any] = field(default_factory=dict)  # for people; the file repeats the outputs here
    seconds: float = 0.0
    processor_seconds: float = 0.0  # summed over all cores of this machine
    peak_bytes: int = 0  # peak memory of the stage's process
    read_bytes: int = 0  # on this machine, also from the page cache
    written_bytes: int = 0
    attempt: str = ""
    inputs: dict[str, str] = field(default_factory=dict)  # inputs of the fingerprint: name -> digest,
    settings: dict[str, Any] = field(default_factory=dict)  # and the settings by table
    run: str = ""  # id of the run that completed the stage
    dropped: str | None = None  # files whose names begin with this were removed after publishing; "": all files
    timed: list[str] = field(default_factory=list)  # files that contain durations: excluded from the digest
    format_version: int = FORMAT_VERSION
    path: str = field(default="", compare=False)  # of the file that it was read from; not part of its content

    @property
    def digest(self) -> str:
        """Return a digest of files and outputs. It does not depend on the names that one attempt gave its files."""
        outputs = self.counts if self.outputs is None else self.outputs
        content = [(logical_name(f.name, self.attempt), f.digest) for f in self.files if f.name not in self.timed]
        return fingerprint(sorted(content), logical_name(json.dumps(outputs, sort_keys=True), self.attempt))

    @property
    def figures(self) -> dict[str, Any]:
        """Outputs and counts together, for people: for the run log and the report."""
        return {name: value for name, value in (self.outputs or {}).items() if name != "format_version"} | self.counts

    def read(self, kind: type[OutputsT]) -> OutputsT:
        """Return the stage's outputs. Raises DamagedManifestError, which names the file and the field, if a field is
        missing, unknown or of another type."""
        if kind.stage != self.stage:
            raise ValueError(f"{kind.__name__} is for stage {kind.stage}, but this is a manifest of stage {self.stage}")
        try:
            if self.outputs is None:
                return kind.model_validate(kind.from_counts(self.counts))
            return kind.model_validate({"format_version": None, **self.outputs})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fault = invalid_fields(error) if isinstance(error, ValidationError) else repr(error)
            raise _damaged(self.path, f"{'counts' if self.outputs is None else 'outputs'}: {fault}") from error

    def to_json(self) -> bytes:
        """Return the content of the file. Its `counts` repeat the outputs, for people and scripts."""
        left_out = ("path", "outputs") if self.outputs is None else ("path",)
        content = {name: value for name, value in asdict(self).items() if name not in left_out}
        return json.dumps(content | {"counts": self.figures}, indent=1).encode()

    @property
    def has_fixed_names(self) -> bool:
        """Return whether another attempt would overwrite some of the files."""
        return any(logical_name(f.name, self.attempt) == f.name for f in self.files)

    @property
    def present(self) -> list[FileEntry]:
        """Return the files that were not dropped."""
        return [f for f in self.files if self.dropped is None or not f.name.startswith(self.dropped)]

    def named(self, prefix: str = "", ending: str = "") -> list[FileEntry]:
        """Return the files whose names have this prefix and ending."""
        return [f for f in self.files if f.name.startswith(prefix) and f.name.endswith(ending)]


def logical_name(name: str, attempt: str) -> str:
    """Return a file name without the id of the attempt that wrote the file."""
    return name.replace(f"-{attempt}", "") if attempt else name


def new_attempt() -> str:
    return secrets.token_hex(4)


def fingerprint(*parts: Any) -> str:
    """Return a stable digest of JSON-compatible values: XXH3-128 of their canonical JSON."""
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True, default=str).encode())


def load(folder: str) -> Manifest | None:
    """Return `record(folder)`, or None if all files of the stage were dropped."""
    found = record(folder)
    return None if found is None or found.dropped == "" else found


def load_readable(folder: str) -> Manifest | None:
    """Return `load(folder)`, or None if the manifest is damaged or of another version, so that the stage runs again."""
    try:
        return load(folder)
    except ManifestError:
        return None


def load_outputs(folder: str, kind: type[OutputsT]) -> OutputsT | None:
    """Return the outputs of a stage's folder; None if `load_readable` returns None or the outputs are damaged."""
    try:
        return found.read(kind) if (found := load(folder)) else None
    except ManifestError:
        return None


def record(folder: str) -> Manifest | None:
    """Return the manifest of a stage's folder even if its files were dropped; None if the stage never completed.

    Raises ManifestError if it cannot be read.
    """
    path = paths.join(folder, NAME)
    if not files.exists(path):
        return None
    try:
        content = json.loads(files.read_bytes(path))
        if content["format_version"] != FORMAT_VERSION:
            raise ManifestError(
                f"{path} has format_version {content['format_version']}, but {FORMAT_VERSION} is supported: run the "
                "night again"
            )
        listed = [file_entry(entry, above=1) for entry in content["files"]]
        repeated = content.get("outputs") or {}
        counts = {name: value for name, value in content.get("counts", {}).items() if name not in repeated}
        return Manifest(**content | {"files": listed, "counts": counts, "path": path})
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: str, fault: str) -> DamagedManifestError:
    date = Path(path).parent.parent.name or "DATE"
    return DamagedManifestError(
        f"{path} cannot be read ({fault}): watchnext nightly JOB.toml --date {date} removes it and runs the stage again"
    )


def discard_damaged(folder: str, outputs: type[Outputs]) -> bool:
    """Remove the manifest of a stage's folder if it or its outputs are damaged. Return whether it was removed."""
    try:
        found = record(folder)
        if found is not None:
            found.read(outputs)
    except DamagedManifestError:
        revoke(folder)
        return True
    return False


def file_entry(record: Mapping[str, Any], *, above: int = 0) -> FileEntry:
    """Return the entry of one file from the JSON of a manifest or a snapshot.

    above: how many `../` its name may begin with. Raises ValueError if the record has another shape, or if the name
    leads out of the allowed folders.
    """
    entry = FileEntry(**record)
    if not isinstance(entry.name, str) or not isinstance(entry.digest, str):
        raise ValueError(f"{dict(record)!r} is not a file entry")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in (entry.rows, entry.bytes)):
        raise ValueError(f"{dict(record)!r} has rows or bytes that are not counts")
    parts = entry.name.split("/")
    while above and parts[0] == "..":
        parts, above = parts[1:], above - 1
    if not parts or not all(parts) or {".", ".."} & {*parts} or "://" in entry.name or "\0" in entry.name:
        raise ValueError(f"it names {entry.name!r}, which lies outside the storage root or is not a file name")
    return entry


def require(folder: str, stage: str) -> Manifest:
    """Return the manifest of a stage that another stage needs. Raises ManifestError, which says how to create it."""
    found = record(folder)
    if found is None:
        raise ManifestError(
            f"stage {stage} is not complete in {folder}: run it first, or run without --only and --from"
        )
    if found.dropped == "":
        raise ManifestError(
            f"the files of stage {stage} in {folder} were dropped, because the night is older than keep_nights "
            "([storage]): run the night again, without --only and --from"
        )
    return found


def commit(folder: str, manifest: Manifest) -> None:
    """Flush the stage's files to disk, write the manifest, then remove the files that it does not list.

    Raises LockError if this run lost its lock.
    """
    root = files.parent(files.parent(files.parent(folder)))
    files.sync(entry_paths(manifest.present, folder), root)
    lock.require()
    files.replace_file(paths.join(folder, NAME), manifest.to_json())
    sweep(folder, manifest, paths.EXTRA_FOLDERS.get(manifest.stage, ()))


def revoke(folder: str) -> None:
    """Remove the manifest of a stage, so that it is not complete. Raises LockError if this run lost its lock."""
    lock.require()
    files.remove_files([paths.join(folder, NAME)])


def sweep(folder: str, manifest: Manifest | None, extra_folders: Iterable[str] = (), *, keep: str = "") -> None:
    """Remove every file of a stage's folders that its manifest does not list.

    Files that a publication of the night serves remain, whether or not the manifest lists them
    (`published_lists.protected`). extra_folders: further folders of the stage, relative to its own; keep: a path below
    the stage's folder whose files remain. Raises LockError if this run lost its lock, because the files may belong to
    the run that took it over.
    """
    lock.require()
    listed = {paths.join(folder, NAME), *(entry_paths(manifest.present, folder) if manifest else ())}
    kept = paths.join(folder, keep) if keep else None
    folders = [folder, *(paths.join(folder, name) for name in extra_folders)]
    found = [path for one in folders for path in files.list_files(one)]
    unlisted = [path for path in found if path not in listed and not (kept and path.startswith(kept))]
    served = published_lists.protected(folder) if unlisted else set()
    if served is not None:
        files.remove_files(path for path in unlisted if path not in served)


def find_damage(folder: str, manifest: Manifest, *, deep: bool = False) -> Iterator[str]:
    """Yield a message for each file of a manifest that is missing or has another size.

    deep: also compare digests, which reads all files.
    """
    sizes = files.list_sizes(folder)
    for extra in {"/".join(entry.name.split("/")[:2]) for entry in manifest.present if entry.name.startswith("../")}:
        sizes |= files.list_sizes(paths.join(folder, extra))
    for entry in manifest.present:
        path = paths.join(folder, entry.name)
        if path not in sizes:
            yield f"{path} is missing"
        elif sizes[path] != entry.bytes:
            yield f"{path} has {sizes[path]:,} bytes, but stage {manifest.stage} wrote {entry.bytes:,}"
        elif deep and files.file_entry(folder, entry.name).digest != entry.digest:
            yield f"{path} is not the file that stage {manifest.stage} wrote: its digest differs"


def difference(folder: str, entry: FileEntry) -> str:
    """Return how one listed file differs from its entry, or an empty string if it does not. Reads the whole file."""
    path = paths.join(folder, entry.name)
    if not files.exists(path):
        return f"{path} is missing"
    found = files.file_entry(folder, entry.name)
    if (found.bytes, found.digest) != (entry.bytes, entry.digest):
        return f"{path} is not the file that was written: its digest differs"
    return ""


def entry_paths(found: Iterable[FileEntry], base: str) -> list[str]:
    """Return the full paths of manifest entries."""
    return [paths.join(base, entry.name) for entry in found]
