"""Tests of the headers of peers' files."""

from __future__ import annotations

import pytest

from benchmarks.peers import environments
from benchmarks.peers.environments import Peer, all_peers, read_peer


def test_the_grid_is_all_combinations() -> None:
    peer = Peer(name="", title="", dependencies=(), grid={"a": [1, 2], "b": ["x"]})
    assert list(peer.settings()) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


@pytest.mark.parametrize("name", all_peers())
def test_headers_pin_every_version(name: str) -> None:
    peer = read_peer(name)
    assert peer.title and all("==" in dependency for dependency in peer.dependencies)


@pytest.mark.parametrize("name", ["protocol", "no_such_file"])
def test_a_file_without_header_is_no_peer(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not a peer: choose from .*implicit_als"):
        read_peer(name)


def test_the_repository_is_the_folder_above_the_benchmarks() -> None:
    assert (environments.REPOSITORY / "benchmarks" / "peers" / "environments.py").exists()
