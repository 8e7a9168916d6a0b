"""Measure the cost of starting each stage: each stage on almost empty logs, next to this machine's imports.

    python -m benchmarks.overhead OUT [--rounds 3]

OUT is a new folder. Simulates 7 days of 200 users and 100 videos, and runs the stages of one night one by one, each as
the process that `nightly` starts, several times. Wall seconds and processor seconds (user and system, of all threads)
are the minimum of the rounds, because other work on the machine increases both. The imports are Python processes that
import a library and end.
"""

from __future__ import annotations

import argparse
import datetime as dt
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.night.stage import STAGES
from pipelines.simulate import simulate
from transforms.simulation.world import SimulationSettings

DATE = dt.date(2026, 11, 21)
WITH_TENSORFLOW = ("examples", "train", "neighbours", "ranking", "evaluation")  # a small index needs no TensorFlow
MOST_SECONDS = {False: 3.0, True: 8.0}
IMPORTS = {
    "Python": "pass",
    "polars": "import polars",
    "Beam": "import apache_beam",
    "TensorFlow": "import tensorflow",
    "Beam, as stages import it": "import pipelines",
    "TensorFlow, as stages import it": "from transforms.core import tensorflow_import as tf; tf.import_tensorflow()",
}


@dataclass(frozen=True)
class Taken:
    """The time of one process."""

    wall: float  # seconds
    processor: float  # seconds of all threads


def run(command: list[str]) -> Taken:
    """Run a Python process and return its time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, *command], check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(time.monotonic() - began, used)


def least(taken: list[Taken]) -> Taken:
    return Taken(min(one.wall for one in taken), min(one.processor for one in taken))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    last = DATE - dt.timedelta(days=1)
    simulate(args.out, SimulationSettings(users=200, videos=100, days=7, seed=7, last_day=last))
    imports: dict[str, list[Taken]] = {name: [] for name in IMPORTS}
    stages: dict[str, list[Taken]] = {stage: [] for stage in STAGES}
    for _ in range(args.rounds):
        for name, code in IMPORTS.items():
            imports[name].append(run(["-c", code]))
        shutil.rmtree(args.out / "runs", ignore_errors=True)
        for stage in STAGES:
            stages[stage].append(run(["-m", f"pipelines.{stage}", str(args.out / "job.toml"), "--date", str(DATE)]))
    print(f"{'imports':<34}{'wall s':>8}{'processor s':>13}")
    for name, taken in imports.items():
        print(f"{name:<34}{least(taken).wall:>8.2f}{least(taken).processor:>13.2f}")
    print(f"{'stages':<34}{'wall s':>8}{'processor s':>13}  wanted, wall")
    for stage, taken in stages.items():
        of_stage = least(taken)
        print(f"{stage:<34}{of_stage.wall:>8.2f}{of_stage.processor:>13.2f}", end="")
        print(f"  under {MOST_SECONDS[stage in WITH_TENSORFLOW]:.0f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
