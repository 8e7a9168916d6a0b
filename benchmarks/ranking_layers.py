"""Measure the per-user loss of the ranker by hidden layers on simulated impressions: the paper's table 1.

    python -m benchmarks.ranking_layers OUT [--users 3000] [--videos 500] [--days 21] [--seeds 3] [--epochs 4]
        [--rankers none 256 512 ...]

OUT is a new folder. Each seed has its own logs and training. The last day's impressions are all held out, of every
user, and nothing of that day is learned. A night a week earlier provides the generator's features. Further rows are one
ranker without squares and roots, with equal weights for positives, and with the paper's weights; and the best possible
order, by what the simulator knows: expected seconds of the user and the video that morning, multiplied by how much
likelier the video is to be watched than to be shown next to the watched one. Intervals are 95 % over seeds; those of
differences are of the differences within a seed. Rows that do not follow the paper are marked.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.ranked import Shown, held_out, measured, ranking_records, without_outcomes
from benchmarks.simulated import LAST, Interval, Morning, last_morning
from pipelines.simulate import simulate
from trainer.ranker.config import TOWERS, RankerSettings
from trainer.ranker.task import read_ranking_folder
from transforms.ranking.impression_metrics import ImpressionMetrics
from transforms.simulation.state import Shelves, taste_shares
from transforms.simulation.truth import expected_watch_seconds, watch_probabilities
from transforms.simulation.world import LANGUAGES, SimulationSettings

PAPER = {"none": 41.6, "256": 36.9, "512": 36.7, "1024": 35.8, "512-256": 35.2, "1024-512": 34.7, "1024-512-256": 34.6}
BASE = "256"  # the layers of the variations
VARIATIONS: dict[str, dict[str, Any]] = {
    "without squares and roots": {"powers": False},
    "equal weights for positives": {"positive_weights": "equal"},
    "the paper's weights": {"positive_weights": "watch_seconds"},
}
WITHOUT = "without outcomes of earlier days"
BEST = "best possible"
GENERATOR_DAYS = 7
JOB = """\
[logs]
watches = "watches/{{date}}.parquet"
searches = "searches/{{date}}.parquet"
impressions = "impressions/{{date}}.parquet"
videos = "videos.parquet"
users = "users.parquet"
[examples]
window_days = {days}
holdout_users = 1.0
[model]
dimension = 32
hidden = [64]
loss = "softmax"
[training]
epochs = 3
batch_size = 256
[ranking]
epochs = 1
[storage]
root = "runs"
keep_examples = true
"""
Found = dict[str, list[float]]


def main() -> None:
    args = _arguments()
    found: Found = {}
    for seed in range(1, args.seeds + 1):
        settings = SimulationSettings(users=args.users, videos=args.videos, days=args.days, seed=seed, last_day=LAST)
        for name, figures, told in _of_seed(args.out / f"seed-{seed}", settings, args):
            found.setdefault(name, []).append(100 * figures["per_user_loss"])
            line = {key: round(figures[key], 4) for key in ("per_user_loss", "ndcg", "auc", "pairs") if key in figures}
            print(f"seed {seed}: {name}: {line} {told}", flush=True)
    (args.out / "losses.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    _print_table(found)
    _print_differences(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--days", type=int, default=21)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--rankers", nargs="+", default=list(TOWERS), choices=TOWERS)
    return parser.parse_args()


def _of_seed(
    out: Path, settings: SimulationSettings, args: argparse.Namespace
) -> Iterator[tuple[str, Mapping[str, float], str]]:
    """Yield the figures of every ranker, and of the best possible order for the same impressions."""
    simulate(out, settings)
    (out / "ranking.toml").write_text(JOB.format(days=settings.days), encoding="utf-8")
    date = LAST + dt.timedelta(days=1)
    records = ranking_records(out / "ranking.toml", date, generators=[date - dt.timedelta(days=GENERATOR_DAYS)])
    best = best_order(out / "impressions" / f"{LAST}.parquet", last_morning(settings)).compute()
    yield BEST, best, ""
    files = read_ranking_folder(str(records))
    learning = {"epochs": args.epochs, "batch_size": args.batch_size, "seed": settings.seed}
    rankers: dict[str, dict[str, Any]] = {name: {"hidden": name} for name in args.rankers}
    rankers |= {name: {"hidden": BASE, **changed} for name, changed in VARIATIONS.items()}
    rankers[WITHOUT] = {"hidden": BASE}
    fewer = without_outcomes(files, out / "without-outcomes")
    for name, changed in rankers.items():
        read = fewer if name == WITHOUT else files
        shown, speed = measured(read, RankerSettings.model_validate(learning | changed), held_out(records))
        figures = shown.metrics(shown.log_odds).compute()
        if figures["pairs"] != best["pairs"]:
            raise SystemExit(f"{figures['pairs']} pairs were held out, but {best['pairs']} were shown")
        yield name, figures, f"{speed:,.0f} examples/s, {_calibration(shown)}"


def _calibration(shown: Shown) -> str:
    figures = shown.metrics(shown.log_odds).compute()
    return f"predicted {figures['predicted_seconds']:.1f} s an impression, watched {figures['watched_seconds']:.1f} s"


def best_order(impressions: Path, morning: Morning) -> ImpressionMetrics:
    """Measure a day's impressions in the order of the true values of that morning.

    At most one video of a page is the watched one; the others are drawn half by popularity and half by taste. So the
    odds that a video is watched are proportional to the probability of being chosen divided by that of being drawn.
    This is no strict bound, because events during the day change both.
    """
    shown, world = pl.read_parquet(impressions), morning.world
    user = (
        shown["user_id"]
        .replace_strict(pl.Series(world.population.ids), pl.int_range(len(world.population.ids), eager=True))
        .to_numpy()
    )
    video = (
        shown["video_id"]
        .replace_strict(pl.Series(world.catalogue.ids), pl.int_range(len(world.catalogue.ids), eager=True))
        .to_numpy()
    )
    users, row = np.unique(user, return_inverse=True)
    chosen = watch_probabilities(world, morning.state, morning.day, users=users)[row, video]
    beside = drawn_probabilities(morning, users)[row, video]
    every = np.broadcast_to(np.arange(len(world.catalogue.ids)), (len(users), len(world.catalogue.ids)))
    seconds = expected_watch_seconds(world, morning.state, users=users, videos=every)[row, video]
    with np.errstate(divide="ignore", invalid="ignore"):
        # Videos uploaded during the day are unknown in the morning.
        odds = np.nan_to_num(np.log(chosen) - np.log(beside) + np.log(seconds), nan=0.0, neginf=-50, posinf=50)
    page = shown["page_id"].rank("dense").to_numpy()
    return ImpressionMetrics.from_impressions(
        row, page, shown["clicked"].to_numpy(), shown["watch_seconds"].to_numpy(), odds
    )


def drawn_probabilities(morning: Morning, users: np.ndarray) -> np.ndarray:
    """Return the probability of each video to be shown next to the watched one [users, videos]."""
    world, videos = morning.world, morning.world.catalogue
    shelves, weights = Shelves.from_time(world, morning.time), videos.weights(morning.time)
    taste = taste_shares(morning.state.tastes[users].astype(np.float64))
    language = np.eye(len(LANGUAGES))[world.population.language[users]]
    shelf = (taste[:, :, None] * language[:, None, :]).reshape(len(users), -1)
    density = np.where(shelves.empty, 0, shelf / shelves.total)
    liked = sum(density[:, videos.shelf[:, side]] * videos.share[:, side] for side in (0, 1))
    anywhere = (shelf * shelves.empty).sum(axis=1, keepdims=True) / weights.sum()
    return weights * ((liked + anywhere) / 2 + 1 / (2 * weights.sum()))


def _print_table(found: Found) -> None:
    print(f"\nper-user loss, %: mean and 95 % interval over {len(found[BEST])} seeds")
    print(f"{'':<30}{'ours':>20}{'above the best':>20}{'paper':>8}")
    for name, losses in found.items():
        above = Interval.of([loss - best for loss, best in zip(losses, found[BEST], strict=True)])
        paper = f"{PAPER[name]:.1f}" if name in PAPER else ""
        print(f"{name:<30}{_told(Interval.of(losses)):>20}{_told(above):>20}{paper:>8}")


def _told(interval: Interval) -> str:
    return f"{interval.mean:.2f} ±{interval.half:.2f}"


def _print_differences(found: Found) -> None:
    """Print the differences of the losses within a seed, and whether they follow the paper."""
    print("\nchange of the loss, percentage points")
    rankers = [name for name in PAPER if name in found]
    pairs = [(name, before) for before, name in pairwise(rankers)]
    pairs += [(name, BASE) for name in (*VARIATIONS, WITHOUT) if BASE in found]
    for name, before in pairs:
        change = Interval.of([a - b for a, b in zip(found[name], found[before], strict=True)])
        verdict = "" if name in ("the paper's weights", WITHOUT) else _verdict(change, better=name in rankers)
        print(f"{f'{name} against {before}':<50}{_told(change):>16}  {verdict}")


def _verdict(change: Interval, *, better: bool) -> str:
    """Return whether a change exceeds its interval, and goes in the paper's direction."""
    if not abs(change.mean) > change.half:
        return "no difference beyond the interval"
    return "as in the paper" if (change.mean < 0) == better else "DOES NOT FOLLOW THE PAPER"


if __name__ == "__main__":
    main()
