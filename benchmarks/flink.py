"""Compare time and memory of a night's stages on the Flink cluster of `make flink-up` and on the embedded runner.

    make flink-up
    python -m benchmarks.flink OUT [--events 10000000] [--users 100000]

Writes logs of 28 days into OUT as `benchmarks.examples` does, then runs ingest, vocabulary, examples and neighbours of
all users on each runner in turn, with one ROOT per runner. The small model between them is trained in a process on this
machine and not measured. Memory is the peak of all processes of a runner together, sampled ten times a second; for the
cluster, Java and Python workers are listed separately.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.examples import DATE, DAYS, LAST_DAY, write_day
from runner_configs.flink import cluster
from runner_configs.flink.processes import ClusterError, Started

MEASURED = ("ingest", "vocabulary", "examples", "neighbours")
STAGES = ("ingest", "vocabulary", "examples", "train", "index", "neighbours")
JAVA = ("jobmanager", "taskmanager", "jobserver")
CLUSTER = ("--runner-config", "flink", f"--job_endpoint=localhost:{cluster.JOB_SERVER[0]}")
JOB = """\
[logs]
watches = "../watches/{date}.parquet"
searches = "../searches/{date}.parquet"
[examples]
window_days = 28
per_user = 5
holdout_days = 0
[model]
dimension = 64
hidden = [64]
[training]
max_steps = 200
[neighbours]
k = 100
[storage]
root = "runs"
keep_examples = 1
"""


Pids = Callable[[], tuple[list[int], list[int]]]  # of the cluster: Java, Python


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one stage, from the start of its process to its end."""

    seconds: float
    python_gib: float  # the stage's own process and all Python workers
    java_gib: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s {self.python_gib:.2f} + {self.java_gib:.2f} GiB"


def write_logs(out: Path, events: int, users: int) -> int:
    """Write 28 days of logs to OUT, which must be new, and return the number of events."""
    rng, daily = np.random.default_rng(7), events // DAYS
    for back in range(DAYS - 1, -1, -1):
        write_day(out, LAST_DAY - dt.timedelta(days=back), events=daily, users=users, rng=rng)
    return (daily + daily // 10) * DAYS


def run_night(folder: Path, flags: Sequence[str], cluster_pids: Pids) -> list[Cost]:
    """Run the stages of a night under FOLDER/runs, and return and print the costs of those that are measured."""
    folder.mkdir()
    job = folder / "job.toml"
    job.write_text(JOB, encoding="utf-8")
    found = []
    for stage in STAGES:
        own = flags if stage in MEASURED else ()
        cost = _measured([f"pipelines.{stage}", str(job), "--date", str(DATE), *own], cluster_pids)
        if stage in MEASURED:
            found.append(cost)
            print(f"{folder.name} {stage}: {cost}", flush=True)
    return found


def _measured(arguments: Sequence[str], cluster_pids: Pids) -> Cost:
    highest, over = [0, 0], threading.Event()
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.PIPE, text=True)

    def watch() -> None:
        while not over.wait(0.1):
            java, python = cluster_pids()
            highest[0] = max(highest[0], sum(map(_resident, [process.pid, *python])))
            highest[1] = max(highest[1], sum(map(_resident, java)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = process.communicate()[1]
    seconds = time.monotonic() - began
    over.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{said}")
    return Cost(seconds=seconds, python_gib=highest[0] / 2**30, java_gib=highest[1] / 2**30)


def _resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return 0


def _cluster_pids() -> tuple[list[int], list[int]]:
    started = Started(cluster.FOLDER)
    pool = started.pid("workers")
    return [pid for name in JAVA if (pid := started.pid(name))], [pool, *_children(pool)] if pool else []


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        found = (path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children"))
        return [int(child) for children in found for child in children]
    return []


def show(name: str, events: int, costs: list[Cost]) -> None:
    """Print a row of the table: for each stage seconds, GiB of Python, GiB of Java."""
    parts = " | ".join(f"{stage} {cost}" for stage, cost in zip(MEASURED, costs, strict=True))
    total = sum(cost.seconds for cost in costs[:3])
    print(f"{name}: {events:,} events in {total:.1f} s, {events / total:,.0f} events/s | {parts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    args = parser.parse_args()
    try:
        cluster.up(cluster.processes(started := Started(cluster.FOLDER)), started)
    except ClusterError as error:
        raise SystemExit(str(error)) from error
    events = write_logs(args.out, args.events, args.users)
    show("embedded", events, run_night(args.out / "embedded", (), lambda: ([], [])))
    show("cluster", events, run_night(args.out / "cluster", CLUSTER, _cluster_pids))


if __name__ == "__main__":
    main()
