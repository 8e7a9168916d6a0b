"""Clients of S3 are shared among all that go by the same options, and what they remember of a reader is not."""

from __future__ import annotations

import pytest
from apache_beam.io.aws import s3io

from transforms.core import s3

s3.share_clients()


class Options:
    """What Beam hands on; only which object it is counts."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The options that clients were made for."""
    found: list[object] = []

    class Client:
        def __init__(self, options: object) -> None:
            found.append(options)
            self.client = object()

    monkeypatch.setattr(s3, "Client", Client)
    return found


def test_one_client_for_the_same_options(made: list[object]) -> None:
    one, other = Options(), Options()
    ios = [s3io.S3IO(options=one), s3io.S3IO(options=one), s3io.S3IO(options=other)]
    assert made == [one, other]
    assert ios[0].client.client is ios[1].client.client is not ios[2].client.client
    assert ios[0].client is not ios[1].client


def test_a_client_that_is_given_is_taken(made: list[object]) -> None:
    given = object()
    assert s3io.S3IO(client=given).client is given
    assert made == []


def test_without_boto3_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3io, "BOTO3_INSTALLED", False)
    with pytest.raises(OSError, match=r"s3:// paths need boto3: pip install 'watchnext\[aws\]'"):
        s3io.S3IO(options=Options())
