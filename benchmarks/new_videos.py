"""Measure how many watches of new videos the lists find, and what places for new videos cost: `neighbours.new_videos`.

    python -m benchmarks.new_videos OUT [--users 2500] [--videos 4000] [--seeds 1 2 3] [--shares 0.02 0.05]

OUT is a new folder for simulated logs. For each seed, the job that `watchnext simulate` writes runs to stage
neighbours, for lists of 100, without reserved places and with each share of them. The truth is what users complete on
the next day. New videos are those uploaded in the last 24 hours that nobody has completed. Printed are, as means over
the seeds with 95 % intervals:

- found: the share of the completed watches of new videos that the lists have. Without reserved places it is 0.
- channels, as many: the same for lists with as many new videos as there are reserved places, chosen by item to item of
  channels: first those of the channel of which the user completed most videos, then of the next one, the newest first.
- channels, all: the same for a list of 100 that has nothing but new videos of channels of which the user completed
  videos.
- recall at 10, 50 and 100 of all completed watches, and the difference from lists without reserved places.
"""

from __future__ import annotations

import argparse
import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.simulated import LAST, Interval
from pipelines import examples, index, ingest, neighbours, train, vocabulary
from pipelines.base import paths
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.simulate import simulate
from transforms.simulation.state import COMPLETED
from transforms.simulation.world import SimulationSettings

K, CUTS = 100, (10, 50, 100)
DATE = LAST + dt.timedelta(days=1)
Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Logs:
    """Simulated logs: who completed what before the night and on the next day, and the new videos."""

    folder: Path
    before: pl.DataFrame  # user_id, video_id
    after: pl.DataFrame  # user_id, video_id
    new: pl.DataFrame  # video_id, channel, upload_time

    @classmethod
    def read(cls, folder: Path) -> Logs:
        watches = pl.concat([pl.read_parquet(path) for path in sorted((folder / "watches").glob("*.parquet"))])
        videos = pl.read_parquet(folder / "videos.parquet")
        lengths = videos.select("video_id", seconds="video_seconds")
        known = watches.join(lengths, on="video_id", how="left").with_columns(pl.coalesce("video_seconds", "seconds"))
        before = known.filter(pl.col("watch_seconds") >= COMPLETED * pl.col("video_seconds"))
        midnight = dt.datetime.combine(DATE, dt.time(), dt.UTC)
        recent = videos.filter("available", pl.col("upload_time") >= midnight - dt.timedelta(days=1))
        new = recent.join(before, on="video_id", how="anti").select("video_id", "channel", "upload_time")
        after = pl.read_parquet(folder / "truth" / "next_day.parquet")
        return cls(folder=folder, before=before.select("user_id", "video_id").unique(), after=after, new=new)

    @property
    def after_of_new(self) -> pl.DataFrame:
        return self.after.join(self.new, on="video_id", how="semi")

    def channel_lists(self) -> pl.DataFrame:
        """Return user_id, video_id, place of new videos by item to item of channels."""
        channels = pl.read_parquet(self.folder / "videos.parquet", columns=["video_id", "channel"])
        watched = self.before.join(channels, on="video_id").group_by("user_id", "channel").len()
        found = watched.join(self.new, on="channel").sort(
            "len", "upload_time", "video_id", descending=[True, True, False]
        )
        return found.select("user_id", "video_id", place=pl.int_range(pl.len()).over("user_id"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=2_500)
    parser.add_argument("--videos", type=int, default=4_000)
    parser.add_argument("--days", type=int, default=21)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.05])
    parser.add_argument("--epochs", type=int, help="epochs of training; those of the job if omitted")
    args = parser.parse_args()
    found: dict[float, list[Figures]] = {share: [] for share in (0.0, *args.shares)}
    for seed in args.seeds:
        folder = args.out / str(seed)
        sizes = SimulationSettings(users=args.users, videos=args.videos, days=args.days, seed=seed, last_day=LAST)
        simulate(folder, sizes)
        logs = Logs.read(folder)
        print(f"seed {seed}: {logs.new.height} new videos, {logs.after_of_new.height} of {logs.after.height} watches")
        for share, figures in found.items():
            figures.append(measure(logs, lists_with(folder, share, args.epochs), share))
            print(
                f"  {share:g}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures[-1].items()), flush=True
            )
    for share in args.shares:
        print_share(share, found[share], found[0.0])


def lists_with(folder: Path, share: float, epochs: int | None) -> pl.DataFrame:
    """Run the stages up to neighbours with a share of reserved places; return user_id, video_id, place of the lists."""
    text = (folder / "job.toml").read_text(encoding="utf-8").replace("k = 100", f"k = {K}\nnew_videos = {share:g}")
    if epochs:
        text = text.replace("epochs = 8", f"epochs = {epochs}")
    job = folder / f"job-{share:g}.toml"
    job.write_text(text, encoding="utf-8")
    night = Night(load_job(str(job)), DATE)
    for stage in (ingest, vocabulary, examples, train, index, neighbours):
        stage.run(night)
    listed = [entry for entry in night.require("neighbours").files if not entry.name.startswith("..")]
    lists = pl.concat([pl.read_parquet(paths.join(night.folder("neighbours"), entry.name)) for entry in listed])
    places = lists.select("user_id", video_id="video_ids", place=pl.int_ranges(pl.col("video_ids").list.len()))
    return places.explode("video_id", "place", empty_as_null=False)


def measure(logs: Logs, lists: pl.DataFrame, share: float) -> Figures:
    """Return the figures of lists with a share of reserved places."""
    channels, reserved = logs.channel_lists(), round(share * K)
    return {
        "found": recall(lists, logs.after_of_new, K),
        "channels, as many": recall(channels, logs.after_of_new, reserved),
        "channels, all": recall(channels, logs.after_of_new, K),
        **{f"recall@{k}": recall(lists, logs.after, k) for k in CUTS},
    }


def recall(lists: pl.DataFrame, completed: pl.DataFrame, k: int) -> float:
    """Return the share of pairs (user_id, video_id) that are in the first k places (from 0) of the lists."""
    shown = lists.filter(pl.col("place") < k)
    return completed.join(shown, on=["user_id", "video_id"], how="semi").height / completed.height


def print_share(share: float, figures: list[Figures], without: list[Figures]) -> None:
    """Print the means over the seeds for one share of reserved places."""
    print(f"\n{share:g} of {K} places")
    for name in figures[0]:
        print(f"{name:<20}{Interval.of([one[name] for one in figures])}")
    for name in (f"recall@{k}" for k in CUTS):
        differences = [one[name] - other[name] for one, other in zip(figures, without, strict=True)]
        print(f"{name + ' gained':<20}{Interval.of(differences)}")


if __name__ == "__main__":
    main()
