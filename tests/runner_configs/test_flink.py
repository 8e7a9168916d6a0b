"""Nights on a real Flink cluster, and what becomes of them when parts of it are killed: `make test-flink`,
`make test-flink-faults`.

Three runners have the same logs: the embedded one, Flink inside the job server with the submitting process as its
worker, and the cluster with its pool of workers.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from nights import (
    DATE,
    EVENTS,
    RANKING,
    REPOSITORY,
    TINY,
    children,
    environment,
    lists,
    night,
    nightly_process,
    rooted,
    wait_for,
    write_job,
)

from pipelines import simulate
from pipelines.base import manifest
from pipelines.night.night import Night
from pipelines.night.stage import STAGES
from runner_configs.flink import cluster
from runner_configs.flink.processes import Started

pytestmark = pytest.mark.flink

STARTED = Started(cluster.FOLDER)
CLUSTER = ("--runner-config", "flink", "--job_endpoint=localhost:8099")
LOCAL = ("--runner=FlinkRunner", "--job_endpoint=localhost:8199", "--environment_type=LOOPBACK", "--parallelism=2")

FLINK = {"engine inside the job server": LOCAL, "cluster": CLUSTER}

# Training is no Beam job, and publishing is none without a sink. Ranking is several, with a training between them.
BEAM_STAGES = tuple(stage for stage in STAGES if stage not in ("train", "ranking", "publish"))


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
    logs = "".join(f'{table} = "{table}/{{date}}.parquet"\n' for table in EVENTS)
    logs += 'videos = "videos.parquet"\nusers = "users.parquet"'
    more = f"[examples]\nwindow_days = 15\nholdout_users = 0.2\n{TINY}{RANKING}"
    job = write_job(folder, logs, f'{more}[storage]\nroot = "runs"\nkeep_examples = 1\n')
    done = nightly_process(job)
    assert done.returncode == 0, done.stderr
    return night(job)


def job_beside(embedded: Night, folder: Path) -> Path:
    """The same job on another ROOT, `folder`/runs."""
    job = Path(embedded.root.path).parent / "job.toml"
    folder.mkdir(exist_ok=True)
    other = folder / "job.toml"
    other.write_text(rooted(job, str(folder / "runs")).replace('root = "runs"\n', ""))
    return other


def left(of: Night, stage: str) -> Any:
    """What a stage left, whatever the names of its files: digests of their bytes, but of TFT's graph and of
    what tells how long things took."""
    if stage == "ingest":
        return sorted((f.table, f.day, f.bucket, f.file.rows, f.file.digest) for f in of.ingested.snapshot.files)
    if stage == "evaluation":  # its page tells when it was made
        return json.loads(Path(of.folder(stage), "metrics.json").read_text())
    found = of.require(stage)
    named = {manifest.logical_name(entry.name, found.attempt): entry.digest for entry in found.files}
    return {name: digest for name, digest in named.items() if "transform_fn" not in name and name not in found.timed}


def check_ranked(of: Night, embedded: Night) -> None:
    """The ranked lists are served, each of the videos of the neighbours' list, and learned from the same records."""
    served = json.loads(Path(of.root.published).read_text())
    assert served["stage"] == "ranking"
    ranked, before = lists(of, "ranking"), lists(of)
    assert ranked["user_id"].equals(before["user_id"]) and served["users"] == ranked.height > 0
    assert ranked["video_ids"].list.sort().equals(before["video_ids"].list.sort())
    assert not ranked["video_ids"].equals(before["video_ids"])
    theirs, ours = (left(one, "ranking") for one in (embedded, of))
    assert ours.keys() == theirs.keys()
    for name, digest in theirs.items():
        assert ours[name] == digest or not name.startswith(("examples/", "vocabulary/")), name


def test_nights_on_flink_are_the_embedded_runner_s(flink: None, embedded: Night, tmp_path: Path) -> None:
    """Both nights run at once, because each mostly waits for its Flink."""
    jobs = {name: job_beside(embedded, tmp_path / name) for name in FLINK}
    with ThreadPoolExecutor() as pool:
        running = {name: pool.submit(nightly_process, jobs[name], *flags) for name, flags in FLINK.items()}
    for name, job in jobs.items():
        done, of = running[name].result(), night(job)
        assert done.returncode == 0, (name, done.stderr)
        for stage in BEAM_STAGES:
            assert left(of, stage) == left(embedded, stage), (name, stage)
        check_ranked(of, embedded)


def job_before(stage: str, embedded: Night, folder: Path) -> Path:
    """A job whose night is complete up to a stage, and not published."""
    job = job_beside(embedded, folder)
    if stage != "ingest":
        shutil.copytree(embedded.root.path, folder / "runs")
        for later in [*STAGES][[*STAGES].index(stage) :]:
            shutil.rmtree(night(job).folder(later), ignore_errors=True)
    return job


def start(stage: str, job: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"pipelines.{stage}", str(job), "--date", DATE.isoformat(), *CLUSTER]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stderr=subprocess.PIPE, text=True)


def workers() -> set[int]:
    """Python workers: of the job that runs, and for a while of those before it."""
    return set(children(STARTED.pid("workers") or 0))


def at_work(pid: int) -> bool:
    """Whether a worker has connected and loaded our steps: before, it has no polars."""
    with contextlib.suppress(OSError):  # it ended between two looks
        return "polars" in Path(f"/proc/{pid}/maps").read_text()
    return False


def jobs_running() -> int:
    with urllib.request.urlopen(f"http://localhost:{cluster.REST}/overview", timeout=30) as page:
        return int(json.load(page)["jobs-running"])


def killed_once(stage: str, job: Path, begun: Callable[[int], bool], name: str) -> subprocess.Popen[str]:
    """A stage one of whose workers had `begun` when it, or one of the cluster's processes, was killed."""
    wait_for(lambda: not jobs_running(), seconds=120)
    before = workers()
    running = start(stage, job)
    ready: list[int] = []

    def has_begun() -> list[int]:
        ready.extend(filter(begun, workers() - before))
        return ready

    wait_for(has_begun, running, seconds=300)
    pid = ready[0] if name == "worker" else STARTED.pid(name)
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pid != STARTED.pid(name))  # a killed process is not over at once
    return running


def finished(running: subprocess.Popen[str], stage: str, job: Path, cause: str) -> None:
    """Let a stage come to its end. Where Flink gave the job up, for each lost task uses up an attempt, that was told in
    a line and nothing counts; then run it again."""
    said = running.communicate(timeout=400)[1]
    if running.returncode:
        messages = [line for line in said.splitlines() if line.startswith("watchnext: ")]
        assert len(messages) == 1 and re.match(
            f"watchnext: the runner ended the job in state FAILED: {cause}", messages[0]
        ), said
        assert not Path(night(job).folder(stage), manifest.NAME).exists()
        running = start(stage, job)
        said = running.communicate(timeout=400)[1]
    assert running.returncode == 0, said


def test_a_worker_that_is_killed_before_it_connects_is_started_again(
    flink: None, embedded: Night, tmp_path: Path
) -> None:
    job = job_before("examples", embedded, tmp_path)
    running = killed_once("examples", job, bool, "worker")
    said = running.communicate(timeout=400)[1]
    assert running.returncode == 0, said
    assert left(night(job), "examples") == left(embedded, "examples")


@pytest.mark.parametrize("stage", BEAM_STAGES)
def test_a_killed_task_manager_leaves_nothing_half_done(
    flink: None, embedded: Night, tmp_path: Path, stage: str
) -> None:
    job = job_before(stage, embedded, tmp_path)
    running = killed_once(stage, job, at_work, "taskmanager")
    assert cluster.up(cluster.processes(STARTED), STARTED, seconds=300) == ["taskmanager"]
    finished(running, stage, job, ".*Task")
    assert left(night(job), stage) == left(embedded, stage)


def test_a_killed_worker_leaves_nothing_half_done(flink: None, embedded: Night, tmp_path: Path) -> None:
    job = job_before("examples", embedded, tmp_path)
    finished(killed_once("examples", job, at_work, "worker"), "examples", job, ".")
    assert left(night(job), "examples") == left(embedded, "examples")


def test_a_killed_job_server_is_reported_and_the_stage_runs_again(flink: None, embedded: Night, tmp_path: Path) -> None:
    job = job_before("examples", embedded, tmp_path)
    running = killed_once("examples", job, at_work, "jobserver")
    said = running.communicate(timeout=120)[1]
    assert running.returncode == 1
    own = [line for line in said.splitlines() if line.startswith("watchnext: ")]
    assert len(own) == 1 and own[0].startswith("watchnext: the runner's job server does not answer (UNAVAILABLE: "), (
        said
    )
    assert not Path(night(job).folder("examples"), manifest.NAME).exists()
    assert cluster.up(cluster.processes(STARTED), STARTED, seconds=300) == ["jobserver"]
    again = start("examples", job)
    said = again.communicate(timeout=400)[1]
    assert again.returncode == 0, said
    assert left(night(job), "examples") == left(embedded, "examples")
