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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from trainer.config import ModelSettings, TrainingSettings
from trainer.errors import TrainingError
from trainer.examples import ExampleFiles, read_folder, read_label_counts
from trainer.export import export_tower, write_json, write_video_vectors
from trainer.progress import Progress
from trainer.quiet import tf
from trainer.training import fit


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Where everything is that a training left, and how it went."""

    tower: str  # folder of the SavedModel
    video_vectors: str
    history: str
    info: str
    steps: int
    examples: int  # labels learned from, all epochs together
    seconds: float  # in the loop, earlier attempts included
    holdout: tuple[dict[str, Any], ...]  # the figures after each epoch; empty without holdout records


def train(
    examples: ExampleFiles, output: str, *, model: ModelSettings, training: TrainingSettings, attempt: str
) -> TrainingResult:
    """Trains, and leaves in the folder `output`: `tower-ATTEMPT/`, `video_vectors.parquet`, `history.json`,
    `info.json`, `checkpoints/` and `tensorboard/`.

    Takes up the checkpoints that an earlier attempt left there for the same examples and settings, and comes to the
    result that this attempt would have had. Raises TrainingError for examples that nothing can be learned from.
    """
    output = output.rstrip("/")
    counts = read_label_counts(examples)
    fitted, progress = fit(
        examples,
        counts,
        model_settings=model,
        settings=training,
        checkpoints=f"{output}/checkpoints/{fingerprint(examples, model=model, training=training)}",
        logs=f"{output}/tensorboard",
    )
    result = TrainingResult(
        tower=f"{output}/tower-{attempt}",
        video_vectors=f"{output}/video_vectors.parquet",
        history=f"{output}/history.json",
        info=f"{output}/info.json",
        steps=progress.steps,
        examples=progress.examples,
        seconds=progress.seconds,
        holdout=tuple(progress.holdout),
    )
    export_tower(fitted.tower, result.tower)
    write_video_vectors(fitted, counts, result.video_vectors)
    write_json({"loss": progress.losses, "holdout": progress.holdout}, result.history)
    write_json(_info(examples, model, training, progress, f"tower-{attempt}"), result.info)
    return result


def fingerprint(examples: ExampleFiles, *, model: ModelSettings, training: TrainingSettings) -> str:
    """A digest of all that decides the course of a training: checkpoints of another one are never taken up."""
    files = [(path.rsplit("/", 1)[-1], tf.io.gfile.stat(path).length) for path in sorted(examples.train)]
    holdout = [(path.rsplit("/", 1)[-1], tf.io.gfile.stat(path).length) for path in sorted(examples.holdout)]
    course = [files, holdout, asdict(examples.spec), model.model_dump(), training.model_dump()]
    return hashlib.blake2b(json.dumps(course, sort_keys=True).encode(), digest_size=8).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m trainer.task", description=__doc__.splitlines()[0])
    parser.add_argument("--examples", required=True, help="folder of finished examples")
    parser.add_argument("--output", required=True, help="folder for the model")
    parser.add_argument("--settings", help="JSON file with the tables `model` and `training`")
    parser.add_argument("--attempt", default=uuid.uuid4().hex[:8], help="names the tower's folder")
    args = parser.parse_args(arguments)
    try:
        model, training = read_settings(args.settings)
        result = train(read_folder(args.examples), args.output, model=model, training=training, attempt=args.attempt)
    except (TrainingError, ValidationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
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


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        tables = json.loads(text)
    except json.JSONDecodeError as error:
        raise TrainingError(f"{path} must be JSON, but {error}") from None
    if not isinstance(tables, dict):
        raise TrainingError(f"{path} must hold one JSON object with the tables model and training")
    return tables


def _info(
    examples: ExampleFiles, model: ModelSettings, training: TrainingSettings, progress: Progress, tower: str
) -> dict[str, Any]:
    return {
        "tower": tower,
        "model": model.model_dump(),
        "training": training.model_dump(),
        "seed": training.seed,
        "spec": asdict(examples.spec),
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "numpy", "pyarrow")},
        "steps": progress.steps,
        "examples": progress.examples,
        "seconds": round(progress.seconds, 3),
        "waiting_for_input_share": round(progress.waiting_seconds / max(progress.seconds, 1e-9), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
