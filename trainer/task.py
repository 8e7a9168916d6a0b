"""Trains a model from a night's examples: `train`, or from a folder of examples alone, as training services call it:

    python -m trainer.task --examples runs/nights/2026-11-21/examples --output model --settings settings.json

The settings file holds the tables `model` and `training` of `trainer.config`; what it leaves out keeps its default.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from trainer.config import ModelSettings, TrainingSettings
from trainer.distribution import KINDS, make_replicas
from trainer.errors import TrainingError
from trainer.examples import ExampleFiles, LabelCounts, read_folder, read_label_counts, read_names
from trainer.export import export_tower, write_json, write_video_vectors
from trainer.progress import Progress
from trainer.raw import RawFeatures, why_no_raw
from trainer.state import write_state
from trainer.training import Fitted, fit
from trainer.warm_start import Earlier, shape_of
from transforms.core.tensorflow_import import tf


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Where everything is that a training left, and how it went."""

    tower: str  # folder of the SavedModel
    state: str  # folder of what a later training needs to go on from this one
    video_vectors: str
    history: str
    info: str
    steps: int
    examples: int  # labels learned from, all epochs together
    seconds: float  # in the loop, earlier attempts included
    holdout: tuple[dict[str, Any], ...]  # the figures after each epoch; empty without holdout records
    start: dict[str, Any]  # what it went on from, see `warm_start.Start.told`


def train(
    examples: ExampleFiles,
    output: str,
    *,
    model: ModelSettings,
    training: TrainingSettings,
    attempt: str,
    earlier: Earlier | None = None,
    saved: Callable[[], object] | None = None,
) -> TrainingResult:
    """Trains, and leaves in the folder `output`: `tower-ATTEMPT/`, `state-ATTEMPT/`, `video_vectors.parquet`,
    `history.json`, `info.json`, `checkpoints/` and `tensorboard/`.

    Takes up the checkpoints that an earlier attempt left there for the same examples, settings and `earlier` model, and
    comes to the result that this attempt would have had. `saved` is called whenever a checkpoint is whole. Raises
    TrainingError for examples that nothing can be learned from.

    On several hosts each calls this with the same arguments; the first of them alone writes, into a folder that all
    read.
    """
    output = output.rstrip("/")
    replicas = make_replicas(training.strategy)  # first of all: hosts can only be joined before any other work
    counts = read_label_counts(examples)
    fitted = fit(
        examples,
        counts,
        model_settings=model,
        settings=training,
        checkpoints=f"{output}/checkpoints/{fingerprint(examples, model=model, training=training, earlier=earlier)}",
        logs=f"{output}/tensorboard",
        earlier=earlier,
        replicas=replicas,
        saved=saved,
    )
    progress, names = fitted.progress, read_names(examples, counts)
    result = TrainingResult(
        tower=f"{output}/tower-{attempt}",
        state=f"{output}/state-{attempt}",
        video_vectors=f"{output}/video_vectors.parquet",
        history=f"{output}/history.json",
        info=f"{output}/info.json",
        steps=progress.steps,
        examples=progress.examples,
        seconds=progress.seconds,
        holdout=tuple(progress.holdout),
        start=fitted.start.told(names),
    )
    if replicas.chief:
        _leave(examples, fitted, counts, result, model, training)
    replicas.agreed(True)  # the others stay until all is written: a host that is gone counts as one that failed
    return result


def _leave(
    examples: ExampleFiles,
    fitted: Fitted,
    counts: LabelCounts,
    result: TrainingResult,
    model: ModelSettings,
    training: TrainingSettings,
) -> None:
    """Writes what a training leaves besides its checkpoints."""
    progress, names = fitted.progress, read_names(examples, counts)
    without_raw = why_no_raw(examples, names)
    raw = None if without_raw else RawFeatures(examples, names)
    export_tower(fitted.model.tower, result.tower, raw=raw)
    write_video_vectors(fitted.model, counts, result.video_vectors)
    write_state(fitted.step, names, shape_of(examples.spec, model, fitted.step), result.state)
    curve = {"loss": progress.losses, "holdout": progress.holdout}
    write_json(curve | ({"stopping": progress.stopping} if progress.stopping else {}), result.history)
    info = _info(examples, model, training, progress, result)
    write_json({**info, "raw_signature": f"none: {without_raw}" if without_raw else "raw"}, result.info)


def fingerprint(
    examples: ExampleFiles, *, model: ModelSettings, training: TrainingSettings, earlier: Earlier | None = None
) -> str:
    """A digest of all that decides the course of a training: checkpoints of another one are never taken up."""
    files = [(path.rsplit("/", 1)[-1], tf.io.gfile.stat(path).length) for path in sorted(examples.train)]
    holdout = [(path.rsplit("/", 1)[-1], tf.io.gfile.stat(path).length) for path in sorted(examples.holdout)]
    began = [earlier.state.rsplit("/", 1)[-1], earlier.name, earlier.days] if earlier else []
    settings = [model.model_dump(), training.model_dump(exclude={"strategy", "checkpoint_steps", "cache_bytes"})]
    course = [files, holdout, asdict(examples.spec), *settings, began]
    if training.early_stopping_epochs:  # checkpoints of earlier versions were chosen by the held-out users
        course.append("users of its own")
    return hashlib.blake2b(json.dumps(course, sort_keys=True).encode(), digest_size=8).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m trainer.task", description=__doc__.splitlines()[0])
    parser.add_argument("--examples", required=True, help="folder of finished examples")
    parser.add_argument("--output", required=True, help="folder for the model")
    parser.add_argument("--settings", help="JSON file with the tables `model` and `training`")
    parser.add_argument("--attempt", default=uuid.uuid4().hex[:8], help="names the tower's folder")
    parser.add_argument("--earlier", help="folder of an earlier model to go on from")
    parser.add_argument("--earlier-days", type=int, default=1, help="days of logs that are new to it (default: 1)")
    parser.add_argument("--strategy", choices=KINDS, help="the devices to train on; that of the settings if left out")
    args = parser.parse_args(arguments)
    try:
        model, training = read_settings(args.settings)
        training = training.model_copy(update={"strategy": args.strategy or training.strategy})
        earlier = earlier_model(args.earlier, days=args.earlier_days) if args.earlier else None
        examples = read_folder(args.examples)
        result = train(examples, args.output, model=model, training=training, attempt=args.attempt, earlier=earlier)
    except (TrainingError, ValidationError, OSError, tf.errors.ResourceExhaustedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if result.start["why"]:
        print(result.start["why"], file=sys.stderr)
    print(json.dumps(asdict(result), indent=1))
    return 0


def read_settings(path: str | None) -> tuple[ModelSettings, TrainingSettings]:
    """The settings of a JSON file; the defaults without one. Raises TrainingError for a table of another name."""
    tables: dict[str, Any] = {}
    if path is not None:
        if not tf.io.gfile.exists(path):
            raise TrainingError(f"{path} does not exist: --settings must name a JSON file, or be left out")
        with tf.io.gfile.GFile(path, "r") as file:
            tables = _parse(file.read(), path)
    if unknown := sorted(set(tables) - {"model", "training"}):
        raise TrainingError(f"{path} may hold the tables model and training, but holds {', '.join(unknown)}")
    return ModelSettings(**tables.get("model", {})), TrainingSettings(**tables.get("training", {}))


def earlier_model(folder: str, *, days: int) -> Earlier:
    """The model that a training left in the folder `folder`. Raises TrainingError where there is none."""
    info = f"{folder.rstrip('/')}/info.json"
    if not tf.io.gfile.exists(info):
        raise TrainingError(f"{info} does not exist: --earlier must name the output folder of a training")
    with tf.io.gfile.GFile(info, "r") as file:
        state = _parse(file.read(), info).get("state", "state")
    return Earlier(state=f"{folder.rstrip('/')}/{state}", name=folder, days=days)


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        tables = json.loads(text)
    except json.JSONDecodeError as error:
        raise TrainingError(f"{path} must be JSON, but {error}") from None
    if not isinstance(tables, dict):
        raise TrainingError(f"{path} must hold one JSON object with the tables model and training")
    return tables


def _info(
    examples: ExampleFiles,
    model: ModelSettings,
    training: TrainingSettings,
    progress: Progress,
    result: TrainingResult,
) -> dict[str, Any]:
    return {
        "tower": result.tower.rsplit("/", 1)[-1],
        "state": result.state.rsplit("/", 1)[-1],
        "start": result.start,
        "model": model.model_dump(),
        "training": training.model_dump(),
        "seed": training.seed,
        "spec": asdict(examples.spec),
        "dates": examples.dates,
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "numpy", "pyarrow")},
        "steps": progress.steps,
        "examples": progress.examples,
        "seconds": round(progress.seconds, 3),
        "waiting_for_input_share": round(progress.waiting_seconds / max(progress.seconds, 1e-9), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
