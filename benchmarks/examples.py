"""Measure raw logs to TFRecords: stages ingest, vocabulary and examples on the embedded runner, one process per stage.

    python -m benchmarks.examples OUT [--events 10000000] [--next-night] [--polars] [--four-fold] [--profile]

Writes logs of 28 days into OUT (one user per 20 events, a tenth as many searches, 200,000 videos by a power law), runs
the stages and prints seconds, events/s and peak memory. It then runs them on almost empty logs, which measures the cost
of starting the stages.

--next-night  adds one day, and runs the next night too
--polars      does the same work in `benchmarks.polars_examples`, and compares time and records
--four-fold   runs the stages on four times the events, in OUT/four-fold
--profile     runs the stages again under a profiler and prints the number of calls per function and 1,000 events
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.profiled import calls
from pipelines.config.jobs import load_job
from transforms.core.digests import id_digests
from transforms.examples.tfrecords import read_tfrecords

DAYS, VIDEOS, WORDS = 28, 200_000, 20_000
LAST_DAY = dt.date(2026, 11, 20)
DATE = LAST_DAY + dt.timedelta(days=1)
NEXT_TO_NOTHING = 2_800  # events, so that start-up dominates
OFTEN = 20  # calls per 1,000 events that are reported
COMPARED_BUCKETS = 2
STAGES = ("ingest", "vocabulary", "examples")
JOB = """\
[logs]
watches = "watches/{date}.parquet"
searches = "searches/{date}.parquet"
[examples]
window_days = 28
per_user = 5
holdout_days = 0
partial_watches = false  # as "auto" decides for the logs of the full size; `polars_examples` knows no others
"""


def write_day(out: Path, day: dt.date, *, events: int, users: int, rng: np.random.Generator) -> None:
    """Write one day of watches and searches, with users and videos by a power law as in real logs."""
    start = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp() * 1e6)
    searches = events // 10
    user = pl.Series((users * rng.random(events + searches) ** 1.5).astype(np.int64)).cast(pl.String)
    time_of = pl.Series(start + rng.integers(0, 86_400_000_000, events + searches)).cast(pl.Datetime("us", "UTC"))
    video = (VIDEOS * rng.random(events) ** 3).astype(np.int64)
    watches = pl.DataFrame(
        {
            "user_id": user[:events],
            "video_id": pl.Series(video).cast(pl.String),
            "time": time_of[:events],
            "watch_seconds": pl.Series(rng.random(events) * 200, dtype=pl.Float32),
            "video_seconds": pl.Series(30 + video % 270, dtype=pl.Float32),
            "country": pl.Series(rng.integers(0, 40, events)).cast(pl.String),
            "device": pl.Series(["phone", "tv", "desktop"])[rng.integers(0, 3, events)],
        }
    )
    words = (WORDS * rng.random((searches, 2)) ** 2).astype(np.int64)
    query = pl.DataFrame(words, schema=["a", "b"]).select(pl.format("w{} w{}", "a", "b")).to_series()
    found = pl.DataFrame({"user_id": user[events:], "time": time_of[events:], "query": query})
    for name, frame in (("watches", watches), ("searches", found)):
        (out / name).mkdir(parents=True, exist_ok=True)
        frame.sort("time").write_parquet(out / name / f"{day}.parquet")


# A process inherits the peak memory of its parent, so the parent must be small.
LAUNCHER = """\
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A process that ended successfully."""

    seconds: float
    peak_gib: float
    output: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """The stages of one night."""

    events: int
    seconds: dict[str, float]  # by stage, from the start of its process to its end
    peak_gib: dict[str, float]  # by stage, of its largest process

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def report(self, name: str) -> None:
        parts = ", ".join(f"{stage} {self.seconds[stage]:.1f} s {self.peak_gib[stage]:.1f} GiB" for stage in STAGES)
        rate = self.events / self.total
        print(f"{name}: {self.events:,} events in {self.total:.1f} s: {rate:,.0f} events/s ({parts})", flush=True)


def write_logs(out: Path, events: int) -> int:
    """Write 28 days of logs and their job to OUT, which must be new, and return the number of events."""
    rng, daily = np.random.default_rng(7), events // DAYS
    out.mkdir(parents=True)
    (out / "job.toml").write_text(JOB, encoding="utf-8")
    for back in range(DAYS - 1, -1, -1):
        write_day(out, LAST_DAY - dt.timedelta(days=back), events=daily, users=events // 20, rng=rng)
    return (daily + daily // 10) * DAYS


def run_stages(out: Path, events: int, date: dt.date = DATE, *, job: str = "job.toml", profile: bool = False) -> Run:
    """Run the stages of a night, one process each; with `profile` under a profiler that writes OUT/STAGE.prof."""
    seconds, peak = {}, {}
    for stage in STAGES:
        module = ["benchmarks.profiled", str(out / f"{stage}.prof")] if profile else []
        command = ["-m", *module, f"pipelines.{stage}", str(out / job), "--date", str(date)]
        done = measured(command)
        seconds[stage], peak[stage] = done.seconds, done.peak_gib
    return Run(events=events, seconds=seconds, peak_gib=peak)


def measured(arguments: Sequence[str], *, python: str = sys.executable, folder: Path | None = None) -> Measured:
    """Run a Python process in a folder. Its standard error is shown only if it fails."""
    began = time.monotonic()
    command = [sys.executable, "-c", LAUNCHER, python, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    output, _, peak = done.stdout.rstrip().rpartition("\n")
    return Measured(seconds=time.monotonic() - began, peak_gib=int(peak) / 2**20, output=output)


def start_up(out: Path) -> Run:
    """Measure the cost of starting the stages, on almost empty logs."""
    nothing = run_stages(out / "nothing", write_logs(out / "nothing", NEXT_TO_NOTHING))
    nothing.report("start-up")
    return nothing


def next_night(out: Path, first: Run, nothing: Run, events: int) -> None:
    """Add one day, run its night, and compare it with the first night and with the cost of starting the stages."""
    rng = np.random.default_rng(8)
    write_day(out, DATE, events=events // DAYS, users=events // 20, rng=rng)
    second = run_stages(out, first.events, DATE + dt.timedelta(days=1))
    second.report("next night")
    work = second.seconds["ingest"] - nothing.seconds["ingest"]
    print(f"next night / first: ingest, less start-up, {work / first.seconds['ingest']:.2f} (at most 0.10)")
    rest = [sum(run.seconds[stage] for stage in STAGES[1:]) for run in (second, first)]
    print(f"next night / first: vocabulary and examples {rest[0] / rest[1]:.2f} (at most 1.10)", flush=True)


def against_polars(out: Path, first: Run, nothing: Run) -> None:
    """Do the same work with `benchmarks.polars_examples`. Its own clock counts, which excludes its imports."""
    done = measured(["-m", "benchmarks.polars_examples", str(out)])
    print(f"polars: {', '.join(done.output.splitlines())}; {done.seconds:.1f} s and {done.peak_gib:.1f} GiB in all")
    seconds = max(float(found) for found in re.findall(r"after ([\d.]+) s", done.output))
    less = (first.total - nothing.total) / seconds
    print(f"pipeline / polars: {first.total / seconds:.2f} (at most 3); less start-up {less:.2f}", flush=True)
    compare_records(out)


def compare_records(out: Path) -> None:
    """Raise AssertionError if the two disagree, in totals or in any record of the first buckets."""
    folder = out / "runs" / "nights" / str(DATE) / "examples"
    done = json.loads((folder / "COMPLETED").read_text())
    theirs = {split: read_records([out / "polars" / f"{split}.tfrecord.gz"]) for split in ("train", "serving")}
    assert done["counts"]["train_pointers"] == theirs["train"]["label"].list.len().sum()
    assert done["counts"]["serving_users"] == theirs["serving"].height
    names: list[str] = [entry["name"] for entry in done["files"]]
    buckets = max(int(found[1]) for found in map(re.compile(r"-of-(\d+)").search, names) if found)
    for split, records in theirs.items():
        wanted = tuple(f"{split}/{bucket:05d}-of" for bucket in range(COMPARED_BUCKETS))
        ours = read_records([folder / name for name in names if name.startswith(wanted)]).sort("user_id")
        same = records.filter(id_digests(records["user_id"]) % buckets < COMPARED_BUCKETS).sort("user_id")
        assert ours.drop("example_age").equals(same.drop("example_age")), f"{split} records differ"
        apart = (ours["example_age"].explode() - same["example_age"].explode()).abs().to_numpy().max()
        print(f"same records: {ours.height:,} of {split} compared; example ages at most {apart:.4f} apart", flush=True)


def read_records(paths: list[Path]) -> pl.DataFrame:
    ids = ("watches", "tokens", "label", "watches_end", "tokens_end", "country", "device")
    features: dict[str, Any] = {"user_id": pl.String(), **dict.fromkeys(ids, pl.List(pl.Int64))}
    features["example_age"] = pl.List(pl.Float32)
    return pl.concat(read_tfrecords(str(path), features) for path in paths)


def four_fold(out: Path, first: Run, events: int) -> None:
    larger = run_stages(out / "four-fold", write_logs(out / "four-fold", 4 * events))
    larger.report("four-fold")
    print(f"four times the events / once: {larger.total / first.total:.2f} (at most 4.4)", flush=True)


def profile(out: Path, first: Run) -> None:
    """Print the calls per event: those of a run on almost empty logs are subtracted."""
    counted = []
    for folder, events in ((out, first.events), (out / "profiled-nothing", 0)):
        if not events:
            events = write_logs(folder, NEXT_TO_NOTHING)
        (folder / "profiled.toml").write_text(f'{JOB}[storage]\nroot = "profiled"\n', encoding="utf-8")
        run_stages(folder, events, job="profiled.toml", profile=True)
        counted.append((events, {stage: calls(folder / f"{stage}.prof") for stage in STAGES}))
    (events, many), (few_events, few) = counted
    for stage in STAGES:
        found = {name: 1_000 * (n - few[stage][name]) / (events - few_events) for name, n in many[stage].items()}
        often = sorted(((n, name) for name, n in found.items()), reverse=True)[:10]
        above = sum(n > OFTEN for n in found.values())
        print(f"{stage}: {above} functions above {OFTEN} calls for 1,000 events; the most called ones:")
        print("".join(f"{n:12.2f}  {name}\n" for n, name in often), end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--events", type=int, default=10_000_000)
    for name in ("--next-night", "--polars", "--four-fold", "--profile"):
        parser.add_argument(name, action="store_true")
    args = parser.parse_args()
    first = run_stages(args.out, write_logs(args.out, args.events))
    first.report("first night")
    batch = load_job(str(args.out / "job.toml")).logs.batch_bytes / 2**30
    buckets = json.loads((args.out / "runs" / "nights" / str(DATE) / "catalogue" / "COMPLETED").read_text())["counts"]
    print(f"{buckets['buckets']} buckets of {first.events // buckets['buckets']:,} events, batches of {batch:.1f} GiB")
    nothing = start_up(args.out)
    if args.polars:
        against_polars(args.out, first, nothing)
    if args.profile:
        profile(args.out, first)
    if args.next_night:
        next_night(args.out, first, nothing, args.events)
    if args.four_fold:
        four_fold(args.out, first, args.events)


if __name__ == "__main__":
    main()
