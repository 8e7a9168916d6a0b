"""One run at a time on a ROOT: a lock file that names its holder, whose heartbeat renews it until the run ends.

When a lock is taken over depends on what can be known about its holder:

- if its process can be looked up here (same boot, same PID namespace): as soon as that process is gone, and not before;
- otherwise (another machine, a container, a record that says too little): when its last heartbeat is older than the
  lease.

A run that could not renew its lock, or whose machine was suspended, may have lost it to another run. `require` finds
out, and is called before every write that changes what other runs see.
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
GUARD_SECONDS = 60.0  # it is held for the time of one small write
TOKEN_VARIABLE = "WATCHNEXT_LOCK"  # tells the stages a nightly starts that theirs is the run that holds the lock ...
PATH_VARIABLE = "WATCHNEXT_LOCK_PATH"  # ... at this path
_FIRST_NAMESPACE = "pid:[4026531836]"  # of a machine's own processes, those of no container


class LockError(RuntimeError):
    """Another run holds the ROOT, or took it over from this one."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A run as its lock file names it; what is not known is empty or 0."""

    host: str = ""
    machine: str = ""  # digest of what stays the same over reboots
    boot: str = ""  # differs after each reboot
    pid_namespace: str = ""
    pid: int = 0
    started: int = 0  # clock ticks from the boot to the start of the process
    token: str = ""
    beat: float = 0.0  # seconds since the epoch, of the last sign of life

    @classmethod
    def here(cls, token: str) -> Holder:
        """This process."""
        return cls(
            host=socket.gethostname(),
            machine=xxhash.xxh3_64_hexdigest(machine.encode()) if (machine := _text("/etc/machine-id")) else "",
            boot=_text("/proc/sys/kernel/random/boot_id"),
            pid_namespace=_link("/proc/self/ns/pid"),
            pid=os.getpid(),
            # /proc may be another PID namespace's, where this number is another process
            started=_start_of(os.getpid()) or 0 if _link("/proc/self") == str(os.getpid()) else 0,
            token=token,
            beat=time.time(),
        )

    @classmethod
    def of(cls, found: Versioned | None) -> Holder | None:
        """The holder that a lock file names; None without one, or if the file holds no record at all."""
        try:
            record = json.loads(found.content) if found else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict):
            return None
        known: dict[str, Any] = {name: record[name] for name in _WORDS if isinstance(record.get(name), str)}
        known |= {name: record[name] for name in _NUMBERS if _is_natural(record.get(name))}
        return cls(**known, beat=_credible(record.get("beat")))

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @property
    def age_seconds(self) -> float:
        """The time since the last sign of life."""
        return time.time() - self.beat

    def is_alive(self) -> bool:
        """Whether the run goes on, as far as can be known from here."""
        here = Holder.here("")
        if self.host == here.host and not self.boot and self.pid and not files.is_running(self.pid):
            return False  # a record of an earlier version, which names no boot and no namespace
        if self.started and here.started and (self.boot, self.pid_namespace) == (here.boot, here.pid_namespace):
            if not files.is_running(self.pid):
                return False
            if (started := _start_of(self.pid)) is not None:
                return started == self.started
        if self._was_before_reboot(here):
            return False
        return self.age_seconds < LEASE_SECONDS

    def _was_before_reboot(self, here: Holder) -> bool:
        """Whether it was a process of this very machine, which has been started anew since."""
        same = bool(self.machine) and (self.host, self.machine) == (here.host, here.machine)
        outside = self.pid_namespace == here.pid_namespace == _FIRST_NAMESPACE  # an image may bring its machine's id
        return same and outside and self.boot != here.boot

    def describe(self, path: str) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.beat))
        who = f"process {self.pid or 'unknown'} on {self.host or 'an unknown host'}"
        return f"{path}: {who} is at work on this root (last sign of life {since})"


_WORDS, _NUMBERS = ("host", "machine", "boot", "pid_namespace", "token"), ("pid", "started")


@contextmanager
def hold(path: str) -> Iterator[None]:
    """Hold the lock at `path`; LockError names the holder if another run does.

    Stages of the run that holds it pass through. Files that killed processes left half written are removed first. On
    local disks, S3 and Google Cloud Storage taking the lock is atomic; elsewhere it is read back.
    """
    before = {name: os.environ.get(name) for name in (TOKEN_VARIABLE, PATH_VARIABLE)}
    if (token := before[TOKEN_VARIABLE]) and before[PATH_VARIABLE] in (path, None):
        _check(path, token)
        yield
        return
    token = secrets.token_hex(8)
    _take(path, token)
    files.remove_partial_files(files.parent(path))
    os.environ.update({TOKEN_VARIABLE: token, PATH_VARIABLE: path})
    stop = threading.Event()
    beat = threading.Thread(target=_keep_warm, args=(path, token, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        for name, value in before.items():
            _set_variable(name, value)
        with suppress(OSError, LockError):  # a lock that stays is taken over as one of a run that was killed
            _release(path, token)


def require() -> None:
    """Raise LockError if the run that this process belongs to has lost its lock; nothing in a process without one.

    Called before a write that other runs see. A lock that nobody renewed for long is renewed, so that no other run
    takes it between this and the write.
    """
    token, path = os.environ.get(TOKEN_VARIABLE), os.environ.get(PATH_VARIABLE)
    if token and path:
        _check(path, token)


def _check(path: str, token: str) -> None:
    with _alone(path):
        holder = Holder.of(conditional_files.read(path))
        if holder and holder.token == token and holder.age_seconds < LEASE_SECONDS / 2:
            return
        if not _renew(path, token):
            raise LockError(_lost(path, Holder.of(conditional_files.read(path))))


def describe_holder(path: str) -> str | None:
    """Who holds the lock at `path`, in words; None if nobody does. Changes nothing."""
    found = Holder.of(conditional_files.read(path))
    return found.describe(path) if found and found.is_alive() else None


def _lost(path: str, taken_by: Holder | None) -> str:
    why = "its file is gone"
    if taken_by and taken_by.token:
        why = f"process {taken_by.pid} on {taken_by.host} took it over"
    return (
        f"this run lost the lock {path}: {why}. It was stopped before it wrote again; run the same command again when "
        "no other run is at work"
    )


def _take(path: str, token: str) -> None:
    with _alone(path):
        found = conditional_files.read(path)
        taken = Holder.of(found)
        if taken and taken.is_alive():
            raise LockError(f"{taken.describe(path)}; wait for it, or stop it: its lock is then taken over")
        if not conditional_files.write(path, Holder.here(token).to_bytes(), found.version if found else None):
            raise LockError(f"{path}: another run took the root at the same moment; start again when it is done")


def _renew(path: str, token: str) -> bool:
    """Show life; False if the lock is not this run's any more. The caller is alone."""
    found = conditional_files.read(path)
    holder = Holder.of(found)
    if found is None or holder is None or holder.token != token:
        return False
    return conditional_files.write(path, replace(holder, beat=time.time()).to_bytes(), found.version)


def _release(path: str, token: str) -> None:
    with _alone(path):
        holder = Holder.of(conditional_files.read(path))
        is_ours = holder is not None and holder.token == token
        # elsewhere nobody is kept away: with a whole lease left, nobody takes the lock before it is removed
        if is_ours and (files.is_local(path) or _renew(path, token)):
            files.remove_files([path])


def _keep_warm(path: str, token: str, stop: threading.Event) -> None:
    """Renew the lock until the run ends or has lost it. Whatever fails is tried again; `require` finds out whether it
    failed for too long."""
    while not stop.wait(HEARTBEAT_SECONDS):
        with suppress(Exception), _alone(path):
            if not _renew(path, token):
                return


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """On local disks, one process at a time looks at a lock and changes it; the system lets go for one that dies."""
    if not files.is_local(path):
        yield
        return
    files.make_folder(Path(path).parent)
    guard = filelock.FileLock(f"{path}.guard", timeout=GUARD_SECONDS)
    try:
        guard.acquire()
    except filelock.Timeout as error:
        raise LockError(f"{path}.guard: another process has held it for {GUARD_SECONDS:.0f} s; stop it") from error
    try:
        yield
    finally:
        guard.release()


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63


def _credible(beat: Any) -> float:
    """A time as it stands in a record; 0 for one that no heartbeat can have written, or only one of a wrong clock."""
    is_number = isinstance(beat, int | float) and not isinstance(beat, bool)
    return float(beat) if is_number and 0 <= beat <= time.time() + LEASE_SECONDS else 0.0


def _start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; 0 for one that has ended, None if it cannot be known."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()  # a process may have parentheses in its name
    if len(fields) < 20:
        return None
    return 0 if fields[0] in "ZX" else int(fields[19])


def _text(path: str) -> str:
    """What a small file of the system says; empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
