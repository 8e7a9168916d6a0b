"""Conditional writes of small files that several machines share: a write fails if another writer was faster.

    current = conditional_files.read(path)
    succeeded = conditional_files.write(path, content, current.version if current else None)

S3 compares ETags (`If-Match`, `If-None-Match: *`) and Google Cloud Storage generations (`ifGenerationMatch`). On a
local disk the caller must exclude other writers with a lock of the operating system. Other file systems have no
conditional writes: the file is written and read back, which detects most races but not all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xxhash

from transforms.core import files

_NOT_FOUND = 404
_CONFLICTS = (404, 409, 412)  # removed, being written by another client, another version
_NOT_IMPLEMENTED = 501  # an S3-compatible store without conditional writes


@dataclass(frozen=True, kw_only=True)
class Versioned:
    """The content of a file, and a version that no other content of this path has."""

    content: bytes
    version: str


def read(path: str) -> Versioned | None:
    """Return the file's content and version, or None if it does not exist. Raises OSError if it cannot be read."""
    if path.startswith("s3://"):
        return _read_s3(path)
    if path.startswith("gs://"):
        return _read_gcs(path)
    try:
        content = files.read_bytes(path) if files.exists(path) else None
    except FileNotFoundError:  # removed after the check
        return None
    return None if content is None else Versioned(content=content, version=xxhash.xxh3_128_hexdigest(content))


def write(path: str, content: bytes, version: str | None) -> bool:
    """Replace the file if it still has this version, or create it if `version` is None. Return whether this succeeded.

    If it returns False, the file has another version and was not changed. Raises OSError if it cannot be written.
    """
    if path.startswith(("s3://", "gs://")):
        succeeded = (_write_s3 if path.startswith("s3://") else _write_gcs)(path, content, version)
        # If the response was lost, the client repeats the request and conflicts with its own first write.
        return succeeded or _has_content(path, content)
    current = read(path)
    if (current.version if current else None) != version:
        return False
    files.replace_file(path, content)
    return files.is_local(path) or _has_content(path, content)


def _has_content(path: str, content: bytes) -> bool:
    current = read(path)
    return current is not None and current.content == content


def _read_s3(path: str) -> Versioned | None:
    from botocore.exceptions import BotoCoreError, ClientError

    from transforms.core import object_stores  # imports Beam

    try:
        response = object_stores.s3_client(path).get_object(**_bucket_and_key(path))
        return Versioned(content=response["Body"].read(), version=response["ETag"])
    except ClientError as error:
        if _status(error) == _NOT_FOUND:
            return None
        raise OSError(f"{path} cannot be read: {error}") from error
    except BotoCoreError as error:
        raise OSError(f"{path} cannot be read: {error}") from error


def _write_s3(path: str, content: bytes, version: str | None) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    from transforms.core import object_stores  # imports Beam

    client, target = object_stores.s3_client(path), _bucket_and_key(path)
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
    try:
        client.put_object(**target, Body=content, **condition)
    except ClientError as error:
        if _status(error) == _NOT_IMPLEMENTED:
            client.put_object(**target, Body=content)
            return False  # `write` reads the file back
        if _status(error) in _CONFLICTS:
            return False
        raise OSError(f"{path} cannot be written: {error}") from error
    except BotoCoreError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    return True


def _bucket_and_key(path: str) -> dict[str, str]:
    from transforms.core import object_stores

    bucket, key = object_stores.split_path(path)
    return {"Bucket": bucket, "Key": key}


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _read_gcs(path: str) -> Versioned | None:
    from google.api_core.exceptions import GoogleAPICallError, NotFound

    from transforms.core import object_stores  # imports Beam

    blob = object_stores.gcs_blob(path)
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

    from transforms.core import object_stores  # imports Beam

    try:
        object_stores.gcs_blob(path).upload_from_string(content, if_generation_match=_generation(version))
    except (Conflict, NotFound, PreconditionFailed):
        return False
    except GoogleAPICallError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    return True


def _generation(version: str | None) -> int | None:
    """Return the generation that a write requires: 0 if the file must not exist, None if the server has none."""
    if version is None:
        return 0
    return int(version) if version else None
