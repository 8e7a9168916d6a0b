"""Run a first night and warm nights at full size, with all stages, and print what each stage costs.

    python -m benchmarks.million OUT [--users 100000 300000 1000000] [--videos 200000] [--warm 2] [--unranked]
        [--set TABLE.KEY=VALUE ...]

OUT is a new folder, or one from an earlier call: logs that are there are used again. For each number of users it
generates logs of 28 days (`benchmarks.million_logs`: 50 watches, 10 searches and 100 impressions a user), runs a night,
and then the given number of warm nights, each after one more day. It prints seconds, processor seconds, peak memory,
and bytes read and written by each stage, all of a stage's process as its manifest has them; what the command takes
besides; and the differences of the served lists and other systems on held-out users. With several numbers of users it
also prints each stage's exponent: the slope of the logarithm of its seconds over that of the users.
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import time
from pathlib import Path

from benchmarks.million_logs import FIRST_DAY, WINDOW_DAYS, LogSize, World
from benchmarks.night import print_quality, run_night
from benchmarks.real_logs import with_setting
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.night.stage import STAGES

JOB = """\
[logs]
watches = "watches/{date}.parquet"
searches = "searches/{date}.parquet"
impressions = "impressions/{date}.parquet"
videos = "videos.parquet"
[examples]
window_days = 28
[neighbours]
k = 200
[storage]
root = "runs"
"""
GB = 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--videos", type=int, default=200_000)
    parser.add_argument("--warm", type=int, default=2, help="warm nights after the first")
    parser.add_argument("--unranked", action="store_true", help="without impressions")
    parser.add_argument("--set", metavar="TABLE.KEY=VALUE", action="append", default=[])
    args = parser.parse_args()
    seconds: dict[int, list[dict[str, float]]] = {}
    for users in args.users:
        out = args.out / str(users)
        write_logs(out, LogSize(users=users, videos=args.videos), days=WINDOW_DAYS + args.warm)
        job = write_job(out, unranked=args.unranked, changes=args.set)
        seconds[users] = [run(out, job, FIRST_DAY + dt.timedelta(days=WINDOW_DAYS + n)) for n in range(args.warm + 1)]
    if len(seconds) > 1:
        print_exponents(seconds)
    return 0


def write_logs(out: Path, size: LogSize, *, days: int) -> None:
    """Write the catalogue and the days that are missing."""
    out.mkdir(parents=True, exist_ok=True)
    began, events, world = time.monotonic(), 0, World(size, seed=7)
    world.write_catalogue(out)
    for day in range(days):
        if not (out / "impressions" / f"{FIRST_DAY + dt.timedelta(days=day)}.parquet").exists():
            events += world.write_day(out, day)
    print(f"{size.users:,} users: {events:,} events generated in {time.monotonic() - began:.0f} s", flush=True)


def write_job(out: Path, *, unranked: bool, changes: list[str]) -> Path:
    """Write the job file and return its path."""
    text = JOB
    for change in changes:
        text = with_setting(text, *change.split("=", 1))
    if unranked:
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("impressions"))
    path = out / ("unranked.toml" if unranked else "job.toml")
    path.write_text(text.replace('"runs"', '"unranked"') if unranked else text, encoding="utf-8")
    return path


def run(out: Path, job: Path, date: dt.date) -> dict[str, float]:
    """Run a night, print its table, and return the seconds of each stage, and of the whole command as `night`."""
    log, wall = run_night(out, date, job)
    night, taken = Night(load_job(str(job)), date), {}
    print(f"{'stage':<12}{'process s':>11}{'own s':>9}{'CPU s':>9}{'peak GB':>9}{'read GB':>9}{'written GB':>12}")
    for stage, process in log.stage_seconds().items():
        if stage not in STAGES:
            continue
        taken[stage] = process
        done = night.require(stage)
        sizes = [done.peak_bytes / GB, done.read_bytes / GB, done.written_bytes / GB]
        print(f"{stage:<12}{process:>11.1f}{done.seconds:>9.1f}{done.processor_seconds:>9.1f}", end="")
        print(f"{sizes[0]:>9.2f}{sizes[1]:>9.2f}{sizes[2]:>12.2f}", flush=True)
    print(f"{'night':<12}{wall:>11.1f}", flush=True)
    end = log.end_of(date)
    if end and end["exit_code"] == 0:
        print_quality(night)
    return {**taken, "night": wall}


def print_exponents(seconds: dict[int, list[dict[str, float]]]) -> None:
    """Print each stage's exponent between the smallest and the largest number of users, for each night."""
    small, large = min(seconds), max(seconds)
    times = math.log(large / small)
    for number, (few, many) in enumerate(zip(seconds[small], seconds[large], strict=True)):
        cells = [f"{stage} {math.log(many[stage] / few[stage]) / times:.2f}" for stage in many if stage in few]
        print(f"exponents from {small:,} to {large:,} users, night {number + 1}: {', '.join(cells)}")


if __name__ == "__main__":
    raise SystemExit(main())
