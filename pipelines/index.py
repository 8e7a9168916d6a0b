"""Stage 5: build the search indexes over the videos that may be shown.

catalogue, the model's videos  -> candidate_videos -> index/videos.parquet
catalogue, model/video_vectors -> fit_content_rows -> index/new_videos-*.parquet: vectors of recently uploaded videos
model/video_vectors            -> WriteIndex       -> index/candidates-*/SHARD/, index/similar-*/SHARD/
                                                      index/info.json: their parameters, recall and speed
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import asdict
from typing import Any

import polars as pl

from pipelines.base import manifest, paths
from pipelines.night import artifacts
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import IndexOutputs, NewVideosFile, TrainOutputs, built_index
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.records import WriteRecords, pop_records
from transforms.examples.video_features import COLUMNS, video_features
from transforms.search.candidates import AGE, candidate_videos, condition_columns, recent_videos, shard_count
from transforms.search.content_vectors import MOST_VIDEOS, fit_content_rows, label_weights, thin_out
from transforms.search.index_files import (
    KINDS,
    VIDEOS,
    IndexInputs,
    IndexPart,
    IndexShard,
    WriteIndex,
    read_vectors,
    summarize_index,
)
from transforms.search.new_videos import NEW_VIDEOS

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
    if night.job.neighbours.new_videos:
        settings["new_videos"] = [moment.isoformat() for moment in (_recent_since(night), *_new_span(night))]
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
    new, new_entries = _write_new_videos(night, folder, attempt)
    info = {kind: asdict(summary) for kind, summary in summarize_index(found.of(IndexShard), folder).items()}
    entries += found.of(FileEntry) + new_entries
    entries.append(files.write_bytes(folder, INFO, 1, json.dumps(info, indent=1).encode()))
    folders = {kind: [part.folder(attempt, inputs.shards) for part in parts if part.kind == kind] for kind in kinds}
    built = {kind: built_index(info[kind], folders[kind]) for kind in kinds}
    counts = {} if new is None else {"new_videos": new.new}
    return StageResult(entries, IndexOutputs(**built, new_videos=new), counts, timed=[INFO])


def _candidates(night: Night) -> pl.DataFrame:
    """Return video_id, id and upload_time of the videos that may be shown, ordered by video_id."""
    only, catalogue = night.job.index.only, night.ingested.catalogue()
    columns = sorted({"video_id", "available", "upload_time"} | condition_columns(only) - {AGE})
    known = files.read_parquet(catalogue, columns) if catalogue else None
    vectors = files.read_parquet(paths.join(night.folder("train"), artifacts.VIDEO_VECTORS), ["video_id", "id"])
    return candidate_videos(vectors, known, only, night.dates.end)


def _write_new_videos(night: Night, folder: str, attempt: str) -> tuple[NewVideosFile | None, list[FileEntry]]:
    """Write the vectors of the videos uploaded in the last days; without a catalogue to learn from, write nothing.

    They also include those uploaded before the held-out days, which evaluation treats as new. Nothing is learned from
    the vectors of these videos, because a new video has none.
    """
    path = night.ingested.catalogue()
    if path is None or not night.job.neighbours.new_videos:
        return None, []
    only, model = night.job.index.only, paths.join(night.folder("train"), artifacts.VIDEO_VECTORS)
    columns = {"video_id", "available", "upload_time", *COLUMNS} | condition_columns(only) - {AGE}
    catalogue, oldest = files.read_parquet(path, sorted(columns)), _recent_since(night)
    counts = files.read_parquet(paths.join(night.folder("vocabulary"), artifacts.VIDEOS))
    recent = recent_videos(counts, catalogue, only, since=oldest, end=night.dates.end)
    known = files.read_parquet(model, ["video_id", "id", "label_count"]).join(catalogue, on="video_id")
    earlier = pl.col("label_count") > 0, (pl.col("upload_time") < oldest).fill_null(True)
    known = thin_out(known.filter(*earlier).sort("id"), MOST_VIDEOS)
    if known.is_empty():
        return None, []
    weights = label_weights(known["label_count"].to_numpy())
    rows = fit_content_rows(video_features(known), read_vectors(model, known["id"].to_numpy()), weights)
    features = video_features(recent.join(catalogue.select(COLUMNS), on="video_id", maintain_order="left"))
    vectors = pl.Series(rows.vectors(features, videos=recent.height), dtype=pl.Array(pl.Float32, len(rows.base)))
    written = recent.with_columns(vector=vectors.cast(pl.List(pl.Float32))).match_to_schema(NEW_VIDEOS)
    name, (since, until) = f"new_videos-{attempt}.parquet", _new_span(night)
    entry = files.write_parquet(written, folder, name)
    new = written.filter(pl.col("upload_time") >= since, pl.col("count") == 0).height
    return NewVideosFile(file=name, since=since, until=until, new=new), [entry]


def _new_span(night: Night) -> tuple[dt.datetime, dt.datetime]:
    """Return the moments between which a new video was uploaded."""
    return night.dates.end - dt.timedelta(days=night.job.neighbours.new_days), night.dates.end


def _recent_since(night: Night) -> dt.datetime:
    """Return the moment from which a video was uploaded that is new now, or was at the start of the held-out days."""
    return night.dates.holdout_start - dt.timedelta(days=night.job.neighbours.new_days)


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
        trends=night.outputs(TrainOutputs).trends,
    )


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
