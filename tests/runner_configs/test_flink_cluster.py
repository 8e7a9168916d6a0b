"""What starts and stops a Flink cluster, tried on small processes; the cluster itself is in test_flink.py."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from apache_beam.portability.api import beam_fn_api_pb2
from nights import REPOSITORY, children, wait_for

from runner_configs.flink import cluster, worker_pool
from runner_configs.flink.processes import ClusterError, Process, Started, holder_of

FLINK = REPOSITORY / "runner_configs" / "flink"
SLEEPS = """\
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
time.sleep(60)
"""


def process(script: str = SLEEPS, *ports: int, ready: bool = True) -> Process:
    return Process("one", lambda: [sys.executable, "-c", script], ports, lambda: ready)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    found = Started(tmp_path)
    yield found
    found.stop("one")


def test_a_process_is_started_once_and_stopped_with_its_children(started: Started) -> None:
    assert started.pid("one") is None
    assert started.start(process())
    pid = started.pid("one")
    assert pid and not started.start(process()) and started.pid("one") == pid
    wait_for(lambda: children(pid))
    (child,) = children(pid)
    assert started.stop("one") and not started.stop("one")
    wait_for(lambda: not alive(pid) and not alive(child))


def alive(pid: int) -> bool:
    """Whether a process runs; one that is over but was not asked about yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_another_process_with_the_same_pid_is_left_alone(started: Started) -> None:
    started.start(process())
    record = started.folder / "run" / "one.json"
    known = json.loads(record.read_text())
    record.write_text(json.dumps({"pid": os.getpid(), "started": 1}))  # this one began later
    assert started.pid("one") is None and not started.stop("one")
    record.write_text(json.dumps(known))


def test_the_message_on_a_taken_port_names_its_owner(started: Started) -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        taken = rf"port {port}, which one needs, is taken by pid {os.getpid()} \(.*python"
        with pytest.raises(ClusterError, match=taken):
            started.start(process(SLEEPS, port))
    assert holder_of(port) == "" and started.pid("one") is None


def test_a_process_that_ends_shows_the_end_of_its_log(started: Started) -> None:
    started.start(process("print('a\\nb'); raise SystemExit('no memory')", ready=False))
    with pytest.raises(ClusterError, match=r"one ended; the end of .*one\.log:\n(a\nb\nno memory|no memory\na\nb)"):
        started.wait(process(ready=False), time.monotonic() + 60)


def test_a_process_that_is_never_ready_is_not_waited_for_without_end(started: Started) -> None:
    started.start(process())
    with pytest.raises(ClusterError, match=r"one was not ready in time; the end of .*one\.log:"):
        started.wait(process(ready=False), time.monotonic())


@pytest.mark.parametrize(("there", "package"), [((), "openjdk-17-jre-headless"), (("java",), "maven")])
def test_what_is_missing_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], package: str
) -> None:
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=f"is not installed: on Debian and Ubuntu it is in the package {package}"):
        cluster.fetch(tmp_path / "flink")


def test_the_error_of_a_failed_command_has_its_output() -> None:
    with pytest.raises(ClusterError, match=r"failed:\nno such artifact"):
        cluster._run([sys.executable, "-c", "raise SystemExit('no such artifact')"])


def test_workers_share_the_cores_and_the_slots_are_those_of_the_runner_config() -> None:
    options = tomllib.loads((FLINK.parent / "flink.toml").read_text())
    slots = yaml.safe_load((FLINK / "conf" / "flink-conf.yaml").read_text())["taskmanager.numberOfTaskSlots"]
    assert options["parallelism"] == options["sdk_worker_parallelism"] == slots
    assert options["environment_config"] == f"localhost:{cluster.WORKERS}"
    threads = str(max(1, len(os.sched_getaffinity(0)) // slots))
    environment = cluster._worker_environment()
    assert environment["POLARS_MAX_THREADS"] == environment["TF_NUM_INTRAOP_THREADS"] == threads
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def fake_python(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A `python` that writes a line to the file returned each time it is started."""
    starts = folder / "starts"
    starts.touch()
    (folder / "python").write_text(f"#!/bin/sh\necho started >> {starts}\n{script}\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return starts


def test_a_worker_that_dies_is_started_again_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = fake_python(tmp_path, monkeypatch, "exit 1")
    pool = worker_pool.WorkerPool()
    assert not pool.StartWorker(beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1"), None).error
    wait_for(lambda: starts.read_text().count("started") == worker_pool.STARTS)
    wait_for(lambda: pool._worker_processes["1-1"].poll() is not None)
    assert starts.read_text().count("started") == worker_pool.STARTS


def test_a_worker_that_is_to_stop_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = fake_python(tmp_path, monkeypatch, "exec sleep 60")
    pool = worker_pool.WorkerPool()
    for name in ("1-1", "1-2"):
        pool.StartWorker(beam_fn_api_pb2.StartWorkerRequest(worker_id=name), None)
    first, second = (pool._worker_processes[name] for name in ("1-1", "1-2"))
    wait_for(lambda: starts.read_text().count("started") == 2)  # else a worker may be stopped before it has written
    pool.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"), None)
    assert first.poll() is not None and second.poll() is None
    pool.stop()
    assert second.poll() is not None
    assert starts.read_text().count("started") == 2


def test_the_manifest_gives_each_task_manager_a_pool_of_workers() -> None:
    found = [one for one in yaml.safe_load_all((FLINK / "session-cluster.yaml").read_text()) if one]
    deployments = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in found if one["kind"] == "Deployment"
    }
    services = {
        one["metadata"]["name"]: [port["port"] for port in one["spec"]["ports"]]
        for one in found
        if one["kind"] == "Service"
    }
    assert list(deployments) == ["watchnext-jobmanager", "watchnext-taskmanager", "watchnext-job-server"]
    assert services == {"watchnext-jobmanager": [6123, 6124, 8081], "watchnext-job-server": [8099, 8098]}
    conf = yaml.safe_load(found[0]["data"]["flink-conf.yaml"])
    flink, workers = deployments["watchnext-taskmanager"]["containers"]
    assert workers["command"][1:] == ["-m", worker_pool.__name__, str(cluster.WORKERS)] and workers["env"] == [
        {"name": "POLARS_MAX_THREADS", "value": "1"}
    ]
    assert int(workers["resources"]["requests"]["cpu"]) == conf["taskmanager.numberOfTaskSlots"]
    assert flink["image"].startswith("flink:1.20") and "flink1.20" in str(deployments["watchnext-job-server"])
