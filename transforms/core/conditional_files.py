"""Small files that several machines write: a write counts only if the file is still as the writer read it.

    found = conditional_files.read(path)
    written = conditional_files.write(path, content, found.version if found else None)

S3 compares ETags (`If-Match`, `If-None-Match: *`), Google Cloud Storage generations (`ifGenerationMatch`). On local
disks the caller must keep other writers away, by a lock of the operating system. Other file systems know no conditions:
there the file is written and read back, which finds most races but not all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xxhash
from apache_beam.io.filesystems import FileSystems

from transforms.core import files, gcs, s3

_ABSENT = 404
_CHANGED = (404, 409, 412)  # gone, written by someone else at this moment, another version
_NO_CONDITIONS = 501  # a store with S3's protocol that does not implement conditional writes


@dataclass(frozen=True, kw_only=True)
class Versioned:
    """The content of a file, and what tells it from any other content that the path had or will have."""

    content: bytes
    version: str


def read(path: str) -> Versioned | None:
    """The file with its version; None if it does not exist. Raises OSError if it cannot be read."""
    if path.startswith("s3://"):
        return _read_s3(path)
    if path.startswith("gs://"):
        return _read_gcs(path)
    try:
        content = files.read_bytes(path) if files.exists(path) else None
    except FileNotFoundError:  # removed since
        return None
    return None if content is None else Versioned(content=content, version=xxhash.xxh3_128_hexdigest(content))


def write(path: str, content: bytes, version: str | None) -> bool:
    """Replace the file of this version, or create it if the version is None; whether that succeeded.

    False if the file is of another version by now: then it was not changed. Raises OSError if it cannot be written.
    """
    if path.startswith(("s3://", "gs://")):
        wrote = (_write_s3 if path.startswith("s3://") else _write_gcs)(path, content, version)
        return wrote or _has(path, content)  # a client that repeats a request whose answer was lost finds its own write
    found = read(path)
    if (found.version if found else None) != version:
        return False
    files.replace_file(path, content)
    return files.is_local(path) or _has(path, content)


def _has(path: str, content: bytes) -> bool:
    found = read(path)
    return found is not None and found.content == content


def _read_s3(path: str) -> Versioned | None:
    from botocore.exceptions import BotoCoreError, ClientError

    client, place = _s3(path)
    try:
        found = client.get_object(**place)
        return Versioned(content=found["Body"].read(), version=found["ETag"])
    except ClientError as error:
        if _status(error) == _ABSENT:
            return None
        raise OSError(f"{path} cannot be read: {error}") from error
    except BotoCoreError as error:
        raise OSError(f"{path} cannot be read: {error}") from error


def _write_s3(path: str, content: bytes, version: str | None) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    client, place = _s3(path)
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
    try:
        client.put_object(**place, Body=content, **condition)
    except ClientError as error:
        if _status(error) == _NO_CONDITIONS:
            client.put_object(**place, Body=content)
            return False  # so that it is read back
        if _status(error) in _CHANGED:
            return False
        raise OSError(f"{path} cannot be written: {error}") from error
    except BotoCoreError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    return True


def _s3(path: str) -> tuple[Any, dict[str, str]]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    return s3.client_of(FileSystems.get_filesystem(path)).client, {"Bucket": bucket, "Key": key}


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _read_gcs(path: str) -> Versioned | None:
    from google.api_core.exceptions import GoogleAPICallError, NotFound

    blob = gcs.blob(path)
    try:
        blob.reload()
        content = blob.download_as_bytes(if_generation_match=blob.generation)
    except NotFound:
        return None
    except GoogleAPICallError as error:
        raise OSError(f"{path} cannot be read: {error}") from error
    return Versioned(content=content, version=str(blob.generation or ""))


def _write_gcs(path: str, content: bytes, version: str | None) -> bool:
    from google.api_core.exceptions import Conflict, GoogleAPICallError, NotFound, PreconditionFailed

    try:
        gcs.blob(path).upload_from_string(content, if_generation_match=_generation(version))
    except (Conflict, NotFound, PreconditionFailed):
        return False
    except GoogleAPICallError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    return True


def _generation(version: str | None) -> int | None:
    """The condition of a write: 0 for a file that must not exist, None if the server knows no generations."""
    if version is None:
        return 0
    return int(version) if version else None
