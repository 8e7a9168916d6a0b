"""Google Cloud Storage beyond what Beam's file systems offer, by the client that Beam makes."""

from __future__ import annotations

from typing import Any

from apache_beam.io.filesystems import FileSystems


def blob(path: str) -> Any:
    """The object at `path`, as google-cloud-storage's `Blob`."""
    bucket, _, name = path.removeprefix("gs://").partition("/")
    return _client(path).bucket(bucket).blob(name)


def list_folders(folder: str) -> list[str]:
    """Names of the folders right below a folder; the objects in them are not listed."""
    bucket, _, prefix = f"{folder.rstrip('/')}/".removeprefix("gs://").partition("/")
    found = _client(folder).list_blobs(bucket, prefix=prefix, delimiter="/", fields="prefixes,nextPageToken")
    for _ in found.pages:  # the prefixes are known once all pages were read
        pass
    return sorted(one[len(prefix) :].rstrip("/") for one in found.prefixes)


def _client(path: str) -> Any:
    file_system: Any = FileSystems.get_filesystem(path)
    return file_system._gcsIO().client
