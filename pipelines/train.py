"""Stage 4: the model, trained on one machine from the night's examples.

examples/train, examples/holdout -> trainer -> model/: user tower, video vectors, checkpoints, training curve
"""

from __future__ import annotations

import sys
from functools import partial

from pipelines import manifest, paths
from pipelines.stages import Night, Plan, StageResult, complete, stage_main
from transforms import files
from transforms.features import FeatureSpec

VECTORS, HISTORY, INFO = "video_vectors.parquet", "history.json", "info.json"


def plan(night: Night) -> Plan:
    """Depends on the examples and on every setting of `[model]` and `[training]`."""
    settings = [night.job.model.model_dump(), night.job.training.model_dump()]
    return Plan("train", {"examples": night.require("examples").digest}, settings)


def run(night: Night) -> None:
    """Train, or go on from the checkpoints of a run that was killed."""
    complete(night, plan(night), partial(_work, night), keep="checkpoints")


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    from trainer.examples import ExampleFiles
    from trainer.task import train

    base = night.folder("examples")
    listed = night.require("examples")
    examples = ExampleFiles(
        train=tuple(manifest.entries(listed.named("train/"), base)),
        holdout=tuple(manifest.entries(listed.named("holdout/"), base)),
        spec=FeatureSpec.from_json(files.read_bytes(paths.join(base, "spec.json")).decode()),
        label_counts=paths.join(base, "label_counts.parquet"),
    )
    result = train(examples, folder, model=night.job.model, training=night.job.training, attempt=attempt)
    entries = [files.entry_of(folder, name) for name in (VECTORS, HISTORY, INFO)]
    entries += [*files.entries_below(folder, f"tower-{attempt}"), *files.entries_below(folder, "tensorboard")]
    counts = {"tower": f"tower-{attempt}", "steps": result.steps, "examples": result.examples}
    return StageResult(entries, counts)


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
