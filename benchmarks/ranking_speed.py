"""Measure candidates ranked per second, end to end in Beam, and examples learned per second.

    python -m benchmarks.ranking_speed OUT [--users 20000] [--videos 2000] [--days 7] [--rankers 256 1024-512-256]

OUT is a new folder, or one from an earlier call, whose simulated logs and nights are used again. The first 50 videos of
every user's list are ranked as the stage does, from the lists and the store's events to Parquet files on the embedded
runner; the time includes loading the ranker. Learning reads records as the stage writes them. For both, the best of
`--repeats` and all rates are printed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import time
from pathlib import Path

from benchmarks.ranked import ranking_records
from benchmarks.ranking_layers import JOB
from benchmarks.simulated import LAST
from pipelines.base import paths
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.ranking import inputs_of, ranking_buckets
from pipelines.simulate import simulate
from trainer.ranker.config import TOWERS, RankerSettings
from trainer.ranker.export import export_ranker
from trainer.ranker.task import read_ranking_folder
from trainer.ranker.training import fit_ranker
from transforms.core.files import FileEntry
from transforms.core.records import Counts, WriteRecords, add_counts, pop_records
from transforms.ranking.order import ChosenOrder
from transforms.ranking.rank_lists import ListRanking, RankCandidates
from transforms.simulation.world import SimulationSettings

DATE = LAST + dt.timedelta(days=1)


def main() -> None:
    args = _arguments()
    job = args.out / "ranking.toml"
    if not job.exists():
        settings = SimulationSettings(users=args.users, videos=args.videos, days=args.days, seed=1, last_day=LAST)
        simulate(args.out, settings)
        job.write_text(JOB.format(days=args.days), encoding="utf-8")
    records = ranking_records(job, DATE, generators=[DATE - dt.timedelta(days=args.days // 2)])
    night, files = Night(load_job(str(job)), DATE), read_ranking_folder(str(records))
    for name in args.rankers:
        learned, ranked = [], []
        folder = args.out / f"ranker-{name}"
        for _ in range(args.repeats):
            fitted = fit_ranker(files, RankerSettings.model_validate({"hidden": name, "epochs": 2}))
            learned.append(fitted.progress.examples / fitted.progress.seconds)
        export_ranker(fitted.ranker, str(folder))
        for _ in range(args.repeats):
            users, candidates, seconds = rank(night, str(folder))
            ranked.append(candidates / seconds)
        print(f"{name}: {users:,} users, {candidates:,} candidates", flush=True)
        print(f"  learned {max(learned):,.0f} examples/s ({', '.join(f'{rate:,.0f}' for rate in learned)})", flush=True)
        print(f"  ranked {max(ranked):,.0f} candidates/s ({', '.join(f'{rate:,.0f}' for rate in ranked)})", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--videos", type=int, default=2_000)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rankers", nargs="+", default=["256", "1024-512-256"], choices=TOWERS)
    return parser.parse_args()


def rank(night: Night, ranker: str) -> tuple[int, int, float]:
    """Rank a night's lists into a folder next to the ranker and return users, candidates, seconds."""
    folder = f"{ranker}-lists"
    name = paths.shard_pattern(night.ingested.snapshot.buckets, "timed", "parquet")
    spec = read_ranking_folder(f"{night.folder('ranking')}/examples").spec
    order = ChosenOrder.fixed(0.0, "expected seconds alone")
    count = night.job.ranking.candidates
    ranking = ListRanking(inputs=inputs_of(night, spec), ranker=ranker, count=count, weights=order.weights)
    began = time.perf_counter()
    with night.beam.pipeline("ranking") as pipeline:
        ranked = (
            pipeline
            | night.beam.create(ranking_buckets(night))
            | RankCandidates(ranking, folder, name, night.beam.threads)
        )
        ranked | WriteRecords(f"{folder}/records.json")
    seconds = time.perf_counter() - began
    counts = add_counts(pop_records(f"{folder}/records.json", FileEntry, Counts).of(Counts))
    return counts["users"], counts["candidates"], seconds


if __name__ == "__main__":
    main()
