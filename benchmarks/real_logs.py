"""Run a night on real logs and score its lists against what was then watched, next to the most popular videos.

    python -m benchmarks.real_logs PATH kuairand OUT [--set model.history='"mean"' ...] [--validation]

PATH is what `watchnext import` reads: the folder of the data set `kuairand-pure-processed` (kuairand) or
`movietweetings`, or the file of `sequences` (Toys_and_Games, LastFM); docs/data-sets.md says where to get them. OUT is
a new folder. Prints the night's seconds and the figures of `benchmarks.score_lists`. --set changes a setting of the
job, as TOML. --validation scores on the validation days, or events, for choosing settings.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.score_lists import print_figures
from pipelines.datasets.data_set import Request
from pipelines.datasets.importing import import_data_set
from pipelines.datasets.registry import DATA_SETS
from pipelines.datasets.splits import LastSplit, PublishedSplit, Split

SEQUENCES = ("Toys_and_Games", "LastFM")  # one list of events a user, of which the last is held out
IMPORTED = {"kuairand": "kuairand-pure-processed", "movietweetings": "movietweetings"}  # names of data sets
IMPORTED |= dict.fromkeys(SEQUENCES, "sequences")
NIGHTS = {"kuairand": "2022-04-25", "movietweetings": "2013-09-02"} | dict.fromkeys(SEQUENCES, "2026-09-01")
CUTS = {"kuairand": (50, 100, 200), "movietweetings": (10, 50, 100), **dict.fromkeys(SEQUENCES, (10, 50))}
CHOSEN_BY = dict.fromkeys(NIGHTS, "hit@10") | {"kuairand": "recall@50"}  # on validation, to choose settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
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
    truth = write_logs(args.path, args.logs, args.out / "logs", validation=args.validation)
    began = time.monotonic()
    date = NIGHTS[args.logs]
    subprocess.run([sys.executable, "-m", "pipelines.nightly", args.out / "job.toml", "--date", date], check=True)
    print(f"{time.monotonic() - began:.0f} s from logs to published lists")
    lists = args.out / "runs" / "nights" / date / "neighbours"
    print_figures(lists, truth, CUTS[args.logs], watches=args.out / "logs" / "watches")


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
    kind = "sequences" if name in SEQUENCES else name
    return Path(__file__).with_name(f"{kind}.toml").read_text(encoding="utf-8")


def write_logs(path: Path, name: str, folder: Path, *, validation: bool) -> Path:
    """Import the logs into a new folder and return the path of the truth to score against.

    path: as for `watchnext import`.
    """
    is_published = name == "kuairand"  # otherwise the truth is each user's last event, or the one before it
    split: Split = PublishedSplit() if is_published else LastSplit(but_one=validation)
    data_set = DATA_SETS[IMPORTED[name]]
    request = Request(completed_from=data_set.completed_from, held_out=split.held_out)
    import_data_set(data_set, path, folder, request=request, split=split)
    return folder / ("truth_validation.parquet" if validation and is_published else "truth.parquet")


if __name__ == "__main__":
    main()
