"""Stage 4: train the model on one machine, from the night's examples and the model of an earlier night.

examples/train, examples/holdout, an earlier model/state -> trainer -> model/: user tower, video vectors, transitions,
                                                            the state for the training of a later night, checkpoints,
                                                            training curve
"""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.base import manifest, paths
from pipelines.night import artifacts, local_workdir, warm_start_base
from pipelines.night.errors import StageError
from pipelines.night.local_workdir import LocalWorkdir
from pipelines.night.night import Night
from pipelines.night.outputs import ExamplesOutputs, TrainOutputs
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from pipelines.night.warm_start_base import EarlierModel
from trainer.auto import rules_version
from transforms.contracts.example_spec import FeatureSpec
from transforms.contracts.transitions import TRANSITIONS
from transforms.core import files

if TYPE_CHECKING:  # the trainer loads TensorFlow, which only the stage's own process needs
    from trainer.examples import ExampleFiles
    from trainer.warm_start import WarmStartSource


def plan(night: Night) -> Plan:
    """Return the plan: the examples, the earlier model, and all settings of `[model]` and `[training]`."""
    found = warm_start_base.of_night(night)
    inputs = {"examples": night.require("examples").digest, **({"earlier": found.digest} if found else {})}
    settings = {"model": night.job.model.model_dump(), "training": night.job.training.model_dump()}
    return Plan("train", inputs, settings | rules_version(*settings.values()))


def run(night: Night) -> None:
    """Train the model, or continue an interrupted training from its last checkpoint."""
    if not plan(night).is_done(night):
        warm_start_base.fix(night)
    complete(night, plan(night), _work, keep=local_workdir.CHECKPOINTS)


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    from trainer.task import train

    job, found = night.job, warm_start_base.of_night(night)
    with local_workdir.open_workdir(folder) as workdir:
        examples, base = _examples(night, workdir), _warm_start_source(night, found, workdir)
        result = train(
            examples,
            workdir.local,
            model=job.model,
            training=job.training,
            attempt=attempt,
            earlier=base,
            on_save=workdir.upload_checkpoints,
        )
        names = (artifacts.VIDEO_VECTORS, TRANSITIONS, artifacts.TRAINING_HISTORY, artifacts.MODEL_INFO)
        entries = workdir.upload_results(names, (f"tower-{attempt}", f"state-{attempt}", local_workdir.CURVES))
    outputs = TrainOutputs(
        tower=f"tower-{attempt}",
        state=f"state-{attempt}",
        trends=result.trends,
        transitions=TRANSITIONS,
        warm_start=warm_start_base.to_output(found) if job.training.warm_start else None,
    )
    notes = [note for note in (result.auto_note, result.start["why"]) if note]
    counts = {"steps": result.steps, "examples": result.examples, "start": result.start, "notes": notes}
    counts |= {"auto": result.auto} if result.auto else {}
    return StageResult(entries, outputs, counts)


def _examples(night: Night, workdir: LocalWorkdir) -> ExampleFiles:
    """Return the night's examples in a folder that the trainer can read."""
    from trainer.examples import LABEL_COUNTS, SEARCH_TOKENS, ExampleFiles, find_graph

    listed = night.require("examples")
    if listed.present != listed.files:
        raise StageError(f"the training records of {night.date} were dropped after publishing: run --from examples")
    names = [entry.name for entry in listed.files]
    local = workdir.download(night.folder("examples"), [name for name in names if not name.startswith("serving/")])
    outputs = listed.read(ExamplesOutputs)
    return ExampleFiles(
        train=tuple(manifest.entry_paths(listed.named("train/"), local)),
        holdout=tuple(manifest.entry_paths(listed.named("holdout/"), local)),
        spec=FeatureSpec.from_json(files.read_bytes(paths.join(local, "spec.json")).decode()),
        label_counts=paths.join(local, LABEL_COUNTS),
        search_tokens=paths.join(local, SEARCH_TOKENS) if listed.named(SEARCH_TOKENS) else None,
        graph=find_graph(local, names),
        labels=listed.counts.get("train_pointers"),
        users=max(0, _rows(listed, "train/") - _rows(listed, "holdout/")),
        window_days=outputs.window_days,
        dates={
            "start": night.dates.start.isoformat(),
            "end": night.dates.end.isoformat(),
            "newest": outputs.newest.isoformat(),
        },
    )


def _rows(listed: manifest.Manifest, folder: str) -> int:
    return sum(entry.rows for entry in listed.named(folder))


def _warm_start_source(night: Night, found: EarlierModel | None, workdir: LocalWorkdir) -> WarmStartSource | None:
    """Return the state of the earlier model in a folder that the trainer can read."""
    from trainer.warm_start import WarmStartSource

    if found is None:
        return None
    earlier = replace(night, date=dt.date.fromisoformat(found.date))
    done = earlier.require("train")
    state = done.read(TrainOutputs).state
    local = workdir.download(earlier.folder("train"), [entry.name for entry in done.named(f"{state}/")])
    return WarmStartSource(state=f"{local}/{state}", name=found.date, days=(night.date - earlier.date).days)


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
