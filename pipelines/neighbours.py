"""Stage 6: search the k nearest videos of each user and of each video.

examples/serving, store (watched videos), model, index      -> WriteNeighbours -> neighbours/*, user_vectors/*
examples/defaults, model, index                             -> WriteNeighbours -> defaults/*.parquet
index                                                       -> WriteSimilar -> similar/*.parquet
similar/*, store                                            -> CheckFolding -> counts of the manifest
"""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import asdict
from typing import Any

import apache_beam as beam

from pipelines.base import manifest, paths, snapshot_store
from pipelines.base.snapshot_store import StoreFile
from pipelines.night.night import Night
from pipelines.night.outputs import BuiltIndex, IndexOutputs, NeighboursOutputs, TrainOutputs, VocabularyOutputs
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from trainer.auto import transitions_share
from transforms.core.files import FileEntry
from transforms.core.records import Counts, WriteRecords, add_counts, pop_records
from transforms.evaluation.folding_check import CheckFolding, FoldingCounts
from transforms.logs.event_window import BucketFiles, Window
from transforms.search.index_files import VIDEOS
from transforms.search.neighbours import WriteNeighbours
from transforms.search.new_videos import NewVideos
from transforms.search.similar import Block, WriteSimilar, split_rows
from transforms.search.transitions import TransitionSource
from transforms.search.user_limits import BucketRecords, SearchInputs

SIMILAR_BLOCK = 16_384


def plan(night: Night) -> Plan:
    """Return the plan: the serving records, the videos to exclude, the model, the index, and `[neighbours]`."""
    inputs = {stage: night.require(stage).digest for stage in ("examples", "train", "index")}
    settings = night.job.neighbours.model_dump() | {"transitions": _transitions_share(night)[0]}
    return Plan("neighbours", inputs | limit_digests(night), {"neighbours": settings})


def run(night: Night) -> None:
    """Write the lists of all users with a watch or search in the window, and the default lists of all others."""
    complete(night, plan(night), _work)


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    inputs = search_inputs(night)
    records = paths.join(folder, f"records-{attempt}.json")
    name = paths.shard_pattern(night.ingested.snapshot.buckets, attempt, "parquet")
    with night.beam.pipeline("neighbours") as pipeline:
        users = [*bucket_records(night, "serving"), *_default_records(night)]
        buckets = pipeline | "Buckets" >> night.beam.create(users)
        written = [buckets | WriteNeighbours(inputs, folder, name, f"defaults-{attempt}.parquet", night.beam.threads)]
        if night.job.neighbours.similar:
            blocks, write = _similar(night, inputs.videos, folder, attempt)
            similar = pipeline | "Blocks" >> night.beam.create(blocks) | write
            listed = similar | "Listed" >> beam.Map(lambda file: paths.join(folder, file.name))
            watched = pipeline | "Watched" >> night.beam.create(night.ingested.buckets())
            written += [similar, (listed, watched) | CheckFolding(night.dates.window, night.ingested.catalogue())]
        written | beam.Flatten() | WriteRecords(records)
    found = pop_records(records, FileEntry, Counts, FoldingCounts)
    counts: dict[str, Any] = dict(add_counts(found.of(Counts)))
    users = counts.pop("users", 0)
    if folding := found.of(FoldingCounts):
        counts["folding"] = asdict(folding[0])
    counts["notes"] = empty_lists_note(counts.get("empty_lists", 0), users, night.job.neighbours.exclude)
    share, reason = _transitions_share(night)
    if reason and night.outputs(TrainOutputs).transitions:
        counts["auto"] = {"neighbours.transitions": f"{share} ({reason})"}
        counts["notes"] += [f"{name} = {value}" for name, value in counts["auto"].items()]
    return StageResult(found.of(FileEntry), NeighboursOutputs(users=users), counts)


def empty_lists_note(empty: int, users: int, exclude: str) -> list[str]:
    """Return a note on the users whose lists are empty; no note if there are none."""
    if not empty:
        return []
    lists = f"all {users:,} lists are empty" if empty == users else f"{empty:,} of {users:,} lists are empty"
    return [
        f"{lists}: every candidate is excluded for their users, by what they watched "
        f'(neighbours.exclude = "{exclude}"), by logs.hidden or by the countries of the videos; index.only and the '
        "catalogue decide what the candidates are"
    ]


def search_inputs(night: Night, *, held_out: bool = False) -> SearchInputs:
    """Return the inputs of the search; with `held_out`, as of the start of the held-out days."""
    settings = night.job.neighbours
    window = Window(start=night.dates.start, end=night.dates.holdout_start) if held_out else night.dates.window
    return SearchInputs(
        tower=paths.join(night.folder("train"), night.outputs(TrainOutputs).tower),
        index=_shards(night, night.outputs(IndexOutputs).candidates),
        videos=paths.join(night.folder("index"), VIDEOS),
        k=settings.k,
        exclude=settings.exclude,
        watched_window=_watched_window(night, held_out=held_out),
        window=window,
        catalogue=night.ingested.catalogue(),
        max_share_per_channel=settings.max_share_per_channel,
        diversity=settings.diversity,
        trends=night.outputs(TrainOutputs).trends,
        as_of=night.dates.holdout_start if held_out else None,
        new=None if held_out else new_videos(night),
        transitions=_transitions(night),
    )


def _transitions(night: Night) -> TransitionSource | None:
    """Return the transitions to add to the lists; None if there are none, or their share is 0."""
    file, (share, _) = night.outputs(TrainOutputs).transitions, _transitions_share(night)
    if not file or not share:
        return None
    videos = paths.join(night.folder("index"), VIDEOS)
    return TransitionSource(path=paths.join(night.folder("train"), file), videos=videos, share=share)


def _transitions_share(night: Night) -> tuple[float, str]:
    """Return the share of next watches that transitions predict, and the reason if it follows from the window."""
    completed = night.outputs(VocabularyOutputs).window.completed
    return transitions_share(night.job.neighbours.transitions, completed=completed, preset=night.job.model.preset)


def new_videos(night: Night, *, later_counts: str | None = None) -> NewVideos | None:
    """Return which videos are new in the night's lists; None if no place is reserved.

    later_counts: return those that were new at the start of the held-out days instead. It is the path of the counts of
    completed watches since then (`vocabulary.COUNTS`), which the vocabulary includes.
    """
    written, settings = night.outputs(IndexOutputs).new_videos, night.job.neighbours
    if written is None or not settings.new_videos:
        return None
    span = {"since": written.since, "until": written.until}
    if later_counts is not None:
        start = night.dates.holdout_start
        span = {"since": start - dt.timedelta(days=settings.new_days), "until": start}
    path = paths.join(night.folder("index"), written.file)
    return NewVideos(path=path, share=settings.new_videos, later_counts=later_counts or "", **span)


def _watched_window(night: Night, *, held_out: bool) -> Window:
    """Return the window of the watches that are excluded, see `[neighbours] exclude_days`."""
    days, end = night.job.neighbours.exclude_days, night.dates.holdout_start if held_out else night.dates.end
    if days is None:
        return Window(start=night.dates.start, end=end)
    if days == 0:
        return Window(start=dt.datetime.min.replace(tzinfo=dt.UTC), end=end)
    last = night.date - dt.timedelta(days=night.job.examples.holdout_days if held_out else 0)
    return Window(start=night.dates.span(last - dt.timedelta(days=days))[0], end=end)


def _watched_files(night: Night, *, held_out: bool) -> list[StoreFile]:
    """Return the store's files of the watches that are excluded."""
    window = _watched_window(night, held_out=held_out)
    found = night.ingested.snapshot.files_between(window.start, window.end)
    return [file for file in found if file.table == "watches"]


def limit_digests(night: Night, *, held_out: bool = False) -> dict[str, str]:
    """Return digests of what excludes videos from lists: the window, watched videos, hidden pairs, the catalogue."""
    ingested = night.require("ingest")
    hidden, catalogue = ([entry.digest for entry in ingested.named(name)] for name in ("hidden/", "videos-"))
    return {
        "window": night.ingested.window_digest(),
        "seen": manifest.fingerprint(sorted(file.file.digest for file in _watched_files(night, held_out=held_out))),
        "hidden": manifest.fingerprint(hidden),
        "catalogue": manifest.fingerprint(catalogue),
    }


def bucket_records(night: Night, split: str) -> list[BucketRecords]:
    """Return, for each bucket, its files of the window and its record file of one split: `serving` or `holdout`."""
    listed = manifest.entry_paths(night.require("examples").named(f"{split}/"), night.folder("examples"))
    records, watched = {paths.shard_index(path): path for path in listed}, dict[int, list[str]]()
    for file in _watched_files(night, held_out=split == "holdout"):
        watched.setdefault(file.bucket, []).append(snapshot_store.path_to_read(night.root.store, file))
    return [
        BucketRecords(
            files=bucket, records=records.get(bucket.bucket, ""), watched=tuple(watched.get(bucket.bucket, ()))
        )
        for bucket in night.ingested.buckets()
    ]


def _default_records(night: Night) -> list[BucketRecords]:
    """Return the records of unknown users, as one more bucket."""
    listed = manifest.entry_paths(night.require("examples").named("defaults-"), night.folder("examples"))
    after = BucketFiles(bucket=night.ingested.snapshot.buckets)
    return [BucketRecords(files=after, records=path, defaults=True) for path in listed]


def _shards(night: Night, index: BuiltIndex) -> tuple[str, ...]:
    """Return the paths of the shards of an index."""
    return tuple(paths.join(night.folder("index"), name) for name in index.folders)


def _similar(night: Night, videos: str, folder: str, attempt: str) -> tuple[list[Block], WriteSimilar]:
    """Return the blocks of videos to search similar videos for, and the transform that searches them."""
    index = night.outputs(IndexOutputs).similar
    assert index is not None, "stage index builds it if neighbours.similar is not 0"
    name = f"{{block:05d}}-{attempt}.parquet"
    write = WriteSimilar(_shards(night, index), videos, night.job.neighbours.similar, folder, name)
    return split_rows(list(index.shard_rows), SIMILAR_BLOCK), write


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
