"""Stage 3: encode the window's events as TFRecord files of training, holdout and serving records, one per user.

store, window by bucket -> DrawTimes -> write_graph -> examples/transform_fn
                        -> WriteExamples -> examples/{train,holdout,serving}/*.tfrecord.gz
                                         -> WriteLabelCounts -> examples/label_counts.parquet
search vocabulary -> examples/search_tokens.parquet
countries -> WriteDefaultExamples -> examples/defaults-*.tfrecord.gz: the records of unknown users
"""

from __future__ import annotations

import datetime as dt
import sys
from typing import Any

import apache_beam as beam

from pipelines import train
from pipelines.base import manifest, paths
from pipelines.night import artifacts
from pipelines.night.night import Night
from pipelines.night.outputs import ExamplesOutputs, VocabularyOutputs
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from trainer.auto import labels_per_user, partial_watches, rules_version
from transforms.contracts.example_spec import FeatureSpec
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.records import Counts, WriteRecords, add_counts, pop_records
from transforms.examples import skew
from transforms.examples.draw_examples import AGE, LabelDraw
from transforms.examples.encoding import SampleTimes, write_graph
from transforms.examples.write_examples import (
    ExampleInputs,
    FeatureHistograms,
    WriteDefaultExamples,
    WriteExamples,
    WriteLabelCounts,
)


def plan(night: Night) -> Plan:
    """Return the plan: the window's events, the vocabularies, and all settings of `[examples]`."""
    inputs = {"window": night.ingested.window_digest(), "vocabulary": night.require("vocabulary").digest}
    settings = {"date": night.date.isoformat(), "examples": night.job.examples.model_dump()}
    if rules := rules_version(night.job.examples.model_dump(include={"per_user", "partial_watches"})):
        settings |= rules | {"model": night.job.model.model_dump(include={"preset"})}
    return Plan("examples", inputs, settings, _due(night))


def _due(night: Night) -> str:
    """Return why the stage must run again: stage train needs training records that were dropped after publishing."""
    found = manifest.load_readable(night.folder("examples"))
    if found is None or found.dropped is None or train.plan(night).is_done(night):
        return ""
    return "stage train is to run, and the training records were dropped after publishing (storage.keep_examples)"


def run(night: Night) -> None:
    """Write the records of the night, and the graph that encodes features."""
    complete(night, plan(night), _work)


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    newest, spec = night.outputs(VocabularyOutputs).window.newest, _spec(night)
    graph = f"transform_fn/{attempt}"
    written_graph = _write_graph(night, folder, graph, f"times-{attempt}.parquet")
    records = paths.join(folder, f"records-{attempt}.json")
    with night.beam.pipeline("examples") as pipeline:
        write = _writer(night, spec, newest, folder, graph, attempt)
        written = pipeline | night.beam.create(night.ingested.buckets()) | write
        labels = written["label_counts"] | WriteLabelCounts(write.inputs.videos, folder, "label_counts.parquet")
        write_defaults = WriteDefaultExamples(
            night.dates.end, spec, write.inputs.graph, folder, f"defaults-{attempt}.tfrecord.gz"
        )
        defaults = pipeline | "Defaults" >> night.beam.create([spec.categories.get("country", [])]) | write_defaults
        (written["records"], labels, defaults) | beam.Flatten() | WriteRecords(records)
    found = pop_records(records, FileEntry, Counts, FeatureHistograms)
    entries = found.of(FileEntry)
    entries.append(files.write_bytes(folder, "spec.json", 1, spec.to_json().encode()))
    if spec.tokens:  # a later night matches the ids of these tokens
        tokens = files.read_bytes(paths.join(night.folder("vocabulary"), artifacts.SEARCH_TOKENS))
        entries.append(files.write_bytes(folder, "search_tokens.parquet", spec.tokens, tokens))
    entries += written_graph
    features = skew.merge_histograms(part.features for part in found.of(FeatureHistograms))
    counts: dict[str, Any] = {**add_counts(found.of(Counts))}
    resolved = {"per_user": _labels_per_user(night), "partial_watches": _partial_watches(night)}
    auto = {name: f"{value} ({reason})" for name, (value, reason) in resolved.items() if reason}
    if auto:
        counts |= {"notes": [f"examples.{name} = {value}" for name, value in auto.items()], "auto": auto}
    return StageResult(
        entries, ExamplesOutputs(newest=newest, window_days=night.job.examples.window_days, features=features), counts
    )


def _labels_per_user(night: Night) -> tuple[int, str]:
    """Return the largest number of labels of a user, and the reason if it is resolved from the counts of the window."""
    window = night.outputs(VocabularyOutputs).window
    return labels_per_user(
        night.job.examples.per_user, watches=window.completed, users=window.users, preset=night.job.model.preset
    )


def _partial_watches(night: Night) -> tuple[bool, str]:
    """Return whether histories contain watches that were not completed, and the reason if the window decides."""
    window = night.outputs(VocabularyOutputs).window
    return partial_watches(
        night.job.examples.partial_watches,
        watches=window.watches,
        completed=window.completed,
        preset=night.job.model.preset,
    )


def _write_graph(night: Night, folder: str, graph: str, name: str) -> list[FileEntry]:
    """Write TFT's graph to `folder/graph` and return the entries of its files. `folder/name` holds the sampled times
    until TFT has analysed them."""
    window, times = night.outputs(VocabularyOutputs).window, paths.join(folder, name)
    with night.beam.pipeline("examples") as pipeline:
        draw = SampleTimes(night.dates.window, night.holdout, night.job.examples.seed, folder, name)
        pipeline | night.beam.create(night.ingested.buckets()) | draw
    written = write_graph(
        files.read_parquet(times),
        paths.join(folder, graph),
        newest=window.newest,
        categories=window.categories,
        pipeline=night.beam.local_pipeline(),
    )
    files.remove_files([times])
    return files.prefix_entries(written, graph)


def _writer(
    night: Night, spec: FeatureSpec, newest: dt.datetime, folder: str, graph: str, attempt: str
) -> WriteExamples:
    settings = night.job.examples
    draw = LabelDraw(
        per_user=_labels_per_user(night)[0],
        seed=settings.seed,
        holdout=night.holdout,
        newest=newest,
        end=night.dates.end,
        max_sequence=settings.max_sequence,
        watch_history=settings.watch_history,
        search_history=settings.search_history,
        withhold_last_search=settings.withhold_last_search,
    )
    base = night.folder("vocabulary")
    inputs = ExampleInputs(
        videos=paths.join(base, artifacts.VIDEOS),
        search_tokens=paths.join(base, artifacts.SEARCH_TOKENS) if spec.tokens else None,
        graph=paths.join(folder, graph),
        shared_rows=spec.shared_rows,
        partial_watches=spec.partial_watches,
    )
    name = paths.shard_pattern(night.ingested.snapshot.buckets, attempt, "tfrecord.gz")
    return WriteExamples(night.dates.window, draw, spec, inputs, folder, name, night.beam.threads)


def _spec(night: Night) -> FeatureSpec:
    """Return the specification of the features that the night's logs provide."""
    window = night.outputs(VocabularyOutputs).window
    rows = {entry.name: entry.rows for entry in night.require("vocabulary").files}
    return FeatureSpec(
        videos=rows[artifacts.VIDEOS],
        tokens=rows.get(artifacts.SEARCH_TOKENS, 0),
        watch_history=night.job.examples.watch_history,
        search_history=night.job.examples.search_history,
        categories=window.categories,
        numbers=[AGE] if window.birth_years else [],
        holdout_days=(night.dates.end - night.dates.holdout_start).days,
        shared_rows=night.job.examples.long_tail_rows if night.job.examples.long_tail == "hash" else 0,
        partial_watches=_partial_watches(night)[0],
    )


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
