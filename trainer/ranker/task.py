"""Train a ranker from the ranking records of a night.

Call `train_ranker`, or use the command line, as training services do:

    python -m trainer.ranker.task --records FOLDER --output ranker --settings settings.json

The folder holds `spec.json`, `train/*.tfrecord.gz` and, if the spec has numbers, the TFT graph in `transform_fn/`. The
settings file is a JSON object of `trainer.ranker.config.RankerSettings`; omitted settings have their defaults.
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
from trainer.examples import read_file
from trainer.export import write_json
from trainer.ranker.config import RankerSettings
from trainer.ranker.export import export_ranker
from trainer.ranker.training import RankingFiles, fit_ranker
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf


@dataclass(frozen=True, kw_only=True)
class RankerResult:
    """The paths of the outputs of a training, and its figures."""

    ranker: str  # folder of the SavedModel
    history: str
    info: str
    steps: int
    examples: int  # impressions learned from, in all epochs
    seconds: float  # in the loop
    loss: float  # at the last point of the curve
    auto: dict[str, str]  # the values of the settings that were "auto", with their reasons


def train_ranker(files: RankingFiles, output: str, *, settings: RankerSettings, attempt: str) -> RankerResult:
    """Train a ranker and write to the folder `output`: `ranker-ATTEMPT/`, `history.json` (the loss curve), `info.json`.

    Raises TrainingError if nothing can be learned from the records, and if the training diverges.
    """
    output = output.rstrip("/")
    fitted = fit_ranker(files, settings)
    progress = fitted.progress
    result = RankerResult(
        ranker=f"{output}/ranker-{attempt}",
        history=f"{output}/history.json",
        info=f"{output}/info.json",
        steps=progress.steps,
        examples=progress.examples,
        seconds=progress.seconds,
        loss=progress.losses[-1]["loss"],
        auto=fitted.explained,
    )
    export_ranker(fitted.ranker, result.ranker)
    write_json({"loss": progress.losses}, result.history)
    info = {
        **asdict(result),
        "ranker": result.ranker.rsplit("/", 1)[-1],
        "waiting_for_input_share": progress.waiting_share,
        "settings": fitted.settings.model_dump(),
        "spec": asdict(files.spec),
    }
    write_json(info, result.info)
    return result


def read_ranking_folder(folder: str) -> RankingFiles:
    """Return the files of a folder of ranking records. Raises TrainingError if it has no spec."""
    folder = folder.rstrip("/")
    spec = RankingSpec.from_json(
        read_file(f"{folder}/spec.json", "--records must name a folder of ranking records").decode()
    )
    paths = tf.io.gfile.glob(f"{folder}/train/*.tfrecord.gz")
    graph = f"{folder}/transform_fn/transform_fn" if spec.numbers else None
    return RankingFiles(train=tuple(sorted(paths)), spec=spec, graph=graph)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 1 after printing one line about the error."""
    parser = argparse.ArgumentParser(prog="python -m trainer.ranker.task", description=__doc__.splitlines()[0])
    parser.add_argument("--records", required=True, help="folder of ranking records")
    parser.add_argument("--output", required=True, help="folder for the ranker")
    parser.add_argument("--settings", help="JSON file of settings")
    parser.add_argument("--attempt", default=uuid.uuid4().hex[:8], help="suffix of the ranker's folder")
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
    """Return the settings of a JSON file; the defaults without one. Raises TrainingError if it does not exist."""
    if path is None:
        return RankerSettings()
    return RankerSettings.model_validate_json(read_file(path, "--settings must name a JSON file"))


if __name__ == "__main__":
    sys.exit(main())
