from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nights import REPOSITORY, environment, run_python, start_python, wait_for

from pipelines.base import lock, manifest, snapshot_store
from pipelines.base.manifest import Manifest
from pipelines.base.snapshot_store import Snapshot
from transforms.core import files

# Waits for the starting shot, then tries to hold the lock, and holds what it got until it is told to go on.
RACER = """
import sys
from pipelines.base import lock
print("ready", flush=True)
sys.stdin.readline()
try:
    with lock.hold(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.readline()
except lock.LockError:
    print("refused", flush=True)
"""


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def left_by(path: Path, **holder: Any) -> None:
    """The lock as a run that is gone left it; by default one of this host that just showed life."""
    given = {"host": socket.gethostname(), "pid": dead_process(), "token": "theirs", "beat": time.time()}
    path.write_text(json.dumps(given | holder))


STAGE = "import sys; from pipelines.base import lock\nwith lock.hold(sys.argv[1]): print('through')"


def run_stage(path: Path) -> subprocess.CompletedProcess[str]:
    """Run a process with this process's environment that holds the lock, as a stage does."""
    command = [sys.executable, "-c", STAGE, str(path)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "LOCK"


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_lock_is_there_while_it_is_held_and_gone_after(tmp_path: Path) -> None:
    path = tmp_path / "root" / "LOCK"
    with lock.hold(str(path)):
        holder = read(path)
        assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
    assert not path.exists() and lock.TOKEN_VARIABLE not in os.environ


def test_a_lock_is_given_back_when_the_run_fails(path: Path) -> None:
    with pytest.raises(KeyError), lock.hold(str(path)):
        raise KeyError
    assert not (path).exists()


def test_a_live_holder_is_named(path: Path) -> None:
    left_by(path, pid=os.getppid())
    message = f"process {os.getppid()} on {socket.gethostname()} is running on this root"
    with pytest.raises(lock.LockError, match=message), lock.hold(str(path)):
        pass
    assert json.loads((path).read_text())["token"] == "theirs"


def test_the_lock_of_a_dead_process_of_this_host_is_taken_over_at_once(path: Path) -> None:
    left_by(path)
    with lock.hold(str(path)):
        assert json.loads((path).read_text())["pid"] == os.getpid()


def test_the_lock_of_another_host_is_taken_over_after_the_lease_only(path: Path) -> None:
    left_by(path, host="elsewhere", beat=time.time() - lock.LEASE_SECONDS + 60)
    with pytest.raises(lock.LockError, match="on elsewhere is running"), lock.hold(str(path)):
        pass
    left_by(path, host="elsewhere", beat=time.time() - lock.LEASE_SECONDS - 1)
    with lock.hold(str(path)):
        assert read(path)["pid"] == os.getpid()


def test_a_lock_that_another_run_took_over_is_left_to_it(path: Path) -> None:
    with lock.hold(str(path)):
        left_by(path)
    assert json.loads((path).read_text())["token"] == "theirs"


def test_the_heartbeat_keeps_the_lock_warm(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    with lock.hold(str(path)):
        first = read(path)["beat"]
        wait_for(lambda: read(path)["beat"] != first, seconds=10)


def test_the_stages_of_the_run_that_holds_the_lock_pass_through(path: Path) -> None:
    with lock.hold(str(path)):
        before = path.read_text()
        done = run_stage(path)
        assert (done.stdout, done.returncode) == ("through\n", 0), done.stderr
        assert path.read_text() == before
        stranger = run_python("-c", STAGE, path)
        assert stranger.returncode == 1 and "LockError" in stranger.stderr


def test_of_runs_that_race_for_a_stale_lock_exactly_one_holds_it(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        racers = [stack.enter_context(start_python("-c", RACER, path)) for _ in range(3)]
        assert [line_of(process) for process in racers] == ["ready"] * 3
        left_by(path)
        for process in racers:
            say(process)
        assert sorted(line_of(process) for process in racers) == ["held", "refused", "refused"]


def test_a_second_run_between_another_s_look_and_its_taking_waits_and_is_refused(path: Path) -> None:
    """The race itself, drawn out: while one run is judging the stale lock, the other cannot take it."""
    left_by(path)
    with start_python("-c", RACER, path) as other:
        assert line_of(other) == "ready"
        with lock._exclusive(str(path)):
            say(other)
            left_by(path, pid=os.getpid())  # this run has judged, and takes it
        assert line_of(other) == "refused"


def test_who_holds_a_lock_can_be_asked_without_taking_it(tmp_path: Path, path: Path) -> None:
    assert lock.describe_holder(str(path)) is None and not path.exists()
    left_by(path)
    before = path.read_text()
    assert lock.describe_holder(str(path)) is None, "its process is gone"
    left_by(path, pid=os.getppid())
    said = lock.describe_holder(str(path))
    assert said is not None and f"process {os.getppid()} on {socket.gethostname()} is running on this root" in said
    path.write_text(before)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["LOCK"], "it left a file behind"


def record_of_a_run(path: Path) -> dict[str, Any]:
    """The record that this process writes when it holds a lock."""
    with lock.hold(str(path)):
        return read(path)


@pytest.fixture
def own(path: Path) -> dict[str, Any]:
    return record_of_a_run(path) | {"token": "theirs"}


def is_taken(path: Path, record: Any) -> bool:
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    try:
        with lock.hold(str(path)):
            return False
    except lock.LockError:
        return True


def test_a_process_that_exists_holds_its_lock_however_old_its_heartbeat_is(path: Path, own: dict[str, Any]) -> None:
    assert is_taken(path, own | {"beat": time.time() - 1e6})


def test_a_process_that_got_the_number_of_a_dead_holder_does_not_hold_its_lock(path: Path, own: dict[str, Any]) -> None:
    assert not is_taken(path, own | {"started": own["started"] - 1})
    assert not is_taken(path, own | {"pid": 1}), "of another user, or simply older: it is not the holder"


def test_a_process_that_ended_but_was_not_waited_for_does_not_hold_its_lock(path: Path, own: dict[str, Any]) -> None:
    ended = subprocess.Popen(["true"], stdout=subprocess.PIPE)
    assert ended.stdout is not None and ended.stdout.read() == b""
    stat = Path(f"/proc/{ended.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", seconds=10)
    started = int(stat.read_text().rpartition(")")[2].split()[19])
    assert not is_taken(path, own | {"pid": ended.pid, "started": started})
    ended.wait()


@pytest.mark.parametrize(
    "other",
    [
        {"pid_namespace": "pid:[1]"},
        {"boot": "another", "machine": "another"},
        {"boot": "another", "machine": ""},
        {"boot": "another", "pid_namespace": "pid:[1]"},
        {"host": "elsewhere", "boot": "another"},
        {"started": 0, "pid_namespace": ""},
    ],
)
def test_a_holder_on_another_system_keeps_its_lease(path: Path, own: dict[str, Any], other: dict[str, Any]) -> None:
    """Containers under one host name, or machines that share a disk: what is no process here may be one there."""
    gone = own | {"pid": dead_process()} | other
    assert is_taken(path, gone | {"beat": time.time() - lock.LEASE_SECONDS + 60})
    assert not is_taken(path, gone | {"beat": time.time() - lock.LEASE_SECONDS - 1})


def test_a_holder_from_before_a_reboot_of_this_machine_is_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = lock._read_text
    monkeypatch.setattr(lock, "_read_text", lambda path: "this machine" if path == "/etc/machine-id" else text(path))
    own = record_of_a_run(path) | {"boot": "before"}
    monkeypatch.setattr(lock, "_FIRST_NAMESPACE", own["pid_namespace"])
    assert not is_taken(path, own)
    monkeypatch.setattr(lock, "_FIRST_NAMESPACE", "pid:[1]")  # in containers: an image may bring its machine's id
    assert is_taken(path, own)


def test_a_process_of_another_user_does_not_hold_a_lock_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of an earlier version: the number may have been given to any process since."""

    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    record = {"host": socket.gethostname(), "pid": 1, "token": "theirs"}
    assert is_taken(path, record | {"beat": time.time()})
    assert not is_taken(path, record | {"beat": time.time() - lock.LEASE_SECONDS - 1})


@pytest.mark.parametrize(
    "record",
    [
        {"host": socket.gethostname()},
        {"host": socket.gethostname(), "pid": "x", "beat": "yesterday"},
        {"host": socket.gethostname(), "pid": 10**30, "beat": None},
        {"host": 3, "pid": [], "token": {}, "beat": 10**400},
        {"host": "elsewhere", "pid": True, "beat": 1e300},
        {"host": "elsewhere", "pid": -1, "beat": True},
        {"host": "elsewhere", "pid": 1.5, "beat": -1e300},
        {"pid": 1, "boot": 7, "started": "x"},
        {},
        [[]],
        '"words"',
        None,
        "",
        "{",
    ],
)
def test_a_record_of_any_shape_is_judged_and_no_error(path: Path, record: Any) -> None:
    assert not is_taken(path, record)
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    assert lock.describe_holder(str(path)) is None


@pytest.mark.skipif(
    subprocess.run(["unshare", "-fp", "true"], capture_output=True, check=False).returncode != 0,
    reason="this user may not make PID namespaces",
)
def test_a_holder_in_another_pid_namespace_of_this_host_is_alive(path: Path) -> None:
    command = ["unshare", "-fp", "--kill-child", sys.executable, "-c", RACER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, cwd=REPOSITORY, env=environment(), **pipes)  # type: ignore[call-overload]
    try:
        assert line_of(process) == "ready"
        say(process)
        assert line_of(process) == "held"
        with pytest.raises(lock.LockError, match="is running on this root"), lock.hold(str(path)):
            pass
    finally:
        process.kill()
        process.communicate()


def test_a_heartbeat_that_fails_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    replace, failures = files.replace_file, iter(range(3))

    def failing(path: str, content: bytes) -> None:
        if next(failures, None) is not None:
            raise OSError("the disk is full")
        replace(path, content)

    with lock.hold(str(path)):
        monkeypatch.setattr(files, "replace_file", failing)
        first = read(path)["beat"]
        wait_for(lambda: read(path)["beat"] != first, seconds=10)
    assert next(failures, None) is None and not path.exists()


@pytest.mark.parametrize("lost", ["taken", "removed", "damaged"])
def test_a_run_that_lost_its_lock_commits_and_removes_nothing(tmp_path: Path, path: Path, lost: str) -> None:
    """As after a suspension of its machine that was longer than the lease."""
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "theirs").write_text("written by the run that took over")
    done = Manifest(stage="index", date="2026-11-21", fingerprint="f", files=[])
    with lock.hold(str(path)):
        lock.require()
        if lost == "taken":
            left_by(path, host="elsewhere", pid=7)
        else:
            path.unlink() if lost == "removed" else path.write_text("{")
        writes: tuple[Callable[[], None], ...] = (
            lambda: manifest.commit(str(folder), done),
            lambda: manifest.revoke(str(folder)),
            lambda: manifest.sweep(str(folder), None),
            lambda: snapshot_store.commit(str(folder), Snapshot(buckets=8, number=1)),
            lambda: snapshot_store.sweep(str(folder), str(folder), ()),
        )
        for write in writes:
            with pytest.raises(lock.LockError, match=f"this run lost the lock {path}"):
                write()
    assert [one.name for one in folder.iterdir()] == ["theirs"]
    lock.require()  # in a process that never held a lock there is nothing to lose


def test_a_run_that_was_suspended_renews_its_lock_before_it_writes(path: Path) -> None:
    with lock.hold(str(path)):
        asleep = read(path) | {"beat": time.time() - lock.LEASE_SECONDS - 1}
        path.write_text(json.dumps(asleep))
        lock.require()
        assert time.time() - read(path)["beat"] < lock.LEASE_SECONDS / 2


def test_a_stage_of_a_run_that_lost_the_lock_does_not_begin(path: Path) -> None:
    with lock.hold(str(path)):
        path.unlink()
        done = run_stage(path)
    assert done.stdout == "" and "this run lost the lock" in done.stderr


def test_what_killed_processes_left_half_written_goes_when_the_lock_is_taken(tmp_path: Path, path: Path) -> None:
    left = [f"nights/2026-11-20/rejects/a.parquet.{dead_process()}.tmp", f"published.json.{dead_process()}.tmp"]
    kept = [f"metrics.prom.{os.getpid()}.tmp", "nights/2026-11-20/rejects/a.parquet", "mine.tmp"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    assert [Path(found).name for found in files.list_files(f"{tmp_path}/nights")] == ["a.parquet"], "no data"
    with lock.hold(str(path)):
        assert all((tmp_path / name).exists() for name in kept)
        assert not any((tmp_path / name).exists() for name in left)
