"""Compare training from the previous night's model with training from scratch every night: recall and steps.

    python -m benchmarks.warm_start OUT [--nights 14] [--users 2000] [--videos 1000] [--window 21] [--try NAME=VALUE]

OUT is a new folder. Simulates logs, runs the stages up to examples for each night, and trains twice on them: `cold`,
and `warm`, which starts from the night before. Recall is that of held-out users, on a day that neither has seen. The
first night is the same training for all. At the end it prints the mean difference from cold in both halves: a
difference that grows is a drift.
`--try` adds further warm trainings with other settings of [training]: `--try replay_fraction=0,warm_epochs=2`.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import examples, ingest, simulate, vocabulary
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from trainer.config import TrainingTable
from trainer.examples import ExampleFiles, read_folder
from trainer.task import train
from trainer.warm_start import WarmStartSource

LAST = dt.date(2026, 11, 20)
RECALL = "recall@50"
JOB = """\
[logs]
watches = "watches/{{date}}.parquet"
searches = "searches/{{date}}.parquet"
videos = "videos.parquet"
users = "users.parquet"
[examples]
window_days = {window}
holdout_users = 0.5
[model]
dimension = 64
hidden = [256]
history = "recency"
dropout = 0.3
negatives = 500
[training]
batch_size = 256
epochs = 4
"""


@dataclass(frozen=True)
class Trained:
    """One night of one kind of training."""

    recall: float
    steps: int
    users: int  # over which recall is averaged
    state: str


def main() -> None:
    args = _arguments()
    _write_logs(args)
    ways: dict[str, dict[str, Any]] = {"cold": {}, "warm": {}} | {one: _settings(one) for one in args.tried}
    found: dict[str, list[Trained]] = {way: [] for way in ways}
    print(f"{'night':<12}{'users':>6}" + "".join(f"{way[:24]:>26}" for way in ways), flush=True)
    for back in range(args.nights - 1, -1, -1):
        night = Night(load_job(str(args.out / "job.toml")), LAST + dt.timedelta(days=1 - back))
        given = _examples(night)
        for way, settings in ways.items():
            found[way].append(_next(night, given, args.out / "models", way, settings, found))
        line = "".join(f"{found[way][-1].recall:>14.4f} {found[way][-1].steps:>5} steps" for way in ways)
        print(f"{night.date!s:<12}{found['cold'][-1].users:>6}{line}", flush=True)
    half = 1 + (args.nights - 1) // 2
    for title, part in (("first half", slice(1, half)), ("second half", slice(half, None))):
        beside = "".join(_beside(found[way][part], found["cold"][part]) for way in ways)
        print(f"{title + ' - cold':<18}{beside}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nights", type=int, default=14)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--window", type=int, default=21, help="days of logs a night learns from")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--try", dest="tried", action="append", default=[], metavar="NAME=VALUE,...")
    return parser.parse_args()


def _settings(text: str) -> dict[str, Any]:
    """Parse `a=1,b=0.5` as settings; the config class reads the values."""
    return dict(part.split("=", 1) for part in text.split(","))


def _write_logs(args: argparse.Namespace) -> None:
    days = args.window + args.nights - 1
    size = ["--users", args.users, "--videos", args.videos, "--days", days, "--seed", args.seed, "--last-day", LAST]
    if simulate.main([str(args.out), *map(str, size)]):
        raise SystemExit(1)
    (args.out / "job.toml").write_text(JOB.format(window=args.window), encoding="utf-8")


def _examples(night: Night) -> ExampleFiles:
    for stage in (ingest, vocabulary, examples):
        stage.run(night)
    return read_folder(night.folder("examples"))


def _next(
    night: Night,
    given: ExampleFiles,
    folder: Path,
    way: str,
    settings: Mapping[str, Any],
    found: Mapping[str, Sequence[Trained]],
) -> Trained:
    """Train a night. The first night has no earlier model, and is the same for all kinds of training."""
    if way != "cold" and not found[way]:
        return found["cold"][0]
    training = TrainingTable(**{**night.job.training.model_dump(), **settings})
    earlier = None
    if way != "cold":
        earlier = WarmStartSource(state=found[way][-1].state, name=str(night.date - dt.timedelta(days=1)), days=1)
    output = str(folder / way / night.date.isoformat())
    result = train(given, output, model=night.job.model, training=training, attempt="1", earlier=earlier)
    if result.start["why"]:
        raise SystemExit(f"{night.date}: {result.start['why']}")
    figures = result.holdout[-1]
    return Trained(figures[RECALL], result.steps, int(figures["users"]), result.state)


def _beside(nights: Sequence[Trained], cold: Sequence[Trained]) -> str:
    """Return the mean difference from the cold nights with its standard error, and the mean steps."""
    gained = np.array([one.recall - other.recall for one, other in zip(nights, cold, strict=True)])
    error = gained.std(ddof=1) / len(gained) ** 0.5 if len(gained) > 1 else float("nan")
    return f"{gained.mean():>+10.4f} ±{error:.3f} {np.mean([one.steps for one in nights]):>4.0f} st."


if __name__ == "__main__":
    main()
