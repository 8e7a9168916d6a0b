"""Stage 5: indexes over the videos that may be shown.

model/video_vectors, catalogue -> WriteIndex -> index/candidates-*, index/similar-*, index/videos.parquet
"""

from __future__ import annotations

import json
import sys
from functools import partial

from pipelines import manifest, paths, train
from pipelines.errors import StageError
from pipelines.stages import Night, Plan, StageResult, complete, stage_main
from transforms import files
from transforms.collect import WriteRecords, take_records
from transforms.files import FileEntry
from transforms.indexing import KINDS, IndexInputs, WriteIndex

INFO = "info.json"


def plan(night: Night) -> Plan:
    """Depends on the model, on which videos are available, and on how many neighbours will be asked for."""
    catalogue = [entry.digest for entry in night.require("ingest").named("videos-")]
    inputs = {"model": night.require("train").digest, "catalogue": manifest.fingerprint(catalogue)}
    neighbours = night.job.neighbours
    return Plan("index", inputs, [night.job.index.model_dump(), neighbours.k, neighbours.similar])


def run(night: Night) -> None:
    """Build the indexes. Raises NoCandidatesError where not one video may be shown, StageError for a tree of videos."""
    if night.job.model.loss == "hierarchical_softmax":
        raise StageError(
            'loss = "hierarchical_softmax" learns a tree and leaves no video vectors to index: it is for comparing '
            'losses alone, by the curves in history.json; take loss = "sampled_softmax" ([model]) to publish'
        )
    complete(night, plan(night), partial(_work, night))


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    model, examples = night.folder("train"), night.folder("examples")
    inputs = IndexInputs(
        vectors=paths.join(model, train.VECTORS),
        catalogue=night.catalogue(),
        tower=paths.join(model, night.require("train").counts["tower"]),
        serving=tuple(manifest.entries(night.require("examples").named("serving/"), examples)),
        k=night.job.neighbours.k,
        similar=night.job.neighbours.similar,
        recall=night.job.index.recall,
    )
    kinds = KINDS if inputs.similar else KINDS[:1]
    records = paths.join(folder, f"records-{attempt}.json")
    with night.pipeline() as pipeline:
        pipeline | night.create(kinds) | WriteIndex(inputs, folder, attempt) | WriteRecords(records)
    found = take_records(records)
    info = {record["kind"]: record["info"] for record in found if "kind" in record}
    entries = [FileEntry(**record["file"]) for record in found if "file" in record]
    entries.append(files.replace_entry(folder, INFO, 1, json.dumps(info, indent=1).encode()))
    return StageResult(entries, {"folders": {kind: f"{kind}-{attempt}" for kind in kinds}, "info": info})


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
