"""Calculate a night on Dataflow that has never been run: 100 million users, 10 million videos, 10 billion events a day.

    python -m benchmarks.scale OUT [--users 100000000] [--videos 10000000] [--events 10000000000] [--hours 4]
                                   [--core-hour-price 0.069] [--shuffle-gib-price 0.011] [--rows 300000]

OUT is a new folder. The cost of a row is measured first: the stages ingest, vocabulary and examples run on logs of ROWS
and of four times ROWS watches over 28 days, as separate processes, and the difference in processor seconds (user and
system, of all threads) is that of the additional rows, without start-up. Bytes are measured on the same logs: of an
event in the store and on the wire between steps, of a label's record, of a count. Search, training and memory use the
constants of `pipelines.runs.estimate`, which name their measurements. A core here counts as a core there. The default
prices are examples for a core with 4 GiB, not an offer of any provider.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.examples import DATE, STAGES, write_logs
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.runs.estimate import CALIBRATED_CORES, EVENT_BYTES, GIB, LABEL_SECONDS, SCANN_SECONDS, USER_SECONDS
from transforms.core import files
from transforms.core.digests import FRAME_ROWS, MAX_BUCKETS
from transforms.core.frames import pack

WINDOW_DAYS, PER_USER, DIMENSION, K = 28, 20, 256, 200
LABEL_EXAMPLES = 8_460  # per second on two cores, D = 256 (docs/benchmarks.md)
ROWS_A_BUCKET = 1_000_000  # events of the window per bucket, as intended
INDEX_TIMES = 1.25  # raw vectors plus codes
FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The cost of rows, measured on logs in this run."""

    core_seconds: dict[str, float]  # per event, by stage
    store_bytes: float  # per event in the store
    record_bytes: float  # per event in the users' records
    wire: dict[int, float]  # rows of a piece of a frame -> bytes per event
    count_bytes: float  # a token and its count on the wire

    def wire_bytes(self, rows: float) -> float:
        """Of an event in pieces of about so many rows."""
        return self.wire[min(self.wire, key=lambda one: abs(one - rows))]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the calculated night."""

    name: str
    core_hours: float
    shuffle_gib: float = 0.0
    worker_gib: float = 0.0  # memory of a worker for one bucket in work


def measure(out: Path, rows: int) -> Measured:
    """Run the stages on logs of two sizes and measure their cost and output."""
    seconds: dict[int, dict[str, float]] = {}
    for name, count in (("small", rows), ("large", 4 * rows)):
        events = write_logs(out / name, count)
        seconds[events] = {stage: core_seconds(stage, out / name) for stage in STAGES}
    (few, first), (many, second) = sorted(seconds.items())
    night = Night(load_job(str(out / "large" / "job.toml")), DATE)
    stored = sum(file.file.bytes for file in night.ingested.snapshot.files)
    written = sum(entry.bytes for entry in night.require("examples").named(ending=".tfrecord.gz"))
    watches = [
        f"{night.root.store}/{file.file.name}" for file in night.ingested.snapshot.files if file.table == "watches"
    ]
    frame = pl.concat(files.read_parquet(path) for path in watches).sample(FRAME_ROWS, seed=7)  # as raw logs have them
    counts = files.read_parquet(f"{night.folder('vocabulary')}/videos.parquet")
    return Measured(
        core_seconds={stage: (second[stage] - first[stage]) / (many - few) for stage in STAGES},
        store_bytes=stored / many,
        record_bytes=written / many,
        wire={rows: len(pack(frame.head(rows))) / rows for rows in (1, 32, 256, 2_048, FRAME_ROWS)},
        count_bytes=len(pack(counts)) / counts.height,
    )


def core_seconds(stage: str, folder: Path) -> float:
    """Return the processor seconds of a stage's process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", f"pipelines.{stage}", str(folder / "job.toml"), "--date", DATE.isoformat()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def steps(cost: Measured, *, users: float, videos: float, events: float, buckets: int) -> list[Step]:
    """Return the Beam stages of a night with so many events per day."""
    window, hour = events * WINDOW_DAYS, 3600
    in_bucket, labels = window / buckets, users * PER_USER
    piece = FRAME_ROWS / buckets
    counted = buckets * min(videos, in_bucket) * cost.count_bytes / GIB
    gathered = buckets * min(videos, labels / buckets) * cost.count_bytes / GIB
    index = INDEX_TIMES * videos * (DIMENSION + 1) * FLOAT / GIB
    inputs = 2 * 2 * videos * DIMENSION * FLOAT / GIB  # the tower's two tables, twice while they load
    search = USER_SECONDS + SCANN_SECONDS * CALIBRATED_CORES * (videos * DIMENSION / 256e6) ** 0.5
    held = EVENT_BYTES * in_bucket / GIB
    return [
        Step(
            name="ingest",
            core_hours=events * cost.core_seconds["ingest"] / hour,
            shuffle_gib=events * cost.wire_bytes(piece) / GIB,
            worker_gib=EVENT_BYTES * events / buckets / GIB,
        ),
        Step(
            name="vocabulary",
            core_hours=window * cost.core_seconds["vocabulary"] / hour,
            shuffle_gib=counted,
            worker_gib=held / 3,
        ),
        Step(
            name="examples",
            core_hours=window * cost.core_seconds["examples"] / hour,
            shuffle_gib=gathered,
            worker_gib=held,
        ),
        Step(name="neighbours", core_hours=users * search / hour, worker_gib=index + inputs),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=float, default=100e6)
    parser.add_argument("--videos", type=float, default=10e6)
    parser.add_argument("--events", type=float, default=10e9, help="a day")
    parser.add_argument("--hours", type=float, default=4, help="for the Beam stages together")
    parser.add_argument("--core-hour-price", type=float, default=0.069)
    parser.add_argument("--shuffle-gib-price", type=float, default=0.011)
    parser.add_argument("--rows", type=int, default=300_000, help="watches of the smaller measured logs")
    args = parser.parse_args()
    cost = measure(args.out, args.rows)
    print("measured in this run")
    for stage, seconds in cost.core_seconds.items():
        print(f"  {stage:<12}{seconds * 1e6:8.2f} core-microseconds an event")
    print(f"  an event in the store {cost.store_bytes:.1f} bytes, in records {cost.record_bytes:.1f}", end="")
    print(f", a count on the wire {cost.count_bytes:.1f}")
    wire = ", ".join(f"{size:.0f} in pieces of {rows:,}" for rows, size in cost.wire.items())
    print(f"  bytes of a watch on the wire: {wire}")
    wanted = 1 << (int(args.events * WINDOW_DAYS / ROWS_A_BUCKET) - 1).bit_length()
    for buckets in dict.fromkeys((MAX_BUCKETS, wanted)):
        report(args, cost, buckets)
    return 0


def report(args: argparse.Namespace, cost: Measured, buckets: int) -> None:
    """Print one table for a bucket count, with the parts that do not fit."""
    of = {"users": args.users, "videos": args.videos, "events": args.events}
    found = steps(cost, **of, buckets=buckets)
    core_hours, shuffled = sum(one.core_hours for one in found), sum(one.shuffle_gib for one in found)
    window, labels = args.events * WINDOW_DAYS, args.users * PER_USER
    print(f"\n{buckets:,} buckets, {window / buckets:,.0f} events of the window in each")
    print(f"  {'stage':<12}{'core-hours':>12}{'shuffled GiB':>14}{'GiB a bucket in work':>22}")
    for one in found:
        print(f"  {one.name:<12}{one.core_hours:>12,.0f}{one.shuffle_gib:>14,.0f}{one.worker_gib:>22,.1f}")
    cores = core_hours / args.hours
    price = core_hours * args.core_hour_price + shuffled * args.shuffle_gib_price
    workers = f"{cores:,.0f} cores, {cores / 8:,.0f} workers of 8"
    print(f"  together {core_hours:,.0f} core-hours, in {args.hours:g} h by {workers}")
    print(f"  cost {price:,.0f} at {args.core_hour_price} a core-hour and {args.shuffle_gib_price} a GiB shuffled")
    print(f"  store {window * cost.store_bytes / 1e12:,.1f} TB, records {window * cost.record_bytes / 1e12:,.1f} TB")
    print(f"  files of the window {2 * WINDOW_DAYS * buckets:,}, of which a snapshot lists each")
    day = args.events / buckets
    of_bucket = day * cost.wire_bytes(FRAME_ROWS / buckets) / GIB
    print(f"  largest key of ingest: {day:,.0f} rows of a bucket, {of_bucket:.2f} GiB")
    rows = buckets * min(args.videos, labels / buckets)
    print(f"  largest key of examples: {rows:,.0f} label counts, {rows * cost.count_bytes / GIB:,.1f} GiB")
    vocabulary = args.videos * cost.count_bytes / GIB
    vectors = args.videos * (DIMENSION + 1) * FLOAT / GIB
    print(f"  side inputs a worker loads: vocabulary {vocabulary:.2f} GiB, index {INDEX_TIMES * vectors:,.1f} GiB")
    days = labels / LABEL_EXAMPLES / 86_400
    tables = 3 * args.videos * (DIMENSION + 1) * FLOAT / GIB
    print(f"  training: {labels:,.0f} labels a pass, {days:,.1f} days on two cores, tables {tables:,.0f} GiB")
    print(f"    {LABEL_SECONDS * 1e6:.0f} core-microseconds of a label are input alone")


if __name__ == "__main__":
    raise SystemExit(main())
