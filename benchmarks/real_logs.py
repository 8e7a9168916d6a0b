"""Run a night on real logs and score its lists against what was then watched, next to the most popular videos.

    python -m benchmarks.real_logs TOOLS kuairand OUT [--set model.history='"mean"' ...] [--validation]

TOOLS is the folder with the converters (kuairand_logs.py, movietweetings_logs.py, sequences_logs.py) and
score_neighbours.py; OUT is a new folder. Prints the night's seconds and the scorer's figures. --set changes a setting
of the job, as TOML. --validation scores on the validation days, or events, for choosing settings.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

SEQUENCES = ("Toys_and_Games", "LastFM")  # one list of events a user, of which the last is held out
NIGHTS = {"kuairand": "2022-04-25", "movietweetings": "2013-09-02"} | dict.fromkeys(SEQUENCES, "2026-09-01")
CUTS = {"kuairand": (50, 100, 200), "movietweetings": (10, 50, 100), **dict.fromkeys(SEQUENCES, (10, 50))}
CHOSEN_BY = dict.fromkeys(NIGHTS, "hit@10") | {"kuairand": "recall@50"}  # on validation, to choose settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", type=Path)
    parser.add_argument("logs", choices=NIGHTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", metavar="TABLE.KEY=VALUE", action="append", default=[])
    parser.add_argument("--validation", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    job = job_text(args.logs)
    for change in args.set:
        job = with_setting(job, *change.split("=", 1))
    (args.out / "job.toml").write_text(job, encoding="utf-8")
    truth = write_logs(args.tools, args.logs, args.out / "logs", validation=args.validation)
    began = time.monotonic()
    date = NIGHTS[args.logs]
    subprocess.run([sys.executable, "-m", "pipelines.nightly", args.out / "job.toml", "--date", date], check=True)
    print(f"{time.monotonic() - began:.0f} s from logs to published lists")
    lists = args.out / "runs" / "nights" / date / "neighbours"
    popular = ["--k", *map(str, CUTS[args.logs]), "--popular", str(args.out / "logs/watches/*.parquet")]
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


def job_text(name: str) -> str:
    """Return the text of the job file of some logs."""
    return Path(__file__).with_name(f"{_converter(name)}.toml").read_text(encoding="utf-8")


def write_logs(tools: Path, name: str, folder: Path, *, validation: bool) -> Path:
    """Convert the logs into a folder and return the path of the truth to score against."""
    leaves_out = name != "kuairand"  # for validation, its converter writes the test events to no log
    arguments = [name, str(folder)] if name in SEQUENCES else [str(folder)]
    flags = ["--validation"] if leaves_out and validation else []
    subprocess.run([sys.executable, tools / f"{_converter(name)}_logs.py", *arguments, *flags], check=True)
    return folder / ("truth_validation.parquet" if validation and not leaves_out else "truth.parquet")


def _converter(name: str) -> str:
    """Return the first part of the names of the converter and of the job file."""
    return "sequences" if name in SEQUENCES else name


if __name__ == "__main__":
    main()
