"""Raw logs to TFRecords: stages ingest, vocabulary and examples on the embedded runner, each a process as in a night.

    python -m benchmarks.examples OUT [--events 10000000] [--next-night]

Writes logs of 28 days into OUT (a user for 20 events, a tenth as many searches, 200,000 videos by a power law), runs
the stages and prints seconds, events/s and peak memory. --next-night adds one day and runs the next night too.
"""

from __future__ import annotations

import argparse
import datetime as dt
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

DAYS, VIDEOS, WORDS = 28, 200_000, 20_000
LAST_DAY = dt.date(2026, 11, 20)
STAGES = ("ingest", "vocabulary", "examples")
JOB = """\
[logs]
watches = "watches/{date}.parquet"
searches = "searches/{date}.parquet"
[examples]
window_days = 28
per_user = 5
holdout_days = 0
"""


def write_day(out: Path, day: dt.date, *, events: int, users: int, rng: np.random.Generator) -> None:
    """One day of watches and searches; users and videos by a power law, as in real logs."""
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


def run_stages(out: Path, date: dt.date) -> dict[str, float]:
    """Seconds of each stage, a process each."""
    seconds = {}
    for stage in STAGES:
        began = time.monotonic()
        command = [sys.executable, "-m", f"pipelines.{stage}", str(out / "job.toml"), "--date", str(date)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        seconds[stage] = time.monotonic() - began
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--next-night", action="store_true")
    args = parser.parse_args()
    rng, users, daily = np.random.default_rng(7), args.events // 20, args.events // DAYS
    args.out.mkdir(parents=True)
    (args.out / "job.toml").write_text(JOB, encoding="utf-8")
    for back in range(DAYS - 1, -1, -1):
        write_day(args.out, LAST_DAY - dt.timedelta(days=back), events=daily, users=users, rng=rng)
    events = daily * DAYS + daily // 10 * DAYS
    _report("first night", events, run_stages(args.out, LAST_DAY + dt.timedelta(days=1)))
    if args.next_night:
        write_day(args.out, LAST_DAY + dt.timedelta(days=1), events=daily, users=users, rng=rng)
        _report("next night", events, run_stages(args.out, LAST_DAY + dt.timedelta(days=2)))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"peak memory of a stage's process: {peak:.1f} GiB")


def _report(name: str, events: int, seconds: dict[str, float]) -> None:
    total = sum(seconds.values())
    parts = ", ".join(f"{stage} {s:.1f}" for stage, s in seconds.items())
    print(f"{name}: {events:,} events in {total:.1f} s ({parts}): {events / total:,.0f} events/s", flush=True)


if __name__ == "__main__":
    main()
