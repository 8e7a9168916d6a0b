"""Losses, or history encoders, on the same real logs for the same time of training: recall beside speed.

    python -m benchmarks.compare_models TOOLS kuairand OUT --losses --seconds 60 [--test]
    python -m benchmarks.compare_models TOOLS kuairand OUT --histories --try 'model.history="attention";model.dropout=0'

TOOLS is the folder with kuairand_logs.py and movietweetings_logs.py; OUT a folder, where the examples that an earlier
call made of the same logs are taken up. The job is that of `real_logs`; `--set` changes it for all, and `--try` adds a
model with settings of [model] and [training] of its own.

Each model trains at least twice. A short run measures how many steps a second it makes once the first ones are traced;
then it makes, from nothing, as many as fit into the seconds, and again where that was off by a tenth. What is measured
between passes, on a sample of the users, does not count as training; `best` is the pass with the highest recall@50
there: an early one, and more time would not help.

The measure: the truth that the converter leaves beside the logs becomes the watches of one more day, on which all users
are held out, so nothing of it is learned. Recall is the trainer's own, of all of them: every video is scored by the
loss' own scores, exactly, and what the user has completed is left out. That is the README's recall without index and
lists, so it measures losses that leave no video vectors too. It differs in that users without a watch in the logs
(1.5 % of KuaiRand's pairs) get videos as well, where they have no list and count as missed there. The truth is that of
the validation days, unless `--test` is given.
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import polars as pl

from benchmarks.real_logs import NIGHTS, with_setting
from pipelines import examples, ingest, vocabulary
from pipelines.config.jobs import Job, load_job
from pipelines.night.stage import Night
from trainer.config import ModelSettings, TrainingSettings
from trainer.examples import ExampleFiles, LabelCounts, read_folder, read_label_counts
from trainer.holdout import KS, Holdout, Scores
from trainer.inputs import count_labels
from trainer.progress import Progress
from trainer.training import Fitted, fit
from transforms.core.tensorflow_import import tf

FIRST_STEPS = 10  # traced, and waiting for the first users: they do not count
TRIAL_STEPS = 50  # that speed is measured on
TOLERANCE = 0.1  # of the seconds: a training that took more or less of them is made again
MOST_TRAININGS = 3  # after the trial
ALL_USERS = 2**31 - 1
HEADINGS = [f"recall@{k}" for k in KS] + ["examples/s", "passes", "best", "seconds", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What all models learn from, and how long."""

    job: Job
    files: ExampleFiles
    counts: LabelCounts
    labels: int  # of a pass
    seconds: float


def main() -> None:
    args = _arguments()
    models = _models(args)
    given = _given(args)
    print(f"{given.labels} labels, {given.files.spec.videos} videos, {'test' if args.test else 'validation'} days")
    width = max(map(len, ("most popular", *models)))
    print(" " * width + "".join(f"{heading:>12}" for heading in HEADINGS), flush=True)
    for name, settings in models.items():
        fitted = _trained_in_time(given, settings)
        print(f"{name:<{width}}{_row(given, fitted)}", flush=True)
    popular = tf.constant([0, *given.counts.counts], tf.float32)
    recall = _recall(given, fitted, lambda users: tf.tile(popular[tf.newaxis], [len(users), 1]))
    print(f"{'most popular':<{width}}{recall}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", type=Path)
    parser.add_argument("logs", choices=NIGHTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--losses", action="store_true", help="compare all losses")
    parser.add_argument("--histories", action="store_true", help="compare all history encoders")
    parser.add_argument("--try", dest="tried", metavar="TABLE.KEY=VALUE;...", action="append", default=[])
    parser.add_argument("--set", metavar="TABLE.KEY=VALUE", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each")
    parser.add_argument("--test", action="store_true", help="on the test days: never to choose settings on")
    args = parser.parse_args()
    if not (args.losses or args.histories or args.tried):
        parser.error("say what to compare: --losses, --histories or --try")
    return args


def _models(args: argparse.Namespace) -> dict[str, dict[str, dict[str, Any]]]:
    """What each model changes in the job's tables, by the name it has in the printed table."""
    models: dict[str, dict[str, dict[str, Any]]] = {}
    for key, wanted in (("loss", args.losses), ("history", args.histories)):
        names = get_args(ModelSettings.model_fields[key].annotation) if wanted else ()
        models |= {name: {"model": {key: name}} for name in names}
    for text in args.tried:
        models[text] = tomllib.loads(text.replace(";", "\n"))
        if others := sorted(set(models[text]) - {"model", "training"}):
            raise SystemExit(f"--try changes model and training alone, but {text!r} has {', '.join(others)}: use --set")
    return models


def _given(args: argparse.Namespace) -> Given:
    folder = args.out / ("test" if args.test else "validation")
    day = dt.date.fromisoformat(NIGHTS[args.logs])
    if not (folder / "logs").exists():
        _write_logs(args, folder / "logs", day)
    text = Path(__file__).with_name(f"{args.logs}.toml").read_text(encoding="utf-8")
    days = tomllib.loads(text)["examples"]["window_days"] + 1  # it begins where it would without the held-out day
    held_out = [f"examples.window_days={days}", "examples.holdout_days=1", "examples.holdout_users=1.0"]
    for change in (*held_out, *args.set):
        text = with_setting(text, *change.split("=", 1))
    (folder / "job.toml").write_text(text, encoding="utf-8")
    night = Night(load_job(str(folder / "job.toml")), day + dt.timedelta(days=1))
    for stage in (ingest, vocabulary, examples):
        stage.run(night)
    files = read_folder(night.folder("examples"))
    counts, labels = read_label_counts(files), count_labels(files.train)
    return Given(job=night.job, files=files, counts=counts, labels=labels, seconds=args.seconds)


def _write_logs(args: argparse.Namespace, logs: Path, day: dt.date) -> None:
    """Converts the logs, and adds the truth to the watches, at the first moment of `day`, the first without logs."""
    days_in_one_file = args.logs == "movietweetings"  # whose converter leaves the test events out for the validation's
    flags = ["--validation"] if days_in_one_file and not args.test else []
    subprocess.run([sys.executable, args.tools / f"{args.logs}_logs.py", logs, *flags], check=True)
    truth = pl.read_parquet(logs / f"truth{'' if days_in_one_file or args.test else '_validation'}.parquet")
    time = pl.lit(dt.datetime.combine(day, dt.time(), dt.UTC)).cast(pl.Datetime("ms", "UTC"))
    watches = truth.select("user_id", "video_id", time=time, completed=True)
    watches.write_parquet(logs / "watches" / "truth.parquet")


def _trained_in_time(given: Given, settings: Mapping[str, Any]) -> Fitted:
    """As many steps as fit into the seconds: as the last training measured them, once more where that was off."""
    fitted = _trained(given, settings, steps=FIRST_STEPS + TRIAL_STEPS)
    for _ in range(MOST_TRAININGS):
        points = _points(fitted.progress)
        steps, seconds = (points[-1][name] - points[0][name] for name in ("step", "seconds"))
        if abs(seconds / given.seconds - 1) <= TOLERANCE:
            break
        fitted = _trained(given, settings, steps=FIRST_STEPS + max(2, round(given.seconds * steps / seconds)))
    return fitted


def _trained(given: Given, settings: Mapping[str, Any], *, steps: int) -> Fitted:
    model = {**given.job.model.model_dump(), **settings.get("model", {})}
    training = {**given.job.training.model_dump(), **settings.get("training", {}), "max_steps": steps}
    training["epochs"] = math.ceil(steps / (given.labels // training["batch_size"] or 1))
    with tempfile.TemporaryDirectory() as scratch:  # a folder of its own: no checkpoint is taken up
        return fit(
            given.files,
            given.counts,
            model_settings=ModelSettings(**model),
            settings=TrainingSettings(**training),
            checkpoints=f"{scratch}/checkpoints",
            logs=f"{scratch}/logs",
        )


def _points(progress: Progress) -> list[dict[str, Any]]:
    """The points of the loss curve behind the first steps."""
    return [point for point in progress.losses if point["step"] >= FIRST_STEPS]


def _row(given: Given, fitted: Fitted) -> str:
    progress, points = fitted.progress, _points(fitted.progress)
    examples, seconds = (points[-1][name] - points[0][name] for name in ("examples", "seconds"))
    waiting = progress.waiting_seconds / progress.seconds
    speed = f"{examples / seconds:>12,.0f}{progress.examples / given.labels:>12.1f}{progress.best_epoch:>12}"
    return _recall(given, fitted, fitted.step.loss.scores) + speed + f"{seconds:>12.1f}{waiting:>12.1%}"


def _recall(given: Given, fitted: Fitted, scores: Scores) -> str:
    holdout = Holdout(fitted.model.tower, scores, given.files.holdout, given.files.spec, users=ALL_USERS)
    figures = holdout.measure()
    return "".join(f"{figures[f'recall@{k}']:>12.4f}" for k in KS)


if __name__ == "__main__":
    main()
