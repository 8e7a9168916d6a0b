"""A lock file that allows one run at a time on a ROOT. It names its holder, which renews it with a heartbeat.

When another run may take the lock over depends on what is known about the holder:

- if the holder's process can be looked up here (same boot, same PID namespace): as soon as that process has ended;
- otherwise (another machine, another container, an incomplete record): when its last heartbeat is older than the lease.

A run that could not renew its lock, or whose machine was suspended, may have lost the lock to another run. `require`
detects this. Call it before every write that other runs can see.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import xxhash

from transforms.core import conditional_files, files
from transforms.core.conditional_files import Versioned

LEASE_SECONDS = 300.0
HEARTBEAT_SECONDS = 30.0
GUARD_SECONDS = 60.0  # the guard file is held only during one small write
TOKEN_VARIABLE = "WATCHNEXT_LOCK"  # passes the token of the lock from a nightly to its stages ...
PATH_VARIABLE = "WATCHNEXT_LOCK_PATH"  # ... with the path of the lock
_FIRST_NAMESPACE = "pid:[4026531836]"  # the PID namespace outside all containers


class LockError(RuntimeError):
    """Another run holds the lock of the ROOT, or took it over from this run."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The run that a lock file names. Unknown fields are empty or 0."""

    host: str = ""
    machine: str = ""  # digest of the machine id, which survives reboots
    boot: str = ""  # differs after each reboot
    pid_namespace: str = ""
    pid: int = 0
    started: int = 0  # clock ticks from the boot to the start of the process
    token: str = ""
    beat: float = 0.0  # last heartbeat, in seconds since the epoch

    @classmethod
    def this_process(cls, token: str) -> Holder:
        """Return the record of this process."""
        return cls(
            host=socket.gethostname(),
            machine=xxhash.xxh3_64_hexdigest(machine.encode()) if (machine := _read_text("/etc/machine-id")) else "",
            boot=_read_text("/proc/sys/kernel/random/boot_id"),
            pid_namespace=_read_link("/proc/self/ns/pid"),
            pid=os.getpid(),
            # /proc may belong to another PID namespace, where this number is another process
            started=_start_time(os.getpid()) or 0 if _read_link("/proc/self") == str(os.getpid()) else 0,
            token=token,
            beat=time.time(),
        )

    @classmethod
    def from_file(cls, file: Versioned | None) -> Holder | None:
        """Return the holder that a lock file names; None if there is no file, or no record in it."""
        try:
            record = json.loads(file.content) if file else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict):
            return None
        known: dict[str, Any] = {name: record[name] for name in _TEXT_FIELDS if isinstance(record.get(name), str)}
        known |= {name: record[name] for name in _NUMBER_FIELDS if _is_natural(record.get(name))}
        return cls(**known, beat=_valid_beat(record.get("beat")))

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @property
    def age_seconds(self) -> float:
        """Return the time since the last heartbeat."""
        return time.time() - self.beat

    def is_alive(self) -> bool:
        """Return whether the run is still going, as far as this process can tell."""
        here = Holder.this_process("")
        if self.host == here.host and not self.boot and self.pid and not files.is_running(self.pid):
            return False  # a record of an earlier version, without boot id and namespace
        if self.started and here.started and (self.boot, self.pid_namespace) == (here.boot, here.pid_namespace):
            if not files.is_running(self.pid):
                return False
            if (started := _start_time(self.pid)) is not None:
                return started == self.started
        if self._was_before_reboot(here):
            return False
        return self.age_seconds < LEASE_SECONDS

    def _was_before_reboot(self, here: Holder) -> bool:
        """Return whether the holder was a process of this same machine before its last reboot."""
        same_machine = bool(self.machine) and (self.host, self.machine) == (here.host, here.machine)
        # containers are excluded, because those of one image may share a machine id
        no_container = self.pid_namespace == here.pid_namespace == _FIRST_NAMESPACE
        return same_machine and no_container and self.boot != here.boot

    def describe(self, path: str) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.beat))
        process = f"process {self.pid or 'unknown'} on {self.host or 'an unknown host'}"
        return f"{path}: {process} is running on this root (last heartbeat {since})"


_TEXT_FIELDS, _NUMBER_FIELDS = ("host", "machine", "boot", "pid_namespace", "token"), ("pid", "started")


@contextmanager
def hold(path: str) -> Iterator[None]:
    """Hold the lock at `path` within a `with` block. Raises LockError, which names the holder, if another run holds it.

    Does nothing in a stage of the run that already holds the lock. Removes partial files of killed processes first.
    Taking the lock is atomic on local disks, S3 and Google Cloud Storage; elsewhere the file is read back after it is
    written.
    """
    before = {name: os.environ[name] for name in (TOKEN_VARIABLE, PATH_VARIABLE) if name in os.environ}
    if (token := before.get(TOKEN_VARIABLE)) and before.get(PATH_VARIABLE) in (path, None):
        _check(path, token)
        yield
        return
    token = secrets.token_hex(8)
    _take(path, token)
    files.remove_partial_files(files.parent(path))
    os.environ |= {TOKEN_VARIABLE: token, PATH_VARIABLE: path}
    stop = threading.Event()
    heartbeat = threading.Thread(target=_send_heartbeats, args=(path, token, stop), daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stop.set()
        heartbeat.join()
        del os.environ[TOKEN_VARIABLE], os.environ[PATH_VARIABLE]
        os.environ |= before
        with suppress(OSError, LockError):  # a lock that remains is taken over like that of a killed run
            _release(path, token)


def require() -> None:
    """Raise LockError if the run that this process belongs to has lost its lock. Does nothing in a process without one.

    Call it before a write that other runs can see. A lock whose last heartbeat is old is renewed first, so that no
    other run takes it over between this call and the write.
    """
    token, path = os.environ.get(TOKEN_VARIABLE), os.environ.get(PATH_VARIABLE)
    if token and path:
        _check(path, token)


def _check(path: str, token: str) -> None:
    with _exclusive(path):
        holder = Holder.from_file(conditional_files.read(path))
        if holder and holder.token == token and holder.age_seconds < LEASE_SECONDS / 2:
            return
        if not _renew(path, token):
            raise LockError(_lost_message(path, Holder.from_file(conditional_files.read(path))))


def describe_holder(path: str) -> str | None:
    """Return a sentence that names the holder of the lock at `path`, or None if it is free. Changes nothing."""
    holder = Holder.from_file(conditional_files.read(path))
    return holder.describe(path) if holder and holder.is_alive() else None


def _lost_message(path: str, taken_by: Holder | None) -> str:
    reason = "the lock file is gone"
    if taken_by and taken_by.token:
        reason = f"process {taken_by.pid} on {taken_by.host} took it over"
    return (
        f"this run lost the lock {path}: {reason}. It stopped before its next write; run the same command again when "
        "no other run is active"
    )


def _take(path: str, token: str) -> None:
    with _exclusive(path):
        file = conditional_files.read(path)
        holder = Holder.from_file(file)
        if holder and holder.is_alive():
            raise LockError(f"{holder.describe(path)}; wait until it ends, or stop it: its lock is then taken over")
        if not conditional_files.write(path, Holder.this_process(token).to_bytes(), file.version if file else None):
            raise LockError(f"{path}: another run took the lock at the same moment; start again when it has ended")


def _renew(path: str, token: str) -> bool:
    """Write a heartbeat; return False if this run no longer holds the lock. Call it within `_exclusive`."""
    file = conditional_files.read(path)
    holder = Holder.from_file(file)
    if file is None or holder is None or holder.token != token:
        return False
    return conditional_files.write(path, replace(holder, beat=time.time()).to_bytes(), file.version)


def _release(path: str, token: str) -> None:
    with _exclusive(path):
        holder = Holder.from_file(conditional_files.read(path))
        # remote file systems have no exclusion: a full lease ensures that no run takes the lock before its removal
        if holder and holder.token == token and (files.is_local(path) or _renew(path, token)):
            files.remove_files([path])


def _send_heartbeats(path: str, token: str, stop: threading.Event) -> None:
    """Renew the lock until the run ends or has lost it. A failed heartbeat is retried at the next interval; `require`
    detects whether heartbeats failed for too long."""
    while not stop.wait(HEARTBEAT_SECONDS):
        with suppress(Exception), _exclusive(path):
            if not _renew(path, token):
                return


@contextmanager
def _exclusive(path: str) -> Iterator[None]:
    """Let one process at a time change a lock on a local disk. The system releases the guard of a process that dies."""
    if not files.is_local(path):
        yield
        return
    files.make_folder(Path(path).parent)
    guard = f"{path}.guard"
    try:
        acquired = filelock.FileLock(guard, timeout=GUARD_SECONDS).acquire()
    except filelock.Timeout as error:
        raise LockError(f"{guard}: another process has held this file for {GUARD_SECONDS:.0f} s; stop it") from error
    with acquired:
        yield


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63


def _valid_beat(beat: Any) -> float:
    """Return the heartbeat time of a record; 0 if it is not a time, or lies further ahead than the lease."""
    is_number = isinstance(beat, int | float) and not isinstance(beat, bool)
    return float(beat) if is_number and 0 <= beat <= time.time() + LEASE_SECONDS else 0.0


def _start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot; 0 if it has ended, None if it is not known."""
    fields = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name may contain parentheses
    if len(fields) < 20:
        return None
    return 0 if fields[0] in "ZX" else int(fields[19])


def _read_text(path: str) -> str:
    """Return the stripped content of a small system file; empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
