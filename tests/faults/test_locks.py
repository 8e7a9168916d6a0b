"""Whatever a lock file holds, a run takes the root, or names the holder and takes the root when the lease is over."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import Injected
from nights import DATE, night, start_python
from stores import daily, newest

from pipelines.base import lock

VALUES: list[object] = ["", "x", None, 0, -1, 1.5, 1e300, float("nan"), True, [], {}, 2**70, "\x00", "2026-11-21"]
FIELDS = ("host", "machine", "boot", "pid_namespace", "pid", "started", "token", "beat")


def records() -> list[bytes]:
    """Lock files of any content: a record with wrong values, without a field, cut, of another run that just beat."""
    whole = json.loads(lock.Holder.this_process("theirs").to_bytes()) | {"host": "elsewhere", "boot": "another"}
    ours = whole | {"host": socket.gethostname()}
    found: list[Any] = [record | {name: value} for record in (whole, ours) for name in FIELDS for value in VALUES]
    found += [{key: value for key, value in whole.items() if key != name} for name in FIELDS]
    found += [{}, [], 3, None, "x", {"beat": time.time() + 1e9}]
    texts = [json.dumps(one).encode() for one in found]
    return [*texts, b"", b"{", b"\xff\xfe", texts[0][:20], b"[" * 100_000]


def take(path: Path) -> str:
    """Hold the lock once; the message if it is refused."""
    try:
        with lock.hold(str(path)):
            assert json.loads(path.read_text())["pid"] == os.getpid()
    except lock.LockError as error:
        return str(error)
    assert not path.exists()
    return ""


def test_no_lock_file_stops_runs_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, injected: Injected) -> None:
    path, refused = tmp_path / "LOCK", 0
    for content in records():
        path.write_bytes(content)
        if message := take(path):
            refused += 1
            assert str(path) in message and "is running on this root" in message
            assert path.read_bytes() == content
            now = time.time()
            monkeypatch.setattr(time, "time", lambda now=now: now + lock.LEASE_SECONDS + 1)
            assert take(path) == "", content
            monkeypatch.undo()
        injected("lock file")
    assert refused > 10, "no record was of a run that may be at work"


HOLDER = """
import sys
from pipelines.base import lock
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_only_a_killed_holder_is_followed_at_once(tmp_path: Path, injected: Injected, end: signal.Signals) -> None:
    path = tmp_path / "LOCK"
    for _ in range(3):
        with start_python("-c", HOLDER, path) as process:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            process.send_signal(end)
            if end != signal.SIGSTOP:
                process.wait()
            message = take(path)
            assert (f"process {process.pid} " in message) == (end == signal.SIGSTOP)
            injected(end.name)
    assert take(path) == ""


def losing(at: int, path: str, calls: list[int]) -> Callable[[], None]:
    """`lock.require`, before whose call number `at` another run takes the lock over."""
    require = lock.require

    def lost() -> None:
        if calls[0] == at:
            Path(path).write_bytes(lock.Holder.this_process("another run's").to_bytes())
        calls[0] += 1
        require()

    return lost


def test_a_run_whose_lock_is_lost_at_any_moment_changes_nothing_more(tmp_path: Path, injected: Injected) -> None:
    """Another run takes the lock over before each of the commits of an ingest."""
    for at in itertools.count():
        job, calls = daily(tmp_path / str(at)), [0]
        of = night(job)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lock, "require", losing(at, of.root.lock, calls))
            code = _ingest(job)
        if calls[0] <= at:
            break
        injected("lost lock")
        assert code == 1
        Path(of.root.lock).unlink()
        assert _ingest(job) == 0 and newest(of).rows("watches") > 0
    assert at >= 2, "an ingest commits at least its snapshot and its manifest"


def _ingest(job: Path) -> int:
    from pipelines import ingest
    from pipelines.night.stage import stage_main

    return stage_main(ingest, [str(job), "--date", DATE.isoformat()])


def test_two_runs_at_once_are_one_run_and_a_refusal(tmp_path: Path, injected: Injected) -> None:
    for number in range(2):
        job = daily(tmp_path / str(number))
        with contextlib.ExitStack() as stack:
            started = [start_python("-m", "pipelines.ingest", job, "--date", DATE) for _ in range(2)]
            runs = [stack.enter_context(one) for one in started]
            messages = [run.communicate()[1] for run in runs]
        codes = sorted(run.returncode for run in runs)
        assert codes in ([0, 0], [0, 1]), messages
        assert codes == [0, 0] or any("is running on this root" in message for message in messages)
        assert newest(night(job)).rows("watches") > 0
        injected("second run")
