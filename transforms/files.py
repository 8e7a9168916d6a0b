"""Files on any Beam file system: whole or absent, with rows, size and digest for the manifests.

Data files are written under names no earlier attempt used and count once a manifest lists them, so they are never
renamed. Small files with fixed names (`replace_file`) are replaced whole.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import xxhash
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.localfilesystem import LocalFileSystem


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file as a manifest lists it."""

    name: str  # relative to the folder the manifest speaks of
    rows: int
    bytes: int
    digest: str  # XXH3-128 of the content


def is_local(path: str) -> bool:
    return isinstance(FileSystems.get_filesystem(path), LocalFileSystem)


def write_file(folder: str, name: str, rows: int, write: Callable[[str], object]) -> FileEntry:
    """Let `write(local_path)` make a file and put it at `folder/name`; the entry for the manifest."""
    path = FileSystems.join(folder, name)
    if is_local(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(path)
        return _entry(path, name, rows)
    with tempfile.TemporaryDirectory() as scratch:
        local = str(Path(scratch) / Path(name).name)
        write(local)
        with open(local, "rb") as source, _create(path) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        return _entry(local, name, rows)


def write_parquet(frame: pl.DataFrame, folder: str, name: str) -> FileEntry:
    """Write a frame as `folder/name`, zstd; the same frame always gives the same bytes."""
    return write_file(folder, name, frame.height, lambda path: frame.write_parquet(path, compression="zstd"))


def replace_parquet(frame: pl.DataFrame, folder: str, name: str) -> FileEntry:
    """Write a frame as `folder/name`, a name that is always the same: readers find the old file or the new."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    return replace_entry(folder, name, frame.height, content.getvalue())


def replace_entry(folder: str, name: str, rows: int, content: bytes) -> FileEntry:
    """`replace_file`, and the entry for the manifest."""
    replace_file(FileSystems.join(folder, name), content)
    return FileEntry(name=name, rows=rows, bytes=len(content), digest=xxhash.xxh3_128_hexdigest(content))


def read_parquet(path: str, columns: list[str] | None = None) -> pl.DataFrame:
    """A whole Parquet file, or some of its columns."""
    if is_local(path):
        return pl.read_parquet(path, columns=columns, glob=False, hive_partitioning=False)
    return pl.read_parquet(read_bytes(path), columns=columns)


def read_bytes(path: str) -> bytes:
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source:
        return source.read()


def replace_file(path: str, content: bytes) -> None:
    """Write `content` to `path` so that a reader finds the old content or the new, never a part."""
    if not is_local(path):
        with _create(path) as target:
            target.write(content)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    partial = f"{path}.{os.getpid()}.tmp"
    try:
        with open(partial, "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


def exists(path: str) -> bool:
    return bool(FileSystems.exists(path))


def list_files(folder: str) -> list[str]:
    """Paths of all files below a folder, sorted; empty where there is no such folder."""
    if is_local(folder):
        return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())
    found = FileSystems.match([FileSystems.join(folder, "**")])[0].metadata_list
    return sorted(entry.path for entry in found)


def entries_below(folder: str, below: str) -> list[FileEntry]:
    """Entries, relative to `folder`, of all files in its sub-folder `below`: what a library wrote by itself."""
    found = []
    for path in list_files(FileSystems.join(folder, below)):
        content = read_bytes(path)
        name = path[len(folder) :].lstrip("/")
        found.append(FileEntry(name=name, rows=0, bytes=len(content), digest=xxhash.xxh3_128_hexdigest(content)))
    return found


def remove_files(paths: Iterable[str]) -> None:
    """Remove files; those that are gone already do not matter."""
    doomed = [path for path in paths if FileSystems.exists(path)]
    if doomed:
        FileSystems.delete(doomed)


def _create(path: str):  # type: ignore[no-untyped-def]  # Beam's file objects have no type
    return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _entry(local: str, name: str, rows: int) -> FileEntry:
    digest = xxhash.xxh3_128()
    with open(local, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return FileEntry(name=name, rows=rows, bytes=Path(local).stat().st_size, digest=digest.hexdigest())
