"""S3 clients are shared between operations with the same options; the state of Beam's wrapper is not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from apache_beam.io.aws import s3io

from transforms.core import object_stores

object_stores.share_s3_clients()


class Options:
    """Pipeline options; clients are cached by object identity."""


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The options of all clients that were created."""
    created: list[object] = []

    class Client:
        def __init__(self, options: object) -> None:
            created.append(options)
            self.client = object()

    monkeypatch.setattr(object_stores, "Client", Client)
    return created


def test_same_options_share_one_client(created: list[object]) -> None:
    one, other = Options(), Options()
    ios = [s3io.S3IO(options=one), s3io.S3IO(options=one), s3io.S3IO(options=other)]
    assert created == [one, other]
    assert ios[0].client.client is ios[1].client.client is not ios[2].client.client
    assert ios[0].client is not ios[1].client


def test_explicit_client_is_used(created: list[object]) -> None:
    client = object()
    assert s3io.S3IO(client=client).client is client
    assert created == []


def test_missing_boto3_is_an_error_with_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3io, "BOTO3_INSTALLED", False)
    with pytest.raises(OSError, match=r"pip install 'watchnext\[aws\]'"):
        s3io.S3IO(options=Options())


@pytest.mark.parametrize("path", ["s3://bucket/a/b.txt", "gs://bucket/a/b.txt"])
def test_path_is_split_into_bucket_and_name(path: str) -> None:
    assert object_stores.split_path(path) == ("bucket", "a/b.txt")


def test_files_are_imported_without_boto3_and_google_libraries() -> None:
    program = (
        "import sys\n"
        "sys.modules.update({name: None for name in ('boto3', 'botocore', 'google.cloud', 'google.api_core')})\n"
        "from transforms.core import conditional_files, files\n"
        "print(files.exists('/'))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
