"""Compare several worker processes on one machine with the threads of one process: raw logs to records, stage by stage.

    python -m benchmarks.processes OUT [--events 2000000] [--workers 2]

Prints for each way the wall seconds, the processor seconds of all processes together, and the memory of the largest
process.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.examples import DATE, STAGES, write_logs

# A separate process, so that the usage of its children is that of the stage and its workers.
LAUNCHER = """\
import resource, subprocess, sys, time
began = time.monotonic()
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)
sys.exit(code)
"""


def measured(out: Path, stage: str, flags: Sequence[str]) -> tuple[float, float, float]:
    """Return wall seconds, processor seconds and GiB of one stage."""
    command = [sys.executable, "-m", f"pipelines.{stage}", str(out / "job.toml"), "--date", str(DATE), *flags]
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{stage} failed:\n{done.stderr}")
    seconds, processor, gib = map(float, done.stdout.split()[-3:])
    return seconds, processor, gib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print(f"{write_logs(args.out, args.events):,} events", flush=True)
    processes = [f"--direct_num_workers={args.workers}", "--direct_running_mode=multi_processing"]
    for name, flags in (("threads of one process", []), (f"{args.workers} processes", processes)):
        for stage in STAGES:
            seconds, processor, gib = measured(args.out, stage, flags)
            print(f"{name}: {stage} {seconds:.1f} s, {processor:.1f} s of processor, {gib:.2f} GiB", flush=True)
        shutil.rmtree(args.out / "runs")


if __name__ == "__main__":
    main()
