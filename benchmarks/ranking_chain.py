"""Compare warm rankers with cold ones over many nights, on simulated logs.

    python -m benchmarks.ranking_chain OUT [--users 1500] [--videos 400] [--nights 14] [--set KEY=VALUE ...]
        [--cold-every 1] [--cold-set KEY=VALUE ...]

OUT is a new folder, or one from an earlier call, whose logs and lists are used again. Each night learns a window of 14
days, with a third of the users held out on the last day. Of every night, stage ranking runs cold with the settings of
--cold-set (default: three epochs over all impressions of the window) and then warm, as the chain does, with those of
--set. Per-user loss, AUC, and predicted by watched seconds are of the same held-out impressions. Processor seconds are
of the stage, in a process that has loaded everything. At the end, means over nights with 95 % intervals of the paired
differences, and their trend: the slope of a line over the nights, with two standard errors.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.ranked import run_lists
from benchmarks.simulated import Interval
from pipelines import ranking
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.simulate import simulate
from transforms.simulation.world import SimulationSettings

FIRST, WINDOW = dt.date(2026, 11, 7), 14
JOB = """\
[logs]
watches = "watches/{{date}}.parquet"
searches = "searches/{{date}}.parquet"
impressions = "impressions/{{date}}.parquet"
videos = "videos.parquet"
users = "users.parquet"
[examples]
window_days = {days}
holdout_users = 0.33
[model]
dimension = 32
hidden = [64]
loss = "softmax"
[training]
epochs = 1
batch_size = 256
[storage]
root = "runs"
"""
COLD = ["epochs=3", "unclicked=1.0"]
FIGURES = ("per_user_loss", "auc", "calibration", "learned", "processor_seconds")


def main() -> None:
    args = _arguments()
    job = args.out / "chain.toml"
    if not job.exists():
        last = FIRST + dt.timedelta(days=args.nights - 2)
        days = WINDOW + args.nights - 1
        simulate(
            args.out, SimulationSettings(users=args.users, videos=args.videos, days=days, seed=args.seed, last_day=last)
        )
        job.write_text(JOB.format(days=WINDOW), encoding="utf-8")
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for number in range(args.nights):
        night = Night(load_job(str(job)), FIRST + dt.timedelta(days=number))
        run_lists(job, night.date)
        if number % args.cold_every == 0:
            found["cold"].append(figures_of(night, {"warm_start": False}, args.cold_set))
            _print_night(night.date, "cold", found["cold"][-1])
        found["warm"].append(figures_of(night, {}, args.set))
        _print_night(night.date, "warm", found["warm"][-1])
    (args.out / "chain.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    _print_comparison(found["cold"], found["warm"][:: args.cold_every])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--nights", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cold-every", type=int, default=1, help="nights from one cold ranker to the next")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="settings of [ranking], warm")
    parser.add_argument("--cold-set", metavar="KEY=VALUE", action="append", default=None, help="the same, cold")
    args = parser.parse_args()
    args.cold_set = COLD if args.cold_set is None else args.cold_set
    return args


def figures_of(night: Night, changed: dict[str, Any], lines: list[str]) -> dict[str, float]:
    """Run stage ranking of a night with changed settings, and return `FIGURES`."""
    settings = type(night.job.ranking).model_validate(
        night.job.ranking.model_dump() | changed | tomllib.loads("\n".join(lines))
    )
    job = night.job.model_copy(update={"ranking": settings})
    of = replace(night, job=job)
    ranking.run(of)
    done = of.require("ranking")
    figures = done.counts["holdout"]["figures"]
    return {
        "per_user_loss": 100 * figures["per_user_loss"],
        "auc": figures["auc"],
        "calibration": figures["predicted_seconds"] / figures["watched_seconds"],
        "learned": done.counts["examples"],
        "processor_seconds": done.processor_seconds,
    }


def _print_night(date: dt.date, name: str, figures: dict[str, float]) -> None:
    cells = ", ".join(f"{key} {value:,.4g}" for key, value in figures.items())
    print(f"{date} {name}: {cells}", flush=True)


def _print_comparison(cold: list[dict[str, float]], warm: list[dict[str, float]]) -> None:
    print(f"\n{'':<20}{'cold':>12}{'warm':>12}{'warm - cold':>22}{'trend per night':>22}")
    for name in FIGURES:
        a, b = (np.array([figures[name] for figures in found]) for found in (cold, warm))
        change = Interval.of((b - a).tolist())
        slope, error = trend(b - a)
        cells = f"{change.mean:+.4g} ±{change.half:.3g}", f"{slope:+.3g} ±{2 * error:.3g}"
        print(f"{name:<20}{a.mean():>12,.4g}{b.mean():>12,.4g}{cells[0]:>22}{cells[1]:>22}")


def trend(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the slope of a line through values of consecutive nights, and its standard error; NaN for few nights."""
    if len(values) < 4:
        return float("nan"), float("nan")
    line, covariance = np.polyfit(np.arange(len(values)), values, 1, cov=True)
    return float(line[0]), float(covariance[0, 0] ** 0.5)


if __name__ == "__main__":
    main()
