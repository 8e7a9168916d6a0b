"""Stage 6: every user's k nearest videos, and every video's.

examples/serving, store (what users have had), model, index -> WriteNeighbours -> neighbours/*, user_vectors/*
index                                                       -> WriteSimilar -> similar/*.parquet
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial

import apache_beam as beam

from pipelines import manifest, paths
from pipelines.stages import Night, Plan, StageResult, complete, stage_main
from transforms.collect import Record, WriteRecords, take_records
from transforms.files import FileEntry
from transforms.indexing import VIDEOS
from transforms.neighbours import BucketRecords, SearchInputs, WriteNeighbours, WriteSimilar

SIMILAR_BLOCK = 16_384


def plan(night: Night) -> Plan:
    """Depends on the serving records, what users have had, the model, the index, and `[neighbours]`."""
    inputs = {stage: night.require(stage).digest for stage in ("examples", "train", "index")}
    return Plan("neighbours", {**inputs, "window": night.window_digest()}, night.job.neighbours.model_dump())


def run(night: Night) -> None:
    """Write the lists of all served users: all with a watch or search in the window."""
    complete(night, plan(night), partial(_work, night))


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    inputs = search_inputs(night)
    records = paths.join(folder, f"records-{attempt}.json")
    name = paths.shard_pattern(night.snapshot.buckets, attempt, "parquet")
    with night.pipeline() as pipeline:
        buckets = pipeline | "Buckets" >> night.create(bucket_records(night, "serving"))
        written = [buckets | WriteNeighbours(night.window, inputs, folder, name)]
        if night.job.neighbours.similar:
            written.append(
                pipeline | "Blocks" >> night.create(_blocks(night)) | _similar(night, inputs.videos, folder, attempt)
            )
        written | beam.Flatten() | WriteRecords(records)
    found = take_records(records)
    return StageResult([FileEntry(**r["file"]) for r in found if "file" in r], total(found))


def search_inputs(night: Night) -> SearchInputs:
    """What to search this night with."""
    indexed = night.folder("index")
    return SearchInputs(
        tower=paths.join(night.folder("train"), night.require("train").counts["tower"]),
        index=paths.join(indexed, night.require("index").counts["folders"]["candidates"]),
        videos=paths.join(indexed, VIDEOS),
        k=night.job.neighbours.k,
        exclude=night.job.neighbours.exclude,
    )


def bucket_records(night: Night, split: str) -> list[BucketRecords]:
    """For each bucket, its files of the window and its record file of one split."""
    listed = manifest.entries(night.require("examples").named(f"{split}/"), night.folder("examples"))
    of_bucket = {paths.shard_index(path): path for path in listed}
    return [BucketRecords(files=bucket, records=of_bucket.get(bucket.bucket, "")) for bucket in night.buckets()]


def total(found: list[Record]) -> dict[str, int]:
    """The sums of all records' counts."""
    counts: Counter[str] = Counter()
    for record in found:
        counts.update(record.get("counts", {}))
    return dict(counts)


def _blocks(night: Night) -> list[tuple[int, int, int]]:
    """(block, start, end) over the positions of the index."""
    rows = night.require("index").counts["info"]["candidates"]["rows"]
    starts = range(0, rows, SIMILAR_BLOCK)
    return [(block, start, min(start + SIMILAR_BLOCK, rows)) for block, start in enumerate(starts)]


def _similar(night: Night, videos: str, folder: str, attempt: str) -> WriteSimilar:
    indexed = paths.join(night.folder("index"), night.require("index").counts["folders"]["similar"])
    name = f"{{block:05d}}-{attempt}.parquet"
    return WriteSimilar(indexed, videos, night.job.neighbours.similar, folder, name)


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
