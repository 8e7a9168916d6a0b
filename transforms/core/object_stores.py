"""What `files` needs of S3 and Google Cloud Storage and Beam's file systems do not offer.

Beam makes one S3 client for each operation, which takes 60 ms of processor time, more than most files of a store take
to write. `share_s3_clients` makes it use one client for all files with the same pipeline options.

Importing this module needs neither boto3 nor Google's libraries.
"""

from __future__ import annotations

import copy
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from apache_beam.io.aws import s3io
from apache_beam.io.aws.clients.s3.boto3_client import Client
from apache_beam.io.filesystems import FileSystems

_S3IO = s3io.S3IO
_LOCK = Lock()
_CLIENTS: WeakKeyDictionary[Any, Client] = WeakKeyDictionary()


def share_s3_clients() -> None:
    """Make Beam's S3 file system reuse the client of an options object from now on."""
    s3io.S3IO = _shared_s3io


def _shared_s3io(client: Any = None, options: Any = None) -> Any:
    return _S3IO(client or _s3_client(options))


def split_path(path: str) -> tuple[str, str]:
    """Return the bucket and the object's name (S3: key) of an `s3://` or `gs://` path."""
    bucket, _, name = path.partition("://")[2].partition("/")
    return bucket, name


def s3_client(path: str) -> Any:
    """Return the boto3 client that Beam uses for an `s3://` path. Raises OSError if boto3 is not installed."""
    file_system: Any = FileSystems.get_filesystem(path)
    return _s3_client(file_system._options).client


def _s3_client(options: Any) -> Client:
    """Return a copy of Beam's client for these options.

    Beam's client remembers what it reads, so every caller gets a copy. All copies share one boto3 client, which is
    safe to use from several threads.
    """
    if not s3io.BOTO3_INSTALLED:
        raise OSError("s3:// paths need boto3: pip install 'watchnext[aws]'")
    with _LOCK:
        if options not in _CLIENTS:
            _CLIENTS[options] = Client(options)
        return copy.copy(_CLIENTS[options])


def list_s3_folders(folder: str) -> list[str]:
    """Return the names of the folders directly below an `s3://` folder, sorted, without listing their objects."""
    bucket, prefix = split_path(f"{folder.rstrip('/')}/")
    paginator = s3_client(folder).get_paginator("list_objects_v2")
    pages = paginator.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    prefixes = (entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", ()))
    return sorted(name[len(prefix) :].rstrip("/") for name in prefixes)


def gcs_blob(path: str) -> Any:
    """Return the `google.cloud.storage.Blob` of a `gs://` path."""
    bucket, name = split_path(path)
    return _gcs_client(path).bucket(bucket).blob(name)


def list_gcs_folders(folder: str) -> list[str]:
    """Return the names of the folders directly below a `gs://` folder, sorted, without listing their objects."""
    bucket, prefix = split_path(f"{folder.rstrip('/')}/")
    iterator = _gcs_client(folder).list_blobs(bucket, prefix=prefix, delimiter="/", fields="prefixes,nextPageToken")
    for _ in iterator.pages:  # the iterator collects `prefixes` while it reads pages
        pass
    return sorted(name[len(prefix) :].rstrip("/") for name in iterator.prefixes)


def _gcs_client(path: str) -> Any:
    file_system: Any = FileSystems.get_filesystem(path)
    return file_system._gcsIO().client
