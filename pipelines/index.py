"""Stage 5: build the search indexes over the videos that may be shown.

catalogue, the model's videos -> candidate_videos -> index/videos.parquet
model/video_vectors           -> WriteIndex       -> index/candidates-*/SHARD/, index/similar-*/SHARD/
                                                     index/info.json: their parameters, recall and speed
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import polars as pl

from pipelines.base import manifest, paths
from pipelines.night import artifacts
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import IndexOutputs, TrainOutputs, built_index
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.records import WriteRecords, pop_records
from transforms.search.candidates import AGE, candidate_videos, condition_columns, shard_count
from transforms.search.index_files import (
    KINDS,
    VIDEOS,
    IndexInputs,
    IndexPart,
    IndexShard,
    WriteIndex,
    summarize_index,
)

INFO = "info.json"


def plan(night: Night) -> Plan:
    """Return the plan: the model, the videos that may be shown, and the number of neighbours to search for."""
    catalogue = [entry.digest for entry in night.require("ingest").named("videos-")]
    inputs = {"model": night.require("train").digest, "catalogue": manifest.fingerprint(catalogue)}
    settings: dict[str, Any] = {
        "index": night.job.index.model_dump(),
        "neighbours": night.job.neighbours.model_dump(include={"k", "similar"}),
    }
    if AGE in condition_columns(night.job.index.only):
        settings["date"] = night.date.isoformat()
    return Plan("index", inputs, settings)


def run(night: Night) -> None:
    """Build the indexes. Raises NoCandidatesError if no video may be shown, StageError if the model has no vectors."""
    if night.job.model.loss == "hierarchical_softmax":
        raise StageError(
            'loss = "hierarchical_softmax" learns a tree and no video vectors, so there is nothing to index: it serves '
            'to compare losses by the curves in history.json; set loss = "sampled_softmax" ([model]) to publish'
        )
    complete(night, plan(night), _work)


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    videos = _candidates(night)
    entries = [files.replace_parquet(videos, folder, VIDEOS)]
    inputs = _inputs(night, folder, shard_count(videos.height, night.job.index.shard_videos))
    kinds = KINDS if inputs.similar else KINDS[:1]
    parts = [IndexPart(kind, shard) for kind in kinds for shard in range(inputs.shards)]
    records = paths.join(folder, f"records-{attempt}.json")
    with night.beam.pipeline("index") as pipeline:
        pipeline | night.beam.create(parts) | WriteIndex(inputs, folder, attempt) | WriteRecords(records)
    found = pop_records(records, FileEntry, IndexShard)
    info = {kind: asdict(summary) for kind, summary in summarize_index(found.of(IndexShard), folder).items()}
    entries += found.of(FileEntry)
    entries.append(files.write_bytes(folder, INFO, 1, json.dumps(info, indent=1).encode()))
    folders = {kind: [part.folder(attempt, inputs.shards) for part in parts if part.kind == kind] for kind in kinds}
    built = {kind: built_index(info[kind], folders[kind]) for kind in kinds}
    return StageResult(entries, IndexOutputs(**built), timed=[INFO])


def _candidates(night: Night) -> pl.DataFrame:
    """Return video_id, id and upload_time of the videos that may be shown, ordered by video_id."""
    only, catalogue = night.job.index.only, night.ingested.catalogue()
    columns = sorted({"video_id", "available", "upload_time"} | condition_columns(only) - {AGE})
    known = files.read_parquet(catalogue, columns) if catalogue else None
    vectors = files.read_parquet(paths.join(night.folder("train"), artifacts.VIDEO_VECTORS), ["video_id", "id"])
    return candidate_videos(vectors, known, only, night.dates.end)


def _inputs(night: Night, folder: str, shards: int) -> IndexInputs:
    model, examples = night.folder("train"), night.folder("examples")
    return IndexInputs(
        vectors=paths.join(model, artifacts.VIDEO_VECTORS),
        videos=paths.join(folder, VIDEOS),
        tower=paths.join(model, night.outputs(TrainOutputs).tower),
        serving=tuple(manifest.entry_paths(night.require("examples").named("serving/"), examples)),
        k=night.job.neighbours.k,
        similar=night.job.neighbours.similar,
        recall=night.job.index.recall,
        shards=shards,
    )


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
