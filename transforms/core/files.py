"""Read and write files on any Beam file system, atomically, with rows, size and digest for the manifests.

Data files get names that no earlier attempt used, and become visible when a manifest lists them. They are never
renamed. Small files with fixed names (`replace_file`) are replaced atomically.

Paths are never patterns: `[`, `?` and `*` in the name of a folder or file are literal.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import glob
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import xxhash

from transforms.core.beam_files import CompressionTypes, FileSystems
from transforms.core.beam_files import is_local as is_local

if TYPE_CHECKING:
    from apache_beam.io.filesystem import FileMetadata

_SYNC_THREADS = 8  # disks process several requests in parallel
_PARTIAL = re.compile(r"\.(?P<pid>\d+)\.tmp$")  # files that `replace_file` has not finished


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file as a manifest lists it."""

    name: str  # relative to the folder that the manifest describes
    rows: int
    bytes: int
    digest: str  # XXH3-128 of the content


class DamagedFileError(RuntimeError):
    """A file is missing, or its content is not what was written. The message says how to restore it."""


_COMPARED_DIGITS = 8  # hexadecimal digits of a digest


class VerifiedPath(str):
    """A path with the digest of its file's content, which `read_parquet` and `read_parquets` verify.

    repair: how to restore a damaged file, for the error message; `{folder}` is replaced with the name of the file's
    folder. Pickling keeps digest and repair, Beam's string coder drops them. Only the first 32 bits of the digest are
    stored, because a job's graph contains hundreds of thousands of paths.
    """

    __slots__ = ("digest", "repair")
    digest: str
    repair: str

    def __new__(cls, path: str, digest: str, repair: str) -> VerifiedPath:
        verified = super().__new__(cls, path)
        verified.digest, verified.repair = digest[:_COMPARED_DIGITS], repair
        return verified

    def __reduce__(self) -> tuple[type[VerifiedPath], tuple[str, str, str]]:
        return VerifiedPath, (str(self), self.digest, self.repair)

    def error(self, problem: str) -> DamagedFileError:
        """Return an error that names the file, the problem ("is missing") and the repair."""
        return DamagedFileError(f"{self} {problem}: {self.repair.replace('{folder}', self.rsplit('/', 2)[-2])}")

    def check(self, digest: str) -> None:
        """Raise DamagedFileError if the file's digest differs from the one that was recorded."""
        if not digest.startswith(self.digest):
            raise self.error("is damaged (its digest differs from the recorded one)")


PackedPaths = tuple[tuple[str, ...], bytes, str]  # paths, their concatenated digests, their common repair


def pack_paths(paths: Sequence[str]) -> PackedPaths:
    """Pack paths for a small pickle. `VerifiedPath`s keep their digests and must have the same repair."""
    verified = [path for path in paths if isinstance(path, VerifiedPath)]
    if not verified or len(verified) < len(paths):
        return tuple(paths), b"", ""
    return tuple(map(str, paths)), bytes.fromhex("".join(path.digest for path in verified)), verified[0].repair


def unpack_paths(packed: PackedPaths) -> tuple[str, ...]:
    """Return the paths that `pack_paths` packed."""
    paths, digests, repair = packed
    if not digests:
        return paths
    size = len(digests) // len(paths)
    parts = (digests[start : start + size].hex() for start in range(0, len(digests), size))
    return tuple(VerifiedPath(path, digest, repair) for path, digest in zip(paths, parts, strict=True))


def join(folder: str, *names: str) -> str:
    """Join a folder of any file system and names below it. A name may begin with one or more `../`."""
    path = folder
    for name in names:
        while name.startswith("../"):
            path, name = parent(path), name[3:]
        path = os.path.join(path, name) if is_local(path) else FileSystems.join(path, name)
    return path


def parent(path: str) -> str:
    """Return the folder that contains a file or folder."""
    if is_local(path):
        return os.path.split(os.path.abspath(path.rstrip("/")))[0]
    return str(FileSystems.split(path.rstrip("/"))[0])


def write_file(folder: str, name: str, rows: int, write: Callable[[str], object]) -> FileEntry:
    """Create `folder/name` from the file that `write(local_path)` writes, and return its manifest entry.

    Call `sync` before a manifest lists the file, so that a power failure cannot lose it.
    """
    path = join(folder, name)
    if is_local(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(path)
        return _local_entry(path, name, rows)
    with tempfile.TemporaryDirectory() as scratch:
        local = str(Path(scratch) / Path(name).name)
        write(local)
        return _upload(local, path, name, rows)


def _upload(local: str, path: str, name: str, rows: int) -> FileEntry:
    """Copy a local file to `path` and return its entry, with the digest of the bytes sent."""
    digest, size = xxhash.xxh3_128(), 0
    with open(local, "rb") as source, _create(path) as target:
        while block := source.read(1 << 20):
            digest.update(block)
            size += len(block)
            target.write(block)
    return FileEntry(name=name, rows=rows, bytes=size, digest=digest.hexdigest())


def write_parquet(frame: pl.DataFrame, folder: str, name: str) -> FileEntry:
    """Write a frame as `folder/name` and return its manifest entry. The same frame always gives the same bytes.

    The zstd level is 1: compared with the default of 3, files are at most 1 % larger and written 20 % faster.
    """

    def write(path: str) -> None:
        try:
            frame.write_parquet(path, compression="zstd", compression_level=1)
        except pl.exceptions.ComputeError as error:  # polars raises this if the disk is full
            raise OSError(f"{path} cannot be written: {error}") from error

    return write_file(folder, name, frame.height, write)


def replace_parquet(frame: pl.DataFrame, folder: str, name: str) -> FileEntry:
    """Replace `folder/name` atomically with a frame, and return its manifest entry."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    return write_bytes(folder, name, frame.height, content.getvalue())


def write_bytes(folder: str, name: str, rows: int, content: bytes) -> FileEntry:
    """Replace `folder/name` atomically with `content`, and return its manifest entry."""
    replace_file(join(folder, name), content)
    return FileEntry(name=name, rows=rows, bytes=len(content), digest=xxhash.xxh3_128_hexdigest(content))


def read_parquet(path: str, columns: list[str] | None = None) -> pl.DataFrame:
    """Return all columns of a Parquet file, or some.

    Raises DamagedFileError if the file is not complete Parquet, or if it does not match the digest of a `VerifiedPath`.
    """
    if is_local(path):
        _verify_local(path)
        with _damage_reported([path]):
            return pl.read_parquet(str(path), columns=columns, glob=False, hive_partitioning=False)
    content = _read_verified(path)
    with _damage_reported([path]):
        return pl.read_parquet(content, columns=columns)


def find_in_parquet(path: str, key: str, value: str, columns: list[str]) -> pl.DataFrame:
    """Return some columns of the rows of a Parquet file whose column `key` has a value, in the order of the file.

    Decodes the key of all rows, and the other columns of these rows only, which takes a quarter of the time of reading
    the whole file if its other columns are large.

    Raises DamagedFileError if the file is not complete Parquet.
    """
    if is_local(path):
        _verify_local(path)
    source = str(path) if is_local(path) else io.BytesIO(_read_verified(path))
    wanted = list(dict.fromkeys([key, *columns]))
    with _damage_reported([path]):
        scan = pl.scan_parquet(source, glob=False, hive_partitioning=False)
        rows = (scan.select(key).collect()[key] == value).arg_true()
        found = [scan.select(wanted).slice(row, 1).collect() for row in rows]
    if any(one[key].to_list() != [value] for one in found):  # the file was replaced between the two reads
        return read_parquet(path, wanted).filter(pl.col(key) == value).select(columns)
    return pl.concat(found).select(columns) if found else scan.select(columns).clear().collect()


@contextlib.contextmanager
def _damage_reported(paths: Sequence[str]) -> Iterator[None]:
    """Raise DamagedFileError instead of polars' errors for incomplete Parquet content."""
    try:
        yield
    except (pl.exceptions.ComputeError, pl.exceptions.PanicException) as error:
        subject = f"{paths[0]} is" if len(paths) == 1 else f"{paths[0]} or one of {len(paths) - 1:,} more files is"
        reason = str(error).strip().splitlines()
        raise DamagedFileError(
            f"{subject} not a complete Parquet file ({reason[0] if reason else type(error).__name__}): "
            "watchnext doctor JOB.toml --deep names the command that restores it"
        ) from error


def read_parquets(
    paths: Sequence[str], columns: list[str], schema: pl.Schema | None = None, where: pl.Expr | None = None
) -> pl.DataFrame:
    """Return some columns of several Parquet files, concatenated. Local files are read in parallel.

    schema: the types of the columns. If it is given, a column that a file does not have is null. where: a condition on
    the rows; of local files, only parts that may have such rows are decoded.

    Raises DamagedFileError if a file is not complete Parquet, or if it does not match the digest of a `VerifiedPath`.
    """
    if all(is_local(path) for path in paths):
        for path in paths:
            _verify_local(path)
        # Files of the store from earlier versions have fewer columns than later files.
        scan = pl.scan_parquet(
            [str(path) for path in paths],
            glob=False,
            hive_partitioning=False,
            schema=schema,
            extra_columns="ignore",
            missing_columns="insert" if schema else "raise",
        )
        with _damage_reported(paths):
            return (scan if where is None else scan.filter(where)).select(columns).collect()
    if schema is None:
        frames = (read_parquet(path, columns) for path in paths)
    else:
        wanted = pl.Schema({name: schema[name] for name in columns})
        frames = (
            read_parquet(path).match_to_schema(wanted, missing_columns="insert", extra_columns="ignore")
            for path in paths
        )
    return pl.concat(frame if where is None else frame.filter(where) for frame in frames)


def _verify_local(path: str) -> None:
    """Check the digest of a local `VerifiedPath`, which takes a few percent of the time that reading Parquet takes."""
    if isinstance(path, VerifiedPath):
        try:
            path.check(_digest(path))
        except FileNotFoundError:
            raise path.error("is missing") from None


def _read_verified(path: str) -> bytes:
    if not isinstance(path, VerifiedPath):
        return read_bytes(path)
    if not exists(path):
        raise path.error("is missing")
    content = read_bytes(path)
    path.check(xxhash.xxh3_128_hexdigest(content))
    return content


def read_bytes(path: str) -> bytes:
    """Return the content of a file."""
    with _open(path) as source:
        return bytes(source.read())


def upload(local: Path, folder: str, name: str) -> FileEntry:
    """Copy a local file to `folder/name` and return its entry. The file is read once and not read back."""
    path = join(folder, name)
    if not is_local(path):
        return _upload(str(local), path, name, 0)
    return write_file(folder, name, 0, lambda path: shutil.copyfile(local, path))


def upload_all(local: Path, folder: str) -> list[FileEntry]:
    """Copy all files below a local folder to the same relative paths below `folder`, and return their entries."""
    paths = sorted(path for path in local.rglob("*") if path.is_file())
    return [upload(path, folder, path.relative_to(local).as_posix()) for path in paths]


def local_copy(path: str) -> str:
    """Return a local path of a file or folder that contains no pattern characters.

    This is the path itself, a symbolic link to it, or a copy of a remote file. Links and copies are removed when the
    process exits.
    """
    if is_local(path) and not glob.has_magic(path):
        return path
    scratch = Path(tempfile.mkdtemp(prefix="watchnext-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    if not is_local(path):
        return _copy(path, scratch)
    link = scratch / "link"  # TensorFlow finds the files of models and checkpoints by pattern
    link.symlink_to(Path(path).absolute())
    return str(link)


@contextlib.contextmanager
def temporary_local_copy(path: str) -> Iterator[str]:
    """Provide a local copy of a remote file within the block, for many files that are read once."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="watchnext-") as scratch:
        yield _copy(path, Path(scratch))


def _copy(path: str, scratch: Path) -> str:
    """Copy a remote file or folder into `scratch`, keeping its name, and return the local path."""
    base = scratch / Path(path).name
    download(path, list_files(path) or [path], base)
    return str(base)


def download(folder: str, paths: Iterable[str], target: Path) -> None:
    """Copy remote files below `folder` (or `folder` itself, if it is a file) to the same paths below local `target`."""
    for path in paths:
        local = target / path[len(folder) :].lstrip("/")
        local.parent.mkdir(parents=True, exist_ok=True)
        with _open(path) as source, open(local, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)


def rewrite_text(path: str, change: Callable[[str], str]) -> None:
    """Replace a text file with its changed content, if it exists and the change changes anything."""
    if exists(path):
        text = read_bytes(path).decode()
        if (changed := change(text)) != text:
            replace_file(path, changed.encode())


def replace_file(path: str, content: bytes) -> None:
    """Replace a file atomically: readers find the complete old or new content, even after a power failure."""
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
    _sync_folder(Path(path).parent)  # without it, a power failure may restore the old content


def sync(paths: Iterable[str], top: str) -> None:
    """Flush local files, and the folders from them up to `top`, to disk, so that a power failure does not lose them.

    Call it once, before the file that lists them is written: the system has written most data by then, and an fsync
    right after each file takes at least a millisecond per file. Missing files are skipped.
    """
    if not is_local(top):
        return
    local = [Path(path) for path in paths]
    folders = {folder for path in local for folder in path.parents if folder.is_relative_to(top)}
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(_sync_file, local))
        list(pool.map(_sync_folder, folders))


def _sync_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, PermissionError):  # the user may have no access to folders above the job's
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system cannot fsync folders
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and flush them to disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def exists(path: str) -> bool:
    """Return whether a file or folder exists."""
    return os.path.exists(path) if is_local(path) else bool(FileSystems.exists(path))


def list_files(folder: str) -> list[str]:
    """Return the paths of all files below a folder, sorted; empty if the folder does not exist.

    Unfinished files of a running or killed `replace_file` are omitted.
    """
    if is_local(folder):
        local = (path for path in Path(folder).rglob("*") if not _PARTIAL.search(path.name))
        return sorted(str(path) for path in local if path.is_file())
    return sorted(entry.path for entry in _list_metadata(folder))


def list_sizes(folder: str) -> dict[str, int]:
    """Return the size in bytes of each file that `list_files` lists, by path. It lists the folder once."""
    if is_local(folder):
        return {path: os.stat(path).st_size for path in list_files(folder)}
    return {entry.path: entry.size_in_bytes for entry in _list_metadata(folder)}


def _list_metadata(folder: str) -> list[FileMetadata]:
    metadata: list[FileMetadata] = FileSystems.match([FileSystems.join(glob.escape(folder), "**")])[0].metadata_list
    return metadata


def list_folders(folder: str) -> list[str]:
    """Return the names of the folders directly below a folder, sorted. On S3 and GCS their content is not listed."""
    if is_local(folder):
        return sorted(path.name for path in Path(folder).glob("*/"))
    from transforms.core import object_stores  # imports Beam

    if folder.startswith("s3://"):
        return object_stores.list_s3_folders(folder)
    if folder.startswith("gs://"):
        return object_stores.list_gcs_folders(folder)
    return sorted({path[len(folder) :].lstrip("/").split("/")[0] for path in list_files(folder)})


def list_entries(folder: str, subfolder: str) -> list[FileEntry]:
    """Return entries, relative to `folder`, of all files in a sub-folder that a library wrote."""
    return [file_entry(folder, path[len(folder) :].lstrip("/")) for path in list_files(join(folder, subfolder))]


def prefix_entries(entries: Iterable[FileEntry], subfolder: str) -> list[FileEntry]:
    """Return entries of a sub-folder as entries of its parent."""
    return [replace(entry, name=f"{subfolder}/{entry.name}") for entry in entries]


def file_entry(folder: str, name: str) -> FileEntry:
    """Return the entry of an existing file, with 0 rows."""
    path = join(folder, name)
    if is_local(path):
        return _local_entry(path, name, 0)
    content = read_bytes(path)
    return FileEntry(name=name, rows=0, bytes=len(content), digest=xxhash.xxh3_128_hexdigest(content))


def remove_files(paths: Iterable[str]) -> None:
    """Remove files, and local folders that become empty. Missing files are ignored."""
    existing = [path for path in paths if exists(path)]
    local = [Path(path) for path in existing if is_local(path)]
    for path in local:
        path.unlink(missing_ok=True)
    for folder in sorted({path.parent for path in local}, reverse=True):
        with contextlib.suppress(OSError):  # the folder is not empty
            folder.rmdir()
    if remote := [_delete_pattern(path) for path in existing if not is_local(path)]:
        FileSystems.delete(remote)


def _delete_pattern(path: str) -> str:
    """Return the argument with which Beam deletes only the object at `path`: on GCS, Beam takes it as a pattern."""
    return glob.escape(path) if path.startswith("gs://") else path


def remove_partial_files(folder: str) -> None:
    """Remove unfinished files that `replace_file` of terminated processes left below a local folder."""
    if not is_local(folder):
        return
    for parent_folder, _, names in os.walk(folder):
        for name in names:
            partial = _PARTIAL.search(name)
            if partial and not is_running(int(partial["pid"])):
                Path(parent_folder, name).unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Return whether this PID namespace has a process with this id, of any user."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _open(path: str):  # type: ignore[no-untyped-def]  # Beam's file objects have no type
    if is_local(path):
        return open(path, "rb")
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _create(path: str):  # type: ignore[no-untyped-def]  # Beam's file objects have no type
    return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _local_entry(local: str, name: str, rows: int) -> FileEntry:
    return FileEntry(name=name, rows=rows, bytes=Path(local).stat().st_size, digest=_digest(local))


def _digest(local: str) -> str:
    with open(local, "rb") as source:
        return str(hashlib.file_digest(source, xxhash.xxh3_128).hexdigest())
