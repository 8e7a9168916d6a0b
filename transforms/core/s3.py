"""One S3 client for all files that go by the same options, where Beam makes one for each operation.

That takes 60 ms of processor time, more than most files of a store take to write.
"""

from __future__ import annotations

import copy
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from apache_beam.io.aws import s3io
from apache_beam.io.aws.clients.s3.boto3_client import Client

_Io = s3io.S3IO
_LOCK = Lock()
_CLIENTS: WeakKeyDictionary[Any, Client] = WeakKeyDictionary()


def share_clients() -> None:
    """From here on Beam's S3 file system takes the client that was made for the same options object."""
    s3io.S3IO = _shared_io


def _shared_io(client: Any = None, options: Any = None) -> Any:
    return _Io(client or _client(options))


def client_of(file_system: Any) -> Client:
    """Beam's client for the files of an S3 file system; its `client` is boto3's."""
    return _client(file_system._options)


def list_folders(file_system: Any, folder: str) -> list[str]:
    """Names of the folders right below a folder; the objects in them are not listed."""
    bucket, _, prefix = f"{folder.rstrip('/')}/".removeprefix("s3://").partition("/")
    pages = client_of(file_system).client.get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    names = (one["Prefix"] for page in found for one in page.get("CommonPrefixes", ()))
    return sorted(name[len(prefix) :].rstrip("/") for name in names)


def _client(options: Any) -> Client:
    """Beam's wrapper remembers what it reads, so each gets its own around the one client, which threads may share."""
    if not s3io.BOTO3_INSTALLED:
        raise OSError("s3:// paths need boto3: pip install 'watchnext[aws]'")
    with _LOCK:
        if options not in _CLIENTS:
            _CLIENTS[options] = Client(options)
        return copy.copy(_CLIENTS[options])
