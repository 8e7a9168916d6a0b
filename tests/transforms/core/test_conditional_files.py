"""Conditional writes to Google Cloud Storage, with an in-memory client, and to local disks.

The emulator of `test_object_storage` does not support generations. S3 is tested there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from transforms.core import conditional_files, files, object_stores

errors = pytest.importorskip("google.api_core.exceptions", reason="pip install 'watchnext[gcp]'")
PATH = "gs://bucket/LOCK"


@dataclass
class Bucket:
    """A bucket with one object and its generation."""

    content: bytes | None = None
    newest: int = 41
    broken: bool = False  # every request fails


class Blob:
    """The methods of `google.cloud.storage.Blob` that the module uses."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.generation: int | None = None

    def reload(self) -> None:
        self._answer()
        if self.bucket.content is None:
            raise errors.NotFound("no such object")
        self.generation = self.bucket.newest

    def download_as_bytes(self, *, if_generation_match: int) -> bytes | None:
        assert if_generation_match == self.bucket.newest
        return self.bucket.content

    def upload_from_string(self, content: bytes, *, if_generation_match: int | None) -> None:
        self._answer()
        if if_generation_match != (0 if self.bucket.content is None else self.bucket.newest):
            raise errors.PreconditionFailed("another generation")
        self.bucket.content, self.bucket.newest = content, self.bucket.newest + 1

    def _answer(self) -> None:
        if self.bucket.broken:
            raise errors.ServiceUnavailable("try again later")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    fake = Bucket()
    monkeypatch.setattr(object_stores, "gcs_blob", lambda _path: Blob(fake))
    return fake


def test_write_to_google_cloud_storage_requires_the_generation_that_was_read(bucket: Bucket) -> None:
    assert conditional_files.read(PATH) is None
    assert conditional_files.write(PATH, b"mine", None)
    assert not conditional_files.write(PATH, b"theirs", None)
    found = conditional_files.read(PATH)
    assert found is not None and (found.content, found.version) == (b"mine", "42")
    assert conditional_files.write(PATH, b"renewed", found.version)
    assert not conditional_files.write(PATH, b"late", found.version)
    assert bucket.content == b"renewed"
    assert conditional_files.write(PATH, b"renewed", found.version), "the response was lost, but the content is there"


def test_failing_service_raises_os_error(bucket: Bucket) -> None:
    bucket.broken = True
    with pytest.raises(OSError, match="gs://bucket/LOCK cannot be read: 503 try again later"):
        conditional_files.read(PATH)
    with pytest.raises(OSError, match="gs://bucket/LOCK cannot be written: 503 try again later"):
        conditional_files.write(PATH, b"x", None)


def test_version_of_a_local_file_is_a_digest_of_its_content(tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    assert conditional_files.read(path) is None
    assert conditional_files.write(path, b"mine", None) and not conditional_files.write(path, b"theirs", None)
    found = conditional_files.read(path)
    assert found is not None
    assert conditional_files.write(path, b"renewed", found.version)
    assert not conditional_files.write(path, b"late", found.version) and files.read_bytes(path) == b"renewed"
