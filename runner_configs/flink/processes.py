"""Processes of a cluster that outlive the command that starts them.

They are identified by pid and start time, so that only processes started by this module are stopped. The module imports
the standard library only and reads /proc, which exists on Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_LOG_LINES = 20
_END_SECONDS = 15.0


class ClusterError(RuntimeError):
    """The cluster cannot be started. The message names the cause and has the end of the log, if there is one."""


@dataclass(frozen=True)
class Process:
    """A process to start, the loopback ports on which it listens, and a test of whether it is ready."""

    name: str
    command: Callable[[], list[str]]  # called only when the process is started
    ports: tuple[int, ...]
    ready: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """The folder with the pids and logs of started processes."""

    folder: Path

    def pid(self, name: str) -> int | None:
        """Return the pid of a started process, or None if it does not run."""
        try:
            known = json.loads(self._record(name).read_text())
        except FileNotFoundError:
            return None
        pid = int(known["pid"])
        return pid if _start_time(pid) == known["started"] else None

    def log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def start(self, process: Process) -> bool:
        """Start a process unless it runs, and return whether it was started. Raises ClusterError if a port is taken."""
        if self.pid(process.name) is not None:
            return False
        for port in process.ports:
            if holder := holder_of(port):
                raise ClusterError(f"port {port}, which {process.name} needs, is taken by {holder}: stop that first")
        log = self.log(process.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            running = subprocess.Popen(
                process.command(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | process.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        record = self._record(process.name)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"pid": running.pid, "started": _start_time(running.pid)}))
        return True

    def wait(self, process: Process, until: float) -> None:
        """Wait until a process is ready.

        Raises ClusterError with the end of its log if it ends, or at `until`, a value of time.monotonic().
        """
        while not process.ready():
            ended = self.pid(process.name) is None
            if ended or time.monotonic() > until:
                lines = self.log(process.name).read_text(errors="replace").splitlines()[-_LOG_LINES:]
                how = "ended" if ended else "was not ready in time"
                end = "\n".join(lines)
                raise ClusterError(f"{process.name} {how}; the end of {self.log(process.name)}:\n{end}")
            time.sleep(0.2)

    def stop(self, name: str) -> bool:
        """Stop a started process with its children, and return whether it ran."""
        pid = self.pid(name)
        if pid is not None:
            self._signal(pid, signal.SIGTERM)
            until = time.monotonic() + _END_SECONDS
            while self.pid(name) is not None and time.monotonic() < until:
                time.sleep(0.1)
            if self.pid(name) is not None:
                self._signal(pid, signal.SIGKILL)
        self._record(name).unlink(missing_ok=True)
        return pid is not None

    def _signal(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)  # each process leads its own process group

    def _record(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.json"


def _start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it has ended. Pids alone are reused."""
    with contextlib.suppress(OSError):
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if after_name[0] != "Z":
            return int(after_name[19])
    return None


def holder_of(port: int) -> str:
    """Return a description of the process that listens on a local port; "" if none does."""
    inodes = set(_listening(port))
    if not inodes:
        return ""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(open_file) in inodes for open_file in (folder / "fd").iterdir()):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                return f"pid {folder.name} ({b' '.join(words).decode(errors='replace').strip()[:100]})"
    return "a process of another user"


def _listening(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{words[9]}]"
