"""Train a ranker from the ranking records of a night.

Call `train_ranker`, or use the command line, as training services do:

    python -m trainer.ranker.task --records FOLDER --output ranker --settings settings.json

The folder holds `spec.json`, `train/*.tfrecord.gz` and, if the spec has numbers, the TFT graph in `transform_fn/`. The
settings file is a JSON object of `trainer.ranker.config.RankerSettings`; omitted settings have their defaults. A folder
`vocabulary` next to it holds the names of the ids. With them the training writes its state, and `--earlier`, the output
folder of an earlier training, names the ranker to go on from.
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
from trainer.ranker.warm_start import ranker_shape
from trainer.state import write_state
from trainer.task import earlier_model
from trainer.warm_start import StartSummary, WarmStartSource
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

VOCABULARIES = ("videos", "channels", "tokens")


@dataclass(frozen=True, kw_only=True)
class RankerResult:
    """The paths of the outputs of a training, and its figures."""

    ranker: str  # folder of the SavedModel
    state: str  # folder of the state that a later training can start from
    history: str
    info: str
    steps: int
    examples: int  # impressions learned from, in all epochs
    seconds: float  # in the loop
    loss: float  # at the last point of the curve
    start: StartSummary  # what it started from
    auto: dict[str, str]  # the values of the settings that were "auto", with their reasons


def train_ranker(
    files: RankingFiles,
    output: str,
    *,
    settings: RankerSettings,
    attempt: str,
    earlier: WarmStartSource | None = None,
) -> RankerResult:
    """Train a ranker and write to the folder `output`: `ranker-ATTEMPT/`, `state-ATTEMPT/`, `history.json` (the loss
    curve), `info.json`.

    `earlier`: the ranker to go on from. Raises TrainingError if nothing can be learned from the records, and if the
    training diverges.
    """
    output = output.rstrip("/")
    fitted = fit_ranker(files, settings, earlier=earlier)
    progress = fitted.progress
    result = RankerResult(
        ranker=f"{output}/ranker-{attempt}",
        state=f"{output}/state-{attempt}",
        history=f"{output}/history.json",
        info=f"{output}/info.json",
        steps=progress.steps,
        examples=progress.examples,
        seconds=progress.seconds,
        loss=progress.losses[-1]["loss"],
        start=fitted.start.summary(fitted.vocabularies),
        auto=fitted.explained,
    )
    export_ranker(fitted.ranker, result.ranker)
    shape = ranker_shape(files.spec, fitted.settings, fitted.ranker)
    write_state(fitted.step, fitted.vocabularies, shape, result.state)
    write_json({"loss": progress.losses}, result.history)
    info = {
        **asdict(result),
        "ranker": result.ranker.rsplit("/", 1)[-1],
        "state": result.state.rsplit("/", 1)[-1],
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
    possible = {name: f"{folder.rpartition('/')[0]}/vocabulary/{name}.parquet" for name in VOCABULARIES}
    vocabularies = {name: path for name, path in possible.items() if tf.io.gfile.exists(path)}
    return RankingFiles(train=tuple(sorted(paths)), spec=spec, graph=graph, vocabularies=vocabularies)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 1 after printing one line about the error."""
    parser = argparse.ArgumentParser(prog="python -m trainer.ranker.task", description=__doc__.splitlines()[0])
    parser.add_argument("--records", required=True, help="folder of ranking records")
    parser.add_argument("--output", required=True, help="folder for the ranker")
    parser.add_argument("--settings", help="JSON file of settings")
    parser.add_argument("--earlier", help="output folder of an earlier training to go on from")
    parser.add_argument("--attempt", default=uuid.uuid4().hex[:8], help="suffix of the ranker's folder")
    args = parser.parse_args(arguments)
    try:
        settings, files = read_settings(args.settings), read_ranking_folder(args.records)
        earlier = earlier_model(args.earlier, days=1) if args.earlier else None
        result = train_ranker(files, args.output, settings=settings, attempt=args.attempt, earlier=earlier)
    except (TrainingError, ValidationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if result.start["why"]:
        print(result.start["why"], file=sys.stderr)
    print(json.dumps(asdict(result), indent=1))
    return 0


def read_settings(path: str | None) -> RankerSettings:
    """Return the settings of a JSON file; the defaults without one. Raises TrainingError if it does not exist."""
    if path is None:
        return RankerSettings()
    return RankerSettings.model_validate_json(read_file(path, "--settings must name a JSON file"))


if __name__ == "__main__":
    sys.exit(main())
