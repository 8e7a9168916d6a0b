"""Nights on a real Flink cluster, and what becomes of them when parts of it are killed: `make test-flink`.

Three runners have the same logs: the embedded one, Flink inside the job server with the submitting process as its
worker, and the cluster with its pool of workers.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nights import (
    DATE,
    REPOSITORY,
    TINY,
    children,
    contents,
    environment,
    night,
    nightly,
    records,
    rooted,
    wait_for,
    write_job,
)

from pipelines import simulate
from pipelines.stages import Night
from runner_configs.flink import cluster
from runner_configs.flink.processes import Started

pytestmark = pytest.mark.flink

STARTED = Started(cluster.FOLDER)
CLUSTER = ("--runner-config", "flink", "--job_endpoint=localhost:8099")
LOCAL = ("--runner=FlinkRunner", "--job_endpoint=localhost:8199", "--environment_type=LOOPBACK", "--parallelism=2")


@pytest.fixture(scope="module")
def flink() -> Iterator[None]:
    """The cluster, and the job server with an engine inside; what ran before goes on running."""
    wanted = [*cluster.processes(STARTED), *cluster.local(STARTED)]
    ours = cluster.up(wanted, STARTED, seconds=300)
    yield
    for name in ours:
        STARTED.stop(name)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A night on the embedded runner: 15 days of 300 users."""
    folder = tmp_path_factory.mktemp("embedded")
    last = (DATE - dt.timedelta(days=1)).isoformat()
    assert simulate.main([str(folder), "--users", "300", "--videos", "80", "--days", "15", "--last-day", last]) == 0
    logs = 'watches = "watches/{date}.parquet"\nsearches = "searches/{date}.parquet"\n'
    logs += 'videos = "videos.parquet"\nusers = "users.parquet"'
    more = f'[examples]\nwindow_days = 15\nholdout_users = 0.2\n{TINY}[storage]\nroot = "runs"\nkeep_examples = 1\n'
    job = write_job(folder, logs, more)
    done = nightly(job)
    assert done.returncode == 0, done.stderr
    return night(job)


def job_beside(embedded: Night, folder: Path) -> Path:
    """The same job on another ROOT, `folder`/runs."""
    job = Path(embedded.root.path).parent / "job.toml"
    other = folder / "job.toml"
    other.write_text(rooted(job, str(folder / "runs")).replace('root = "runs"\n', ""))
    return other


def stored(of: Night) -> list[tuple[str, str, int, int, str]]:
    """The store's files, whatever their names."""
    return sorted((f.table, f.day, f.bucket, f.file.rows, f.file.digest) for f in of.snapshot.files)


@pytest.mark.parametrize("flags", [LOCAL, CLUSTER], ids=["engine-inside-the-job-server", "cluster"])
def test_a_night_is_the_same_on_flink(flink: None, embedded: Night, tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = nightly(job_beside(embedded, tmp_path), *flags)
    assert done.returncode == 0, done.stderr
    of = night(tmp_path / "job.toml")
    assert stored(of) == stored(embedded)
    assert contents(of, "vocabulary") == contents(embedded, "vocabulary")
    assert contents(of, "examples") == contents(embedded, "examples")
    assert records(of) == records(embedded)
    assert contents(of, "neighbours") == contents(embedded, "neighbours")
    metrics = [json.loads(Path(one.folder("evaluation"), "metrics.json").read_text()) for one in (of, embedded)]
    assert metrics[0] == metrics[1]
    assert Path(of.root.path, "published.json").exists()


@pytest.fixture
def before_examples(embedded: Night, tmp_path: Path) -> Path:
    """A job whose night is complete up to the vocabulary."""
    job = job_beside(embedded, tmp_path)
    shutil.copytree(embedded.root.path, tmp_path / "runs")
    of = night(job)
    for stage in ("examples", "train", "index", "neighbours", "evaluation", "publish"):
        shutil.rmtree(of.folder(stage), ignore_errors=True)
    return job


def start_examples(job: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.examples", str(job), "--date", DATE.isoformat(), *CLUSTER]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stderr=subprocess.PIPE, text=True)


def workers() -> set[int]:
    """Python workers: of the job that runs, and for a while of those before it."""
    return set(children(STARTED.pid("workers") or 0))


def at_work(pids: set[int]) -> bool:
    """Whether a worker has connected and loaded our steps: before, it has no polars."""
    with contextlib.suppress(FileNotFoundError):  # one ended between two looks
        return any("polars" in Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    return False


def jobs_running() -> int:
    with urllib.request.urlopen(f"http://localhost:{cluster.REST}/overview", timeout=30) as page:
        return int(json.load(page)["jobs-running"])


def killed_once(job: Path, begun: Callable[[set[int]], object], name: str) -> subprocess.Popen[str]:
    """A stage one of whose workers had `begun` when it, or one of the cluster's processes, was killed."""
    wait_for(lambda: not jobs_running(), seconds=120)
    before = workers()
    stage = start_examples(job)
    wait_for(lambda: begun(workers() - before), stage, seconds=300)
    pid = min(workers() - before) if name == "worker" else STARTED.pid(name)
    assert pid
    os.kill(pid, signal.SIGKILL)
    return stage


def same_examples(job: Path, embedded: Night) -> bool:
    of = night(job)
    return contents(of, "examples") == contents(embedded, "examples") and records(of) == records(embedded)


@pytest.mark.parametrize("begun", [bool, at_work], ids=["before-it-connected", "at-work"])
def test_a_killed_worker_is_started_again(
    flink: None, embedded: Night, before_examples: Path, begun: Callable[[set[int]], object]
) -> None:
    stage = killed_once(before_examples, begun, "worker")
    said = stage.communicate(timeout=400)[1]
    assert stage.returncode == 0, said
    assert same_examples(before_examples, embedded)


def test_a_killed_job_server_is_told_and_the_stage_run_again(
    flink: None, embedded: Night, before_examples: Path
) -> None:
    stage = killed_once(before_examples, at_work, "jobserver")
    said = stage.communicate(timeout=120)[1]
    assert stage.returncode == 1
    own = [line for line in said.splitlines() if line.startswith("watchnext: ")]
    assert len(own) == 1 and own[0].startswith("watchnext: the runner's job server does not answer (UNAVAILABLE: "), (
        said
    )
    assert not Path(night(before_examples).folder("examples"), "COMPLETED").exists()
    assert cluster.up(cluster.processes(STARTED), STARTED, seconds=300) == ["jobserver"]
    again = start_examples(before_examples)
    said = again.communicate(timeout=400)[1]
    assert again.returncode == 0, said
    assert same_examples(before_examples, embedded)
