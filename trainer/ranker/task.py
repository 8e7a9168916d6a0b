"""Trains a ranker: `train_ranker`, or from a folder of ranking records alone, as training services call it:

    python -m trainer.ranker.task --records FOLDER --output ranker --settings settings.json

The folder holds `spec.json`, `train/*.tfrecord.gz` and, where the spec has numbers, TFT's graph in `transform_fn/`. The
settings file is a JSON object with what differs from `trainer.ranker.config.RankerSettings`' defaults.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import ValidationError

from trainer.errors import TrainingError
from trainer.export import write_json
from trainer.ranker.config import RankerSettings
from trainer.ranker.export import export_ranker
from trainer.ranker.training import RankingFiles, fit_ranker
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf


@dataclass(frozen=True, kw_only=True)
class RankerResult:
    """Where everything is that a training left, and how it went."""

    ranker: str  # folder of the SavedModel
    history: str
    info: str
    steps: int
    examples: int  # impressions learned from, all passes together
    seconds: float  # in the loop
    loss: float  # over the last stretch of the curve


def train_ranker(files: RankingFiles, output: str, *, settings: RankerSettings, attempt: str) -> RankerResult:
    """Trains, and leaves in the folder `output`: `ranker-ATTEMPT/`, `history.json` (the loss curve) and `info.json`.

    Raises TrainingError for records that nothing can be learned from, and for a training that diverges.
    """
    output = output.rstrip("/")
    ranker, progress = fit_ranker(files, settings)
    result = RankerResult(
        ranker=f"{output}/ranker-{attempt}",
        history=f"{output}/history.json",
        info=f"{output}/info.json",
        steps=progress.steps,
        examples=progress.examples,
        seconds=progress.seconds,
        loss=progress.losses[-1]["loss"],
    )
    export_ranker(ranker, result.ranker)
    write_json({"loss": progress.losses}, result.history)
    waiting = round(progress.waiting_seconds / max(progress.seconds, 1e-9), 4)
    told = asdict(result) | {"ranker": result.ranker.rsplit("/", 1)[-1], "waiting_for_input_share": waiting}
    write_json({**told, "settings": settings.model_dump(), "spec": asdict(files.spec)}, result.info)
    return result


def read_ranking_folder(folder: str) -> RankingFiles:
    """The files of a folder of ranking records. Raises TrainingError where it holds no spec."""
    folder = folder.rstrip("/")
    if not tf.io.gfile.exists(f"{folder}/spec.json"):
        raise TrainingError(f"{folder}/spec.json does not exist: --records must name a folder of ranking records")
    with tf.io.gfile.GFile(f"{folder}/spec.json", "r") as file:
        spec = RankingSpec.from_json(file.read())
    paths = tf.io.gfile.glob(f"{folder}/train/*.tfrecord.gz")
    graph = f"{folder}/transform_fn/transform_fn" if spec.numbers else None
    return RankingFiles(train=tuple(sorted(paths)), spec=spec, graph=graph)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m trainer.ranker.task", description=__doc__.splitlines()[0])
    parser.add_argument("--records", required=True, help="folder of ranking records")
    parser.add_argument("--output", required=True, help="folder for the ranker")
    parser.add_argument("--settings", help="JSON file of settings")
    parser.add_argument("--attempt", default=uuid.uuid4().hex[:8], help="names the ranker's folder")
    args = parser.parse_args(arguments)
    try:
        settings, files = read_settings(args.settings), read_ranking_folder(args.records)
        result = train_ranker(files, args.output, settings=settings, attempt=args.attempt)
    except (TrainingError, ValidationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(result), indent=1))
    return 0


def read_settings(path: str | None) -> RankerSettings:
    """The settings of a JSON file; the defaults without one."""
    if path is None:
        return RankerSettings()
    if not tf.io.gfile.exists(path):
        raise TrainingError(f"{path} does not exist: --settings must name a JSON file, or be left out")
    with tf.io.gfile.GFile(path, "r") as file:
        return RankerSettings.model_validate_json(file.read())


if __name__ == "__main__":
    sys.exit(main())
