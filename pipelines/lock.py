"""One run at a time on a ROOT: a lock file that names its holder and is kept warm by a heartbeat."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transforms import files

LEASE_SECONDS = 300.0
HEARTBEAT_SECONDS = 30.0
TOKEN_VARIABLE = "WATCHNEXT_LOCK"  # tells the stages a nightly starts that theirs is the run that holds the lock


class LockError(RuntimeError):
    """Another run holds the ROOT."""


@contextmanager
def held(path: str) -> Iterator[None]:
    """Hold the lock at `path`; LockError names the holder where another run does.

    A lock left by a dead process of this host is taken over at once, one of another host when its last heartbeat is
    older than the lease. On local disks taking is atomic; object stores offer no such thing, so there the lock is read
    back.
    """
    if (token := os.environ.get(TOKEN_VARIABLE)) and _read(path).get("token") == token:
        yield
        return
    token = secrets.token_hex(8)
    _take(path, token)
    os.environ[TOKEN_VARIABLE] = token
    stop = threading.Event()
    beat = threading.Thread(target=_keep_warm, args=(path, token, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        os.environ.pop(TOKEN_VARIABLE, None)
        with _alone(path):
            if _read(path).get("token") == token:
                files.remove_files([path])


def holder(path: str) -> str | None:
    """Who holds the lock at `path`, in words; None where nobody does. Looks and takes nothing."""
    found = _read(path)
    return _words(path, found) if found and _alive(found) else None


def _words(path: str, found: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.get("beat", 0)))
    who = f"process {found.get('pid')} on {found.get('host')}"
    return f"{path}: {who} is at work on this root (last sign of life {since})"


def _take(path: str, token: str) -> None:
    with _alone(path):
        if taken := holder(path):
            raise LockError(f"{taken}; wait for it, or stop it: its lock is then taken over")
        files.replace_file(path, _content(token))
    if _read(path).get("token") != token:
        raise LockError(f"{path}: another run took the root at the same moment; start again when it is done")


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """On local disks, one process at a time looks at a lock and changes it; the system lets go for one that dies."""
    if not files.is_local(path):
        yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.guard", "a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _content(token: str) -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": token, "beat": time.time()}).encode()


def _read(path: str) -> dict[str, Any]:
    try:
        return dict(json.loads(files.read_bytes(path))) if files.exists(path) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _alive(holder: dict[str, Any]) -> bool:
    if holder.get("host") == socket.gethostname():
        try:
            os.kill(int(holder["pid"]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
    return time.time() - float(holder.get("beat", 0)) < LEASE_SECONDS


def _keep_warm(path: str, token: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with _alone(path):
            if _read(path).get("token") == token:
                files.replace_file(path, _content(token))
