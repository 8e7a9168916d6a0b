"""One run at a time on a ROOT: a lock file that names its holder and is kept warm by a heartbeat."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        if _read(path).get("token") == token:
            files.remove_files([path])


def _take(path: str, token: str) -> None:
    holder = _read(path)
    if holder and _alive(holder):
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder.get("beat", 0)))
        raise LockError(
            f"{path}: process {holder.get('pid')} on {holder.get('host')} is at work on this root (last sign of life "
            f"{since}); wait for it, or stop it: its lock is then taken over"
        )
    if not files.is_local(path):
        files.replace_file(path, _content(token))
    elif holder:
        # Two runs may find the same dead holder: only one of them gets to remove its file.
        stale = Path(path).with_name(f"LOCK.{token}")
        with suppress(FileNotFoundError):
            Path(path).rename(stale)
        stale.unlink(missing_ok=True)
    if files.is_local(path):
        _create(path, token)
    if _read(path).get("token") != token:
        raise LockError(f"{path}: another run took the root at the same moment; start again when it is done")


def _create(path: str, token: str) -> None:
    """Make the lock file, whole, where there is none: a hard link fails where the name is taken."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    draft = Path(f"{path}.{token}")
    draft.write_bytes(_content(token))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _content(token: str) -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": token, "beat": time.time()}).encode()


def _read(path: str) -> dict[str, Any]:
    try:
        return dict(json.loads(files.read_bytes(path))) if files.exists(path) else {}
    except (OSError, ValueError):
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
        if _read(path).get("token") == token:
            files.replace_file(path, _content(token))
