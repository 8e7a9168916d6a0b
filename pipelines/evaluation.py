"""Stage 8: measure the night on held-out users and on the last day, and write its report.

store, vocabulary                             -> CountVideos, WriteCoWatches: baselines to compare with
lists published before, store                 -> MeasureNextDay
examples/holdout, store, model, index, those  -> WriteEvaluation -> evaluation/lists/*.parquet
those lists, ranker                           -> the same lists as they are served, measured
all measurements -> evaluation/metrics.json; manifests of all stages, metrics -> the night's report.html
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import apache_beam as beam

from pipelines import neighbours, ranking
from pipelines.base import manifest, paths
from pipelines.night import artifacts
from pipelines.night.night import Night
from pipelines.night.outputs import EvaluationOutputs, IndexOutputs, RankingOutputs, VocabularyOutputs
from pipelines.night.published_nights import PublishedBefore, published_before, served_buckets
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from pipelines.reports import report
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.records import Records, WriteRecords, pop_records
from transforms.core.user_sampling import UserSample
from transforms.evaluation import item_to_item, night_metrics
from transforms.evaluation.baselines import CountVideos
from transforms.evaluation.evaluate_lists import WriteEvaluation
from transforms.evaluation.item_to_item import WriteCoWatches
from transforms.evaluation.measure_batch import HoldoutInputs, metric_cuts
from transforms.evaluation.next_day import MeasureNextDay
from transforms.evaluation.night_metrics import MeasuredRecord, ServedPlaces, ShownRecord
from transforms.evaluation.user_metrics import Measured
from transforms.examples.vocabulary import VocabularyFile
from transforms.logs.event_window import Window
from transforms.ranking.watch_time_recall import MeasuredRanking
from transforms.search.new_videos import NewVideos, read_new_videos
from transforms.search.user_limits import SearchInputs

METRICS = night_metrics.FILE
EXACT_USERS = 1_000  # searched exactly, to compare with approximate search
_LAST_DAY, _HELD_OUT_DAYS = "last_day", "held_out_days"  # files of counts of completed watches
_BASELINES = (VocabularyFile, FileEntry, MeasuredRecord, ServedPlaces)
_MEASURED = (FileEntry, MeasuredRecord, ShownRecord, MeasuredRanking)


def plan(night: Night) -> Plan:
    """Return the plan: the holdout, the model, the index, the excluded videos, and the publication before."""
    inputs = {stage: night.require(stage).digest for stage in ("examples", "train", "index", "neighbours")}
    limits = neighbours.limit_digests(night, held_out=True)
    if before := published_before(night):
        inputs["published_before"] = before.fingerprint
    settings = {"neighbours": night.job.neighbours.model_dump()}
    if ranked := manifest.load(night.folder("ranking")):
        inputs["ranking"] = ranked.digest
        if ranked.read(RankingOutputs).ranked:
            settings["ranking"] = night.job.ranking.model_dump(include={"cut"})
    return Plan("evaluation", {**inputs, **limits}, settings)


def run(night: Night) -> None:
    """Measure the night and write the report. Without a holdout and an earlier night, only write the report."""
    complete(night, plan(night), _work)
    report.write(night)


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    before = published_before(night)
    held_out = bool(night.require("examples").named("holdout/"))
    baselines = _measure_baselines(night, folder, attempt, before, held_out)
    search = _search(night, folder, baselines)
    found = _held_out(night, folder, attempt, baselines, search) if held_out else Records(_MEASURED)
    metrics = night_metrics.collect_metrics(
        [*baselines.of(MeasuredRecord), *found.of(MeasuredRecord)],
        found.of(ShownRecord),
        next(iter(found.of(MeasuredRanking)), None),
        k=night.job.neighbours.k,
        index=night.outputs(IndexOutputs).candidates.kind,
        holdout=(night.dates.holdout_start.isoformat(), night.dates.end.isoformat()),
        served=before.about() if before else None,
        cut=night.job.ranking.cut,
        diversity=night.job.neighbours.diversity,
        new_videos=(search.new.share, read_new_videos(search.new).height) if search.new else (0.0, 0),
        places=next(iter(baselines.of(ServedPlaces)), None),
    )
    written = files.write_bytes(folder, METRICS, 1, night_metrics.serialize(metrics))
    outputs = EvaluationOutputs(figures=night_metrics.ordered_figures(metrics))
    return StageResult([*found.of(FileEntry), written], outputs)


def _measure_baselines(
    night: Night, folder: str, attempt: str, before: PublishedBefore | None, held_out: bool
) -> Records:
    """Measure the lists published before, and write the baselines: all that needs no search."""
    served = served_buckets(night, before) if before else []
    if not served and not held_out:
        return Records(_BASELINES)
    records, k = paths.join(folder, f"baselines-{attempt}.json"), night.job.neighbours.k
    with night.beam.pipeline("evaluation") as pipeline:
        found = _baselines(night, pipeline, folder, attempt) if held_out else []
        if before and served:
            measured = (
                pipeline
                | "Served" >> night.beam.create(served)
                | MeasureNextDay(night.dates.window, before.start, metric_cuts(k), _new_videos_before(night, before))
            )
            found.append(measured | "Figures" >> beam.MapTuple(partial(_served_record, k=k)))
        found | beam.Flatten() | WriteRecords(records)
    return pop_records(records, *_BASELINES)


def _served_record(key: night_metrics.Key, value: Measured | ServedPlaces, *, k: int) -> MeasuredRecord | ServedPlaces:
    return value if isinstance(value, ServedPlaces) else night_metrics.measured_record(key, value, k=k)


def _new_videos_before(night: Night, before: PublishedBefore) -> NewVideos | None:
    """Return the videos that were new in the lists published before; None if the lists had none or they were
    dropped."""
    folder = night.root.stage(before.date, "index")
    outputs = manifest.load_outputs(folder, IndexOutputs)
    if outputs is None or outputs.new_videos is None:
        return None
    written = outputs.new_videos
    return NewVideos(path=paths.join(folder, written.file), since=written.since, until=written.until)


def _baselines(night: Night, pipeline: beam.Pipeline, folder: str, attempt: str) -> list[beam.PCollection]:
    counts = paths.join(night.folder("vocabulary"), artifacts.VIDEOS)
    last_day, n = _last_day(night), night.job.examples.watch_vocabulary
    count = CountVideos(last_day, night.holdout, n, folder, f"{_LAST_DAY}-{attempt}.parquet")
    near = WriteCoWatches(
        window=night.dates.window,
        holdout=night.holdout,
        counts=counts,
        shown=neighbours.search_inputs(night).videos,
        sample=_sample(night, night.outputs(VocabularyOutputs).window.users, item_to_item.MOST_USERS),
        folder=folder,
        name=f"co_watches-{attempt}.parquet",
    )
    written = [pipeline | "Last day" >> night.beam.create(night.ingested.buckets(last_day.start)) | count]
    if night.outputs(IndexOutputs).new_videos:
        days = replace(night.dates.window, start=night.dates.holdout_start)
        later = CountVideos(days, night.holdout, n, folder, f"{_HELD_OUT_DAYS}-{attempt}.parquet")
        buckets = pipeline | "Held-out days" >> night.beam.create(night.ingested.buckets(days.start))
        written.append(buckets | "Count held-out days" >> later)
    sampled = [bucket for bucket in night.ingested.buckets() if bucket.bucket < near.sample.buckets]
    return [*written, pipeline | "Co-watches" >> night.beam.create(sampled) | near]


def _last_day(night: Night) -> Window:
    """Return the last day that models may learn from."""
    end = night.dates.end if night.holdout.share < 1 else night.dates.holdout_start
    start = max(night.dates.start, end - dt.timedelta(days=1))
    return replace(night.dates.window, start=start, end=end)


def _sample(night: Night, users: int, most: int) -> UserSample:
    return UserSample.from_size(users=users, buckets=night.ingested.snapshot.buckets, max_users=most)


def _search(night: Night, folder: str, baselines: Records) -> SearchInputs:
    """Return the inputs of the search as of the start of the held-out days."""
    search, counted = neighbours.search_inputs(night, held_out=True), _count_files(baselines, _HELD_OUT_DAYS)
    if not counted:
        return search
    return replace(search, new=neighbours.new_videos(night, later_counts=_path(counted, folder)))


def _count_files(baselines: Records, name: str) -> list[FileEntry]:
    return [counts.file for counts in baselines.of(VocabularyFile) if counts.file.name.startswith(name)]


def _held_out(night: Night, folder: str, attempt: str, baselines: Records, search: SearchInputs) -> Records:
    """Search for the held-out users, and measure the lists."""
    records = paths.join(folder, f"records-{attempt}.json")
    users = sum(entry.rows for entry in night.require("examples").named("holdout/"))
    exact, ranked = night.outputs(IndexOutputs).candidates.kind == "exact", ranking.of_held_out(night)
    inputs = HoldoutInputs(
        search=search,
        counts=paths.join(night.folder("vocabulary"), artifacts.VIDEOS),
        last_day=_path(_count_files(baselines, _LAST_DAY), folder),
        co_watches=_path(baselines.of(FileEntry), folder),
        spec=paths.join(night.folder("examples"), "spec.json"),
        exact=None if exact else _sample(night, users, EXACT_USERS),
        ranking_cut=ranked.cut if ranked else None,
    )
    name = paths.shard_pattern(night.ingested.snapshot.buckets, attempt, "parquet")
    with night.beam.pipeline("evaluation") as pipeline:
        buckets = pipeline | night.beam.create(neighbours.bucket_records(night, "holdout"))
        write = WriteEvaluation(inputs, night.dates.window, folder, name, night.beam.threads, ranked)
        buckets | write | WriteRecords(records)
    return pop_records(records, *_MEASURED)


def _path(written: Sequence[FileEntry], folder: str) -> str:
    """Return the path of the one file that was written, "" for none."""
    return next((paths.join(folder, entry.name) for entry in written), "")


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
