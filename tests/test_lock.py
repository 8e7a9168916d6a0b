from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from nights import REPOSITORY, environment

from pipelines import lock

# Waits for the starting shot, then tries to hold the lock, and holds what it got until it is told to go on.
RACER = """
import sys
from pipelines import lock
print("ready", flush=True)
sys.stdin.readline()
try:
    with lock.held(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.readline()
except lock.LockError:
    print("refused", flush=True)
"""


def racer(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RACER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=environment(),
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def left_by(path: Path, **holder: Any) -> None:
    """The lock as a run that is gone left it; by default one of this host that just showed life."""
    given = {"host": socket.gethostname(), "pid": dead_process(), "token": "theirs", "beat": time.time()}
    path.write_text(json.dumps(given | holder))


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_lock_is_there_while_it_is_held_and_gone_after(tmp_path: Path) -> None:
    path = tmp_path / "root" / "LOCK"
    with lock.held(str(path)):
        holder = json.loads(path.read_text())
        assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
    assert not path.exists() and lock.TOKEN_VARIABLE not in os.environ


def test_a_lock_is_given_back_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock.held(str(tmp_path / "LOCK")):
        raise KeyError
    assert not (tmp_path / "LOCK").exists()


def test_a_live_holder_is_named(tmp_path: Path) -> None:
    left_by(tmp_path / "LOCK", pid=os.getppid())
    told = f"process {os.getppid()} on {socket.gethostname()} is at work on this root"
    with pytest.raises(lock.LockError, match=told), lock.held(str(tmp_path / "LOCK")):
        pass
    assert json.loads((tmp_path / "LOCK").read_text())["token"] == "theirs"


def test_the_lock_of_a_dead_process_of_this_host_is_taken_over_at_once(tmp_path: Path) -> None:
    left_by(tmp_path / "LOCK")
    with lock.held(str(tmp_path / "LOCK")):
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()


def test_the_lock_of_another_host_is_taken_over_after_the_lease_only(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    left_by(path, host="elsewhere", beat=time.time() - lock.LEASE_SECONDS + 60)
    with pytest.raises(lock.LockError, match="on elsewhere is at work"), lock.held(str(path)):
        pass
    left_by(path, host="elsewhere", beat=time.time() - lock.LEASE_SECONDS - 1)
    with lock.held(str(path)):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "3", "[]"])
def test_a_damaged_lock_does_not_block_the_root_for_ever(tmp_path: Path, content: str) -> None:
    (tmp_path / "LOCK").write_text(content)
    with lock.held(str(tmp_path / "LOCK")):
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()


def test_a_lock_that_another_run_took_over_is_left_to_it(tmp_path: Path) -> None:
    with lock.held(str(tmp_path / "LOCK")):
        left_by(tmp_path / "LOCK")
    assert json.loads((tmp_path / "LOCK").read_text())["token"] == "theirs"


def test_the_heartbeat_keeps_the_lock_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "LOCK"
    with lock.held(str(path)):
        first = json.loads(path.read_text())["beat"]
        until = time.monotonic() + 10
        while json.loads(path.read_text())["beat"] == first:
            assert time.monotonic() < until, "no heartbeat"


def test_the_stages_of_the_run_that_holds_the_lock_pass_through(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    stage = "import sys; from pipelines import lock\nwith lock.held(sys.argv[1]): print('through')"
    command = [sys.executable, "-c", stage, str(path)]
    with lock.held(str(path)):
        before = path.read_text()
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert (done.stdout, done.returncode) == ("through\n", 0), done.stderr
        assert path.read_text() == before
        stranger = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, check=False)
        assert stranger.returncode == 1 and b"LockError" in stranger.stderr


def test_of_runs_that_race_for_a_stale_lock_exactly_one_holds_it(tmp_path: Path) -> None:
    racers = [racer(tmp_path / "LOCK") for _ in range(3)]
    try:
        assert [line_of(process) for process in racers] == ["ready"] * 3
        left_by(tmp_path / "LOCK")
        for process in racers:
            say(process)
        assert sorted(line_of(process) for process in racers) == ["held", "refused", "refused"]
    finally:
        for process in racers:
            process.kill()
            process.communicate()


def test_a_second_run_between_another_s_look_and_its_taking_waits_and_is_refused(tmp_path: Path) -> None:
    """The race itself, drawn out: while one run is judging the stale lock, the other cannot take it."""
    path = tmp_path / "LOCK"
    left_by(path)
    other = racer(path)
    try:
        assert line_of(other) == "ready"
        with lock._alone(str(path)):
            say(other)
            left_by(path, pid=os.getpid())  # this run has judged, and takes it
        assert line_of(other) == "refused"
    finally:
        other.kill()
        other.communicate()


def test_who_holds_a_lock_can_be_asked_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    assert lock.holder(str(path)) is None and not path.exists()
    left_by(path)
    before = path.read_text()
    assert lock.holder(str(path)) is None, "its process is gone"
    left_by(path, pid=os.getppid())
    said = lock.holder(str(path))
    assert said is not None and f"process {os.getppid()} on {socket.gethostname()} is at work on this root" in said
    path.write_text(before)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["LOCK"], "it left a file behind"
