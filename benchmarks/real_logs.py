"""Run a night on real logs and score its lists against what was then watched, next to the most popular videos.

    python -m benchmarks.real_logs TOOLS kuairand OUT [--set model.history='"mean"' ...] [--validation]

TOOLS is the folder with kuairand_logs.py, movietweetings_logs.py and score_neighbours.py; OUT is a new folder. Prints
the night's seconds and the scorer's figures. --set changes a setting of the job, as TOML. --validation scores on the
validation days, for choosing settings.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

NIGHTS = {"kuairand": "2022-04-25", "movietweetings": "2013-09-02"}
CUTS = {"kuairand": ["50", "100", "200"], "movietweetings": ["10", "50", "100"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", type=Path)
    parser.add_argument("logs", choices=NIGHTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", metavar="TABLE.KEY=VALUE", action="append", default=[])
    parser.add_argument("--validation", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    job = Path(__file__).with_name(f"{args.logs}.toml").read_text(encoding="utf-8")
    for change in args.set:
        job = with_setting(job, *change.split("=", 1))
    (args.out / "job.toml").write_text(job, encoding="utf-8")
    truth = _write_logs(args)
    began = time.monotonic()
    date = NIGHTS[args.logs]
    subprocess.run([sys.executable, "-m", "pipelines.nightly", args.out / "job.toml", "--date", date], check=True)
    print(f"{time.monotonic() - began:.0f} s from logs to published lists")
    lists = args.out / "runs" / "nights" / date / "neighbours"
    popular = ["--k", *CUTS[args.logs], "--popular", str(args.out / "logs/watches/*.parquet")]
    subprocess.run([sys.executable, args.tools / "score_neighbours.py", lists, truth, *popular], check=True)


def with_setting(job: str, name: str, value: str) -> str:
    """Return the text of a job file with one setting changed; `name` is TABLE.KEY."""
    table, _, key = name.partition(".")
    head = f"[{table}]\n"
    if head not in job:
        job = f"{job.rstrip()}\n{head}"
    before, _, rest = job.partition(head)
    inside, _, others = rest.partition("\n[")
    kept = [line for line in inside.splitlines() if line.split("=")[0].strip() != key]
    return "\n".join([before + head + f"{key} = {value}", *kept, f"\n[{others}" if others else ""])


def _write_logs(args: argparse.Namespace) -> Path:
    """Convert the logs and return the path of the truth to score against."""
    logs = args.out / "logs"
    whole = args.logs == "movietweetings" and args.validation  # its converter then leaves out the test events
    convert = [sys.executable, args.tools / f"{args.logs}_logs.py", logs, *(["--validation"] if whole else [])]
    subprocess.run(convert, check=True)
    return logs / ("truth_validation.parquet" if args.validation and args.logs == "kuairand" else "truth.parquet")


if __name__ == "__main__":
    main()
