"""Files on any Beam file system: whole or absent, with rows, size and digest for the manifests.

Data files are written under names no earlier attempt used and count once a manifest lists them, so they are never
renamed. Small files with fixed names (`replace_file`) are replaced whole.

A path is never a pattern here: `[`, `?` and `*` in the name of a folder or file stand for themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import glob
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import xxhash
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.localfilesystem import LocalFileSystem

from transforms.core import gcs, s3

s3.share_clients()

_SYNC_THREADS = 8  # a disk has queues for many
_PARTIAL = re.compile(r"\.(?P<pid>\d+)\.tmp$")  # of `replace_file`


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file as a manifest lists it."""

    name: str  # relative to the folder the manifest speaks of
    rows: int
    bytes: int
    digest: str  # XXH3-128 of the content


class DamagedFileError(RuntimeError):
    """A file that is missing or not what was written: which, and what makes it anew."""


_COMPARED_DIGITS = 8  # of a digest in hexadecimal digits


class VerifiedPath(str):
    """A path with the digest of the content that was written there; `read_parquet` and `read_parquets` compare it.

    repair: what to do about a file with other content, for the error's message; `{folder}` in it stands for the name
    of the file's folder. A path of this kind is pickled as one; a coder of strings makes a plain path of it. Only the
    first 32 bits of the digest are kept: a job's graph names hundreds of thousands of files.
    """

    __slots__ = ("digest", "repair")
    digest: str
    repair: str

    def __new__(cls, path: str, digest: str, repair: str) -> VerifiedPath:
        made = super().__new__(cls, path)
        made.digest, made.repair = digest[:_COMPARED_DIGITS], repair
        return made

    def __reduce__(self) -> tuple[type[VerifiedPath], tuple[str, str, str]]:
        return VerifiedPath, (str(self), self.digest, self.repair)

    def damaged(self, what: str) -> DamagedFileError:
        return DamagedFileError(f"{self} {what}: {self.repair.replace('{folder}', self.rsplit('/', 2)[-2])}")

    def check(self, digest: str) -> None:
        """Raise DamagedFileError if this is not the digest of what was written."""
        if not digest.startswith(self.digest):
            raise self.damaged("is damaged (its digest is not that of what was written)")


PackedPaths = tuple[tuple[str, ...], bytes, str]  # paths, their digests one after the other, their repair


def pack_paths(paths: Sequence[str]) -> PackedPaths:
    """Paths in a form that takes little room in a pickle; `VerifiedPath`s keep their digests and their one repair."""
    verified = [path for path in paths if isinstance(path, VerifiedPath)]
    if not verified or len(verified) < len(paths):
        return tuple(paths), b"", ""
    return tuple(map(str, paths)), bytes.fromhex("".join(path.digest for path in verified)), verified[0].repair


def unpack_paths(packed: PackedPaths) -> tuple[str, ...]:
    """The paths that `pack_paths` was given."""
    paths, digests, repair = packed
    if not digests:
        return paths
    size = len(digests) // len(paths)
    parts = (digests[start : start + size].hex() for start in range(0, len(digests), size))
    return tuple(VerifiedPath(path, digest, repair) for path, digest in zip(paths, parts, strict=True))


def join(folder: str, *names: str) -> str:
    """Paths below a folder of any file system; a name may begin with `../`, once or more, for a folder beside it."""
    path = folder
    for name in names:
        while name.startswith("../"):
            path, name = FileSystems.split(path.rstrip("/"))[0], name[3:]
        path = FileSystems.join(path, name)
    return path


def parent(path: str) -> str:
    """The folder that a file or folder lies in."""
    return str(FileSystems.split(path.rstrip("/"))[0])


def is_local(path: str) -> bool:
    return isinstance(FileSystems.get_filesystem(path), LocalFileSystem)


def write_file(folder: str, name: str, rows: int, write: Callable[[str], object]) -> FileEntry:
    """Let `write(local_path)` make a file and put it at `folder/name`; the entry for the manifest.

    The file and its folders are on the disk when `sync` was called, which is before they are named anywhere.
    """
    path = join(folder, name)
    if is_local(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(path)
        return _entry(path, name, rows)
    with tempfile.TemporaryDirectory() as scratch:
        local = str(Path(scratch) / Path(name).name)
        write(local)
        return _put(local, path, name, rows)


def _put(local: str, path: str, name: str, rows: int) -> FileEntry:
    """Copy a local file to `path`; the entry, with the digest of what was sent."""
    digest, size = xxhash.xxh3_128(), 0
    with open(local, "rb") as source, _create(path) as target:
        while block := source.read(1 << 20):
            digest.update(block)
            size += len(block)
            target.write(block)
    return FileEntry(name=name, rows=rows, bytes=size, digest=digest.hexdigest())


def write_parquet(frame: pl.DataFrame, folder: str, name: str) -> FileEntry:
    """Write a frame as `folder/name`; the same frame always gives the same bytes.

    zstd, level 1: as small as the usual level 3 to 1 %, and a fifth faster.
    """

    def write(path: str) -> None:
        try:
            frame.write_parquet(path, compression="zstd", compression_level=1)
        except pl.exceptions.ComputeError as error:  # what polars makes of a full disk
            raise OSError(f"{path} cannot be written: {error}") from error

    return write_file(folder, name, frame.height, write)


def replace_parquet(frame: pl.DataFrame, folder: str, name: str) -> FileEntry:
    """Write a frame as `folder/name`, a name that is always the same: readers find the old file or the new."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    return replace_entry(folder, name, frame.height, content.getvalue())


def replace_entry(folder: str, name: str, rows: int, content: bytes) -> FileEntry:
    """`replace_file`, and the entry for the manifest."""
    replace_file(join(folder, name), content)
    return FileEntry(name=name, rows=rows, bytes=len(content), digest=xxhash.xxh3_128_hexdigest(content))


def read_parquet(path: str, columns: list[str] | None = None) -> pl.DataFrame:
    """A whole Parquet file, or some of its columns.

    Raises DamagedFileError for a file that is no whole Parquet, and for a `VerifiedPath` with other content.
    """
    if is_local(path):
        _verify(path)
        with _reporting_damage([path]):
            return pl.read_parquet(str(path), columns=columns, glob=False, hive_partitioning=False)
    content = _verified_bytes(path)
    with _reporting_damage([path]):
        return pl.read_parquet(content, columns=columns)


@contextlib.contextmanager
def _reporting_damage(paths: Sequence[str]) -> Iterator[None]:
    """Raise DamagedFileError in place of polars' errors about content that is no whole Parquet."""
    try:
        yield
    except (pl.exceptions.ComputeError, pl.exceptions.PanicException) as error:
        names = paths[0] if len(paths) == 1 else f"one of {paths[0]} and {len(paths) - 1:,} more files"
        reason = str(error).strip().splitlines()
        raise DamagedFileError(
            f"{names} is no whole Parquet file ({reason[0] if reason else type(error).__name__}): watchnext doctor "
            "JOB.toml --deep names the command that makes it anew"
        ) from error


def read_parquets(paths: Sequence[str], columns: list[str]) -> pl.DataFrame:
    """Some columns of several Parquet files, one after the other; local ones are read side by side.

    Raises DamagedFileError for a file that is no whole Parquet, and for a `VerifiedPath` with other content.
    """
    if all(is_local(path) for path in paths):
        for path in paths:
            _verify(path)
        # Files of the store that versions before wrote have fewer columns than later ones.
        found = pl.scan_parquet(
            [str(path) for path in paths], glob=False, hive_partitioning=False, extra_columns="ignore"
        )
        with _reporting_damage(paths):
            return found.select(columns).collect()
    return pl.concat(read_parquet(path, columns) for path in paths)


def _verify(path: str) -> None:
    """Compare the digest of a local file: a few per cent of the time that Parquet takes to read."""
    if isinstance(path, VerifiedPath):
        try:
            path.check(_digest(path))
        except FileNotFoundError:
            raise path.damaged("is missing") from None


def _verified_bytes(path: str) -> bytes:
    if not isinstance(path, VerifiedPath):
        return read_bytes(path)
    if not exists(path):
        raise path.damaged("is missing")
    content = read_bytes(path)
    path.check(xxhash.xxh3_128_hexdigest(content))
    return content


def read_bytes(path: str) -> bytes:
    with _open(path) as source:
        return bytes(source.read())


def upload(local: Path, folder: str, name: str) -> FileEntry:
    """Put a local file at `folder/name`; it is read once, and what was put there is not read back."""
    path = join(folder, name)
    if not is_local(path):
        return _put(str(local), path, name, 0)
    return write_file(folder, name, 0, lambda path: shutil.copyfile(local, path))


def upload_all(local: Path, folder: str) -> list[FileEntry]:
    """Put all files below a local folder at the same places below `folder`; their entries."""
    found = sorted(path for path in local.rglob("*") if path.is_file())
    return [upload(path, folder, path.relative_to(local).as_posix()) for path in found]


def local_copy(path: str) -> str:
    """A file or folder as a local path that no library takes for a pattern: itself, a link to it, or a copy of a remote
    one. Links and copies stay for the life of the process.
    """
    if is_local(path) and not glob.has_magic(path):
        return path
    scratch = Path(tempfile.mkdtemp(prefix="watchnext-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    if not is_local(path):
        return _copy(path, scratch)
    link = scratch / "link"  # TensorFlow looks for the files of a model and of a checkpoint by patterns
    link.symlink_to(Path(path).absolute())
    return str(link)


@contextlib.contextmanager
def local_while(path: str) -> Iterator[str]:
    """`local_copy` for as long as the block lasts: for files that are many, and read once."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="watchnext-") as scratch:
        yield _copy(path, Path(scratch))


def _copy(path: str, scratch: Path) -> str:
    """A remote file or folder below `scratch`, under its own name."""
    base = scratch / Path(path).name
    download(path, list_files(path) or [path], base)
    return str(base)


def download(folder: str, paths: Iterable[str], target: Path) -> None:
    """Copy remote files that lie below `folder`, or are it, to the same places below the local `target`."""
    for path in paths:
        local = target / path[len(folder) :].lstrip("/")
        local.parent.mkdir(parents=True, exist_ok=True)
        with _open(path) as source, open(local, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)


def replace_file(path: str, content: bytes) -> None:
    """Write `content` to `path` so that a reader finds the old content or the new whole, even after a power cut."""
    if not is_local(path):
        with _create(path) as target:
            target.write(content)
        return
    make_folder(Path(path).parent)
    partial = f"{path}.{os.getpid()}.tmp"
    try:
        with open(partial, "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)
    _sync_folder(Path(path).parent)  # or a power cut may bring the old content back


def sync(paths: Iterable[str], top: str) -> None:
    """Write local files to the disk, and the folders between them and `top`, so that a power cut does not lose them.

    Called before the file that names them is written: all at once, as the system has written most of it by then. One
    fsync after each file would take a millisecond and more for each. Files that are missing are left out.
    """
    if not is_local(top):
        return
    found = [Path(path) for path in paths]
    folders = {folder for path in found for folder in path.parents if folder.is_relative_to(top)}
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(_sync_file, found))
        list(pool.map(_sync_folder, folders))


def _sync_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, PermissionError):  # others' folders above ours need not be open to this user
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no fsync of folders
            raise
    finally:
        os.close(opened)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, so that they outlive a power cut."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        _sync_folder(one.parent)


def exists(path: str) -> bool:
    return bool(FileSystems.exists(path))


def list_files(folder: str) -> list[str]:
    """Paths of all files below a folder, sorted; empty if there is no such folder.

    Files that `replace_file` has not finished, or was killed over, are left out.
    """
    if is_local(folder):
        local = (path for path in Path(folder).rglob("*") if not _PARTIAL.search(path.name))
        return sorted(str(path) for path in local if path.is_file())
    found = FileSystems.match([FileSystems.join(glob.escape(folder), "**")])[0].metadata_list
    return sorted(entry.path for entry in found)


def sizes_below(folder: str) -> dict[str, int]:
    """Path and bytes of all files that `list_files` finds, by one listing."""
    if is_local(folder):
        return {path: os.stat(path).st_size for path in list_files(folder)}
    found = FileSystems.match([FileSystems.join(glob.escape(folder), "**")])[0].metadata_list
    return {entry.path: entry.size_in_bytes for entry in found}


def list_folders(folder: str) -> list[str]:
    """Names of the folders right below a folder, sorted. S3 and Google Cloud Storage do not list what is in them."""
    if is_local(folder):
        return sorted(path.name for path in Path(folder).glob("*/"))
    if folder.startswith("s3://"):
        return s3.list_folders(FileSystems.get_filesystem(folder), folder)
    if folder.startswith("gs://"):
        return gcs.list_folders(folder)
    return sorted({path[len(folder) :].lstrip("/").split("/")[0] for path in list_files(folder)})


def entries_below(folder: str, below: str) -> list[FileEntry]:
    """Entries, relative to `folder`, of all files in its sub-folder `below`: what a library wrote by itself."""
    found = []
    for path in list_files(join(folder, below)):
        found.append(entry_of(folder, path[len(folder) :].lstrip("/")))
    return found


def seen_from_above(entries: Iterable[FileEntry], below: str) -> list[FileEntry]:
    """Entries of a sub-folder `below` as entries of the folder above."""
    return [replace(entry, name=f"{below}/{entry.name}") for entry in entries]


def entry_of(folder: str, name: str) -> FileEntry:
    """The entry of a file that is there already."""
    path = join(folder, name)
    if is_local(path):
        return _entry(path, name, 0)
    content = read_bytes(path)
    return FileEntry(name=name, rows=0, bytes=len(content), digest=xxhash.xxh3_128_hexdigest(content))


def remove_files(paths: Iterable[str]) -> None:
    """Remove files; those that are gone already do not matter."""
    doomed = [path for path in paths if FileSystems.exists(path)]
    local = [Path(path) for path in doomed if is_local(path)]
    for path in local:
        path.unlink(missing_ok=True)
    for folder in sorted({path.parent for path in local}, reverse=True):
        with contextlib.suppress(OSError):  # not empty: other files live there
            folder.rmdir()
    if remote := [_delete_name(path) for path in doomed if not is_local(path)]:
        FileSystems.delete(remote)


def _delete_name(path: str) -> str:
    """What Beam is to be given to delete the object at `path` alone: on GCS it deletes what a pattern matches."""
    return glob.escape(path) if path.startswith("gs://") else path


def remove_partial_files(folder: str) -> None:
    """Remove what processes that are gone left half written by `replace_file` below a local folder."""
    if not is_local(folder):
        return
    for below, _, names in os.walk(folder):
        for name in names:
            found = _PARTIAL.search(name)
            if found and not is_running(int(found["pid"])):
                Path(below, name).unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether this PID namespace has such a process, whoever owns it."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _open(path: str):  # type: ignore[no-untyped-def]  # Beam's file objects have no type
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _create(path: str):  # type: ignore[no-untyped-def]  # Beam's file objects have no type
    return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _entry(local: str, name: str, rows: int) -> FileEntry:
    return FileEntry(name=name, rows=rows, bytes=Path(local).stat().st_size, digest=_digest(local))


def _digest(local: str) -> str:
    digest = xxhash.xxh3_128()
    with open(local, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return str(digest.hexdigest())
