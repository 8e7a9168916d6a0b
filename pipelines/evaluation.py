"""Stage 8: how good the night is, on held-out users, and its report.

examples/holdout, store, model, index -> WriteEvaluation -> evaluation/lists/*.parquet, evaluation/metrics.json
manifests of all stages, metrics -> evaluation/report.html
"""

from __future__ import annotations

import json
import sys
from functools import partial

from pipelines import neighbours, paths, report, vocabulary
from pipelines.stages import Night, Plan, StageResult, complete, stage_main
from transforms import evaluation, files
from transforms.collect import WriteRecords, take_records
from transforms.files import FileEntry
from transforms.window import Window

METRICS, REPORT = "metrics.json", "report.html"


def plan(night: Night) -> Plan:
    """Depends on the holdout, the model, the index, and on what serving leaves out."""
    inputs = {stage: night.require(stage).digest for stage in ("examples", "train", "index", "neighbours")}
    return Plan("evaluation", {**inputs, "window": night.window_digest()}, night.job.neighbours.model_dump())


def run(night: Night) -> None:
    """Search for the held-out users and write the report; without a holdout, the report alone."""
    complete(night, plan(night), partial(_work, night))


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    records = paths.join(folder, f"records-{attempt}.json")
    evaluate = evaluation.WriteEvaluation(
        window=Window(start=night.start, end=night.holdout_start),
        inputs=neighbours.search_inputs(night),
        counts=paths.join(night.folder("vocabulary"), vocabulary.VIDEOS),
        folder=folder,
        name=paths.shard_pattern(night.snapshot.buckets, attempt, "parquet"),
    )
    found = []
    if night.require("examples").named("holdout/"):
        with night.pipeline() as pipeline:
            buckets = pipeline | night.create(neighbours.bucket_records(night, "holdout"))
            buckets | evaluate | WriteRecords(records)
        found = take_records(records)
    systems = (evaluation.NEIGHBOURS, evaluation.MOST_POPULAR)
    metrics = {system: evaluation.merge_records(found, system, night.job.neighbours.k) for system in systems}
    metrics = {system: figures for system, figures in metrics.items() if figures}
    page = report.render(night, metrics)
    entries = [FileEntry(**record["file"]) for record in found if "file" in record]
    entries.append(files.replace_entry(folder, METRICS, 1, json.dumps(metrics, indent=1).encode()))
    entries.append(files.replace_entry(folder, REPORT, 1, page.encode()))
    return StageResult(entries, {"metrics": metrics})


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
