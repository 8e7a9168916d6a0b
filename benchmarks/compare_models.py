"""Compare losses, or history encoders, on the same real logs for the same training time: recall and speed.

    python -m benchmarks.compare_models PATH kuairand OUT --losses --seconds 60 [--test]
    python -m benchmarks.compare_models PATH kuairand OUT --histories --try 'model.history="attention";model.dropout=0'

PATH is that of `real_logs`. OUT is a folder; examples that an earlier call
wrote there for the same logs are used again. The job is that of `real_logs`; `--set` changes it for all models, and
`--try` adds a model with other settings of [model] and [training].

Each model is trained at least twice. A short run measures its steps per second after tracing. The model is then trained
from scratch with as many steps as fit into the seconds, and again if that differs by more than a tenth. Measurements
between passes, on a sample of the users, do not count as training time. `best` is the pass with the highest recall@50
in them; if it is an early one, more time would not help.

The truth becomes the watches of one more day, on which all users are held out, so nothing of it is learned.
Recall is the trainer's own for all users: every video is scored exactly by the scores of the loss, and videos that the
user completed are excluded. This is the recall of docs/benchmarks.md without index and lists, so it also measures
losses that give no video vectors. It differs for users without a watch in the logs (1.5 % of KuaiRand's pairs): here
they get videos, while there they have no list and count as missed. The truth is that of the validation days, unless
`--test` is given.
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import polars as pl

from benchmarks.real_logs import NIGHTS, job_text, with_setting, write_logs
from pipelines import examples, ingest, vocabulary
from pipelines.config.jobs import Job, load_job
from pipelines.night.night import Night
from trainer.config import ModelSettings, ModelTable, TrainingTable
from trainer.examples import ExampleFiles, Vocabulary, read_folder, read_label_counts
from trainer.holdout import KS, HoldoutEvaluator, Scores
from trainer.inputs import count_labels
from trainer.progress import CurvePoint, Progress
from trainer.task import resolve_settings
from trainer.training import FitResult, fit
from trainer.warm_start import COLD_FRACTION
from transforms.core.tensorflow_import import tf

FIRST_STEPS = 10  # not counted: tracing, and waiting for the first batches
TRIAL_STEPS = 50  # for measuring speed
TOLERANCE = 0.1  # relative to the seconds: training is repeated if its time differs by more
MOST_TRAININGS = 3  # after the trial
ALL_USERS = 2**31 - 1
HEADINGS = [f"recall@{k}" for k in KS] + ["examples/s", "passes", "best", "seconds", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Given:
    """The data that all models learn from, and the training time."""

    job: Job
    files: ExampleFiles
    counts: Vocabulary
    labels: int  # per pass
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
    parser.add_argument("path", type=Path)
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
    """Return the changes of each model to the job's tables, by its name in the printed table."""
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
    text = job_text(args.logs)
    days = tomllib.loads(text)["examples"]["window_days"] + 1  # it begins on the same day as without the held-out day
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
    """Import the logs, and add the truth to the watches at the first moment of `day`, the first day without logs."""
    truth = pl.read_parquet(write_logs(args.path, args.logs, logs, validation=not args.test))
    time = pl.lit(dt.datetime.combine(day, dt.time(), dt.UTC)).cast(pl.Datetime("ms", "UTC"))
    watches = truth.select("user_id", "video_id", time=time, completed=True)
    watches.write_parquet(logs / "watches" / "truth.parquet")


def _trained_in_time(given: Given, settings: Mapping[str, Any]) -> FitResult:
    """Train for as many steps as fit into the seconds at the last training's speed; repeat if the time was off."""
    fitted = _trained(given, settings, steps=FIRST_STEPS + TRIAL_STEPS)
    for _ in range(MOST_TRAININGS):
        points = _points(fitted.progress)
        first, last = points[0], points[-1]
        steps, seconds = last["step"] - first["step"], last["seconds"] - first["seconds"]
        if abs(seconds / given.seconds - 1) <= TOLERANCE:
            break
        fitted = _trained(given, settings, steps=FIRST_STEPS + max(2, round(given.seconds * steps / seconds)))
    return fitted


def _trained(given: Given, settings: Mapping[str, Any], *, steps: int) -> FitResult:
    model = {**given.job.model.model_dump(), **settings.get("model", {})}
    training = {**given.job.training.model_dump(), **settings.get("training", {}), "max_steps": steps}
    training["early_stopping_epochs"] = 0  # all models get the same time
    least = int(COLD_FRACTION * given.labels) // training["batch_size"]  # steps of an epoch, at least
    training["epochs"] = math.ceil(steps / max(1, least))
    resolved = resolve_settings(
        given.files, given.counts, model=ModelTable(**model), training=TrainingTable(**training)
    )
    with tempfile.TemporaryDirectory() as scratch:  # a new folder, so that no checkpoint is found
        return fit(
            given.files,
            given.counts,
            model_settings=resolved.model,
            settings=resolved.training,
            checkpoints=f"{scratch}/checkpoints",
            logs=f"{scratch}/logs",
        )


def _points(progress: Progress) -> list[CurvePoint]:
    """Return the points of the loss curve after the first steps."""
    return [point for point in progress.losses if point["step"] >= FIRST_STEPS]


def _row(given: Given, fitted: FitResult) -> str:
    progress, points = fitted.progress, _points(fitted.progress)
    examples = points[-1]["examples"] - points[0]["examples"]
    seconds = points[-1]["seconds"] - points[0]["seconds"]
    waiting = progress.waiting_seconds / progress.seconds
    speed = f"{examples / seconds:>12,.0f}{progress.examples / given.labels:>12.1f}{progress.best_epoch:>12}"
    return _recall(given, fitted, fitted.step.loss.scores) + speed + f"{seconds:>12.1f}{waiting:>12.1%}"


def _recall(given: Given, fitted: FitResult, scores: Scores) -> str:
    holdout = HoldoutEvaluator(fitted.model.tower, scores, given.files.holdout, given.files.spec, users=ALL_USERS)
    figures = holdout.measure()
    return "".join(f"{figures[f'recall@{k}']:>12.4f}" for k in KS)


if __name__ == "__main__":
    main()
