"""Stage 7: rank the first videos of each list by expected watch time, if there are impressions (paper, section 4).

impressions, store              -> CountImpressions -> WriteVocabulary -> ranked/vocabulary/*.parquet
                                                    -> WriteOutcomes -> ranked/outcomes/DAY.parquet
those, earlier nights' lists    -> WriteRankingExamples -> examples/{train,holdout}/*
                                -> DrawNumbers -> write_numbers_graph -> examples/transform_fn
examples/train                  -> trainer -> ranked/training/ranker-ATTEMPT/
examples/holdout, ranker        -> BinImpressions -> calibration, stored with the ranker
holdout, model, index, both     -> ChooseOrder -> weight of the neighbours' order in that of the lists
examples/holdout, both          -> MeasureRanker -> outputs and counts of the manifest
neighbours/*, store, ranker     -> RankCandidates -> ranked/*.parquet, as neighbours, with expected_seconds

Without impressions the stage writes no files, the lists keep the order of stage neighbours, and a note says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

import apache_beam as beam

from pipelines import neighbours
from pipelines.base import manifest, paths
from pipelines.night import artifacts, local_workdir, outcome_files, publication_file, ranking_nights, sink_protocol
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import RankedLists, RankingOutputs, VocabularyOutputs
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from trainer.auto import rules_version
from trainer.config import AUTO
from trainer.ranker.auto import unclicked_share
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.records import Counts, Records, WriteRecords, add_counts, pop_records
from transforms.examples.vocabulary import VocabularyFile, WriteVocabulary
from transforms.ranking.calibration import (
    KNOT_CLICKS,
    Calibration,
    CalibrationBins,
    fit_calibration,
    write_calibration,
)
from transforms.ranking.encoding import DrawNumbers, write_numbers_graph
from transforms.ranking.generator_features import GeneratorNight
from transforms.ranking.held_out_orders import ChooseOrder
from transforms.ranking.measured_calibration import class_edges
from transforms.ranking.order import ChosenOrder, choose_order
from transforms.ranking.outcome_features import OUTCOME_NUMBERS, Outcomes
from transforms.ranking.outcomes import WriteOutcomes
from transforms.ranking.rank_lists import HeldOutRanking, ListRanking, RankCandidates
from transforms.ranking.ranker import BinImpressions, MeasureRanker, RankerFigures
from transforms.ranking.records import FOLDER, RankingBucket, RankingInputs, WriteRankingExamples, read_outcomes
from transforms.ranking.vocabulary import CountedDays, CountImpressions, ImpressionCounts, build_spec, merge_counts

VIDEOS, CHANNELS = "vocabulary/videos.parquet", "vocabulary/channels.parquet"
GRAPH = f"{FOLDER}/transform_fn"
TRAINING, RANKER = "training", "ranker"
_SETTINGS = {"holdout_days", "holdout_users", "seed", "search_history", "max_events_per_day", "user_categories"}


def plan(night: Night) -> Plan:
    """Return the plan: the lists, all events of the window, the scores of earlier nights, and `[ranking]`."""
    lists = night.require(publication_file.NEIGHBOURS)
    inputs = {publication_file.NEIGHBOURS: lists.digest}
    if why_not(night):
        return Plan("ranking", inputs, {"ranking": {"candidates": 0}})
    catalogue = [entry.digest for entry in night.require("ingest").named("videos-")]
    inputs |= {
        "window": night.ingested.window_digest(outcome_files.TABLES),
        "catalogue": manifest.fingerprint(catalogue),
    }
    inputs |= {stage: night.require(stage).digest for stage in ("vocabulary", "train")}
    inputs["generators"] = manifest.fingerprint(ranking_nights.generators(night))
    table = night.job.ranking.model_dump()
    if night.job.ranking.order_weight == AUTO:
        inputs |= {stage: night.require(stage).digest for stage in ("examples", "index")}
        inputs["held_out_limits"] = manifest.fingerprint(neighbours.limit_digests(night, held_out=True))
    else:
        table.pop("cut")  # only stage evaluation uses it
    settings = {
        "date": night.date.isoformat(),
        "logs": night.job.logs.model_dump(include={"time_zone", "completed_fraction", "completed_seconds"}),
        "examples": night.job.examples.model_dump(include=_SETTINGS),
        "ranking": table,
    }
    return Plan("ranking", inputs, settings | rules_version(table))


def why_not(night: Night) -> str:
    """Return why the night's lists are not ranked; empty if they are."""
    if not night.job.ranking.candidates:
        return "ranking.candidates = 0: lists stay in the neighbours' order"
    if not any(
        file.table == outcome_files.IMPRESSIONS
        for file in night.ingested.snapshot.files_between(night.dates.start, night.dates.end)
    ):
        return "no impressions (logs.impressions): lists stay in the neighbours' order"
    return ""


def run(night: Night) -> None:
    """Train the ranker on the window's impressions, and rank the lists."""
    complete(night, plan(night), _work)


def _work(night: Night, folder: str, attempt: str) -> StageResult:
    if reason := why_not(night):
        return _not_ranked(reason)
    generators = ranking_nights.generators(night)
    found, entries = count_impressions(night, generators, folder, attempt)
    if not 0 < found.clicked < found.impressions:
        return _not_ranked(
            "none or all of the impressions that may be learned from were clicked: lists stay in their order"
        )
    spec = ranking_spec(night, found, entries)
    share, reason = unclicked_share(
        night.job.ranking.unclicked,
        impressions=found.impressions,
        clicked=found.clicked,
        days=night.job.examples.window_days,
    )
    written = write_ranking_examples(night, spec, generators, share, folder, attempt)
    learned, left = _train(night, spec, written, folder, attempt)
    held_out = sorted(manifest.entry_paths([entry for entry in written if "/holdout/" in entry.name], folder))
    bins = _bin_held_out(night, held_out, folder, attempt)
    calibration = fit_calibration(bins, longest_seconds=found.longest_seconds)
    entries += [*left, write_calibration(calibration, folder, _ranker(attempt))]
    entries += written if night.job.storage.keep_examples else []
    order = _choose_order(night, spec, folder, attempt)
    ranked = _rank(night, spec, order, held_out, class_edges(bins, calibration), folder, attempt)
    entries += ranked.of(FileEntry)
    lists = RankedLists(
        neighbours_attempt=night.require(publication_file.NEIGHBOURS).attempt,
        ranker=_ranker(attempt),
        generators=generators,
        expected_seconds=True,
        order=order,
    )
    counts: dict[str, Any] = {name: value for name, value in vars(found).items() if name != "values"}
    counts |= add_counts(ranked.of(Counts)) | learned
    measured = next(iter(ranked.of(RankerFigures)), None)
    counts["holdout"] = measured and {
        "figures": measured.figures,
        "calibration": [of_class.model_dump(mode="json") for of_class in measured.calibration.classes],
    }
    auto = {f"ranking.{name}": value for name, value in counts["auto"].items()}
    auto |= {"ranking.unclicked": f"{share} ({reason})"} if reason else {}
    if night.job.ranking.order_weight == AUTO:
        auto["ranking.order_weight"] = f"{order.weight} ({order.reason})"
    counts["auto"] = auto
    counts["notes"] = [*(f"{name} = {value}" for name, value in auto.items()), *_notes(found, calibration)]
    counted = {day.isoformat(): digest for day, digest in outcome_files.fingerprints(night).items()}
    outputs = RankingOutputs(ranked=lists, calibration=measured.calibration if measured else None, outcomes=counted)
    return StageResult(entries, outputs, counts)


def _notes(found: ImpressionCounts, calibration: Calibration) -> Iterator[str]:
    if not found.covered:
        yield "no night precedes the impressions: the ranker learned without the features of the generator"
    if not calibration.is_fitted:
        yield (
            f"the expected seconds are not calibrated: a half of the held-out users has fewer than {KNOT_CLICKS} clicks"
        )


def _not_ranked(reason: str) -> StageResult:
    return StageResult([], RankingOutputs(ranked=None), {"why_not": reason, "notes": [reason]})


def count_impressions(
    night: Night, generators: dict[str, str], folder: str, attempt: str
) -> tuple[ImpressionCounts, list[FileEntry]]:
    """Count the impressions; return the counts, and the entries of the ranker's vocabularies that are not empty and of
    the outcomes of each day."""
    starts = [ranking_nights.of_bucket(night, date, 0, 1).start for date in generators]
    first, settings = min(starts) if starts else None, night.job.ranking
    wanted = outcome_files.fingerprints(night)
    taken_over = outcome_files.take_over(night, wanted, folder)
    counted_days = CountedDays(
        days=tuple(day for day in wanted if day not in taken_over), rule=outcome_files.completion_rule(night)
    )
    count = CountImpressions(
        night.dates.window, night.holdout, night.ingested.catalogue() or "", first, counted_days, night.beam.threads
    )
    records = paths.join(folder, f"records-{attempt}.json")
    with night.beam.pipeline("ranking") as pipeline:
        counted = pipeline | night.beam.create(night.ingested.buckets()) | count
        videos = counted["videos"] | "Videos" >> WriteVocabulary(settings.video_vocabulary, folder, VIDEOS)
        channels = counted["channels"] | "Channels" >> WriteVocabulary(settings.channel_vocabulary, folder, CHANNELS)
        outcomes = counted["outcomes"] | "Outcomes" >> WriteOutcomes(folder, counted_days.days)
        (videos, channels, outcomes, counted["shown"]) | beam.Flatten() | WriteRecords(records)
    found = pop_records(records, VocabularyFile, ImpressionCounts, FileEntry)
    entries = [vocabulary.file for vocabulary in found.of(VocabularyFile)]
    return merge_counts(found.of(ImpressionCounts)), [*entries, *taken_over.values(), *found.of(FileEntry)]


def ranking_spec(night: Night, found: ImpressionCounts, vocabularies: list[FileEntry]) -> RankingSpec:
    """Return the specification of the ranker's features. found, vocabularies: as `count_impressions` returns them.

    An empty vocabulary has no file, for example if no clicked video has a channel.
    """
    rows = {entry.name: entry.rows for entry in vocabularies}
    tokens = {entry.name: entry.rows for entry in night.require("vocabulary").files}.get(artifacts.SEARCH_TOKENS, 0)
    return build_spec(
        found,
        videos=rows[VIDEOS],
        channels=rows.get(CHANNELS, 0),
        tokens=tokens,
        outcomes=_outcomes(night).numbers,
        watch_history=night.job.ranking.watch_history,
        search_history=night.job.examples.search_history,
        categories=night.outputs(VocabularyOutputs).window.categories,
    )


def _outcomes(night: Night) -> Outcomes:
    """Return the outcomes of the window's days, whose files are written."""
    catalogue = night.ingested.catalogue() or ""
    return read_outcomes(outcome_files.paths_of(night), catalogue, zone=night.dates.time_zone)


def inputs_of(night: Night, spec: RankingSpec) -> RankingInputs:
    """Return the inputs that all buckets share."""
    folder = night.folder("ranking")
    return RankingInputs(
        window=night.dates.window,
        spec=spec,
        zone=night.job.logs.time_zone,
        videos=paths.join(folder, VIDEOS),
        channels=paths.join(folder, CHANNELS) if spec.channels else "",
        tokens=paths.join(night.folder("vocabulary"), artifacts.SEARCH_TOKENS) if spec.tokens else "",
        catalogue=night.ingested.catalogue() or "",
        outcomes=outcome_files.paths_of(night) if {*spec.numbers} & {*OUTCOME_NUMBERS} else (),
    )


def write_ranking_examples(
    night: Night, spec: RankingSpec, generators: dict[str, str], unclicked: float, folder: str, attempt: str
) -> list[FileEntry]:
    """Write records of the impressions, and TFT's graph; return the entries of both.

    unclicked: share of the unclicked impressions that are learned from.
    """
    count = night.ingested.snapshot.buckets
    buckets = []
    for bucket_files in night.ingested.buckets():
        nights = tuple(ranking_nights.of_bucket(night, date, bucket_files.bucket, count) for date in generators)
        buckets.append(RankingBucket(files=bucket_files, nights=nights))
    name, records = paths.shard_pattern(count, attempt, "tfrecord.gz"), paths.join(folder, f"records-{attempt}.json")
    write = WriteRankingExamples(
        inputs_of(night, spec), night.holdout, folder, name, night.beam.threads, unclicked, night.job.ranking.seed
    )
    numbers = f"numbers-{attempt}.parquet"  # lies there until TFT has analysed it
    with night.beam.pipeline("ranking") as pipeline:
        written = pipeline | night.beam.create(buckets) | write
        written["numbers"] | DrawNumbers(spec, night.job.ranking.seed, folder, numbers)
        written["records"] | WriteRecords(records)
    drawn, graph = paths.join(folder, numbers), paths.join(folder, GRAPH)
    written_graph = write_numbers_graph(
        files.read_parquet(drawn), graph, spec=spec, pipeline=night.beam.local_pipeline()
    )
    files.remove_files([drawn])
    entries = pop_records(records, FileEntry, Counts).of(FileEntry)
    entries.append(files.write_bytes(folder, f"{FOLDER}/spec.json", 1, spec.to_json().encode()))
    return [*entries, *files.prefix_entries(written_graph, GRAPH)]


def _train(
    night: Night, spec: RankingSpec, written: list[FileEntry], folder: str, attempt: str
) -> tuple[dict[str, Any], list[FileEntry]]:
    """Train the ranker; return counts, and the entries of its files."""
    from trainer.ranker.config import RankerSettings
    from trainer.ranker.task import train_ranker
    from trainer.ranker.training import RankingFiles

    settings = night.job.ranking.model_dump(include=set(RankerSettings.model_fields))
    records = [entry for entry in written if "/train/" in entry.name]
    graph = [entry.name for entry in written if entry.name.startswith(f"{GRAPH}/")]
    with local_workdir.open_workdir(folder) as workdir:
        local = workdir.download(folder, [*(entry.name for entry in records), *graph])
        result = train_ranker(
            RankingFiles(
                train=tuple(manifest.entry_paths(records, local)),
                spec=spec,
                graph=paths.join(local, f"{GRAPH}/transform_fn") if spec.numbers else None,
            ),
            paths.join(workdir.local, TRAINING),
            settings=RankerSettings(**settings),
            attempt=attempt,
        )
        reports = (f"{TRAINING}/{artifacts.TRAINING_HISTORY}", f"{TRAINING}/{artifacts.MODEL_INFO}")
        entries = workdir.upload_results(reports, [_ranker(attempt)])
    return {"steps": result.steps, "examples": result.examples, "auto": result.auto}, entries


def _ranker(attempt: str) -> str:
    return f"{TRAINING}/{RANKER}-{attempt}"


def _bin_held_out(night: Night, held_out: list[str], folder: str, attempt: str) -> CalibrationBins:
    """Return the sums over the held-out impressions that the calibration is fitted on. held_out: paths of records."""
    records, ranker = paths.join(folder, f"records-{attempt}.json"), paths.join(folder, _ranker(attempt))
    with night.beam.pipeline("ranking") as pipeline:
        pipeline | night.beam.create(held_out) | BinImpressions(ranker) | WriteRecords(records)
    return reduce(
        CalibrationBins.merge, pop_records(records, CalibrationBins).of(CalibrationBins), CalibrationBins.empty()
    )


def _choose_order(night: Night, spec: RankingSpec, folder: str, attempt: str) -> ChosenOrder:
    """Return the order of the lists: the one that is set, or the one that held-out users choose."""
    settings, records = night.job.ranking, paths.join(folder, f"records-{attempt}.json")
    if settings.order_weight != AUTO:
        return ChosenOrder.fixed(settings.order_weight, "set by ranking.order_weight")
    if not night.require("examples").named("holdout/"):
        return choose_order(None, cut=settings.cut)
    by_seconds = ChosenOrder.fixed(0.0, "expected seconds alone")
    ranking = ListRanking(
        inputs=inputs_of(night, spec),
        ranker=paths.join(folder, _ranker(attempt)),
        count=settings.candidates,
        order=by_seconds,
    )
    choose = ChooseOrder(
        search=neighbours.search_inputs(night, held_out=True),
        ranking=_as_of_held_out_days(night, ranking),
        window=night.dates.window,
        threads=night.beam.threads,
    )
    with night.beam.pipeline("ranking") as pipeline:
        pipeline | night.beam.create(neighbours.bucket_records(night, "holdout")) | choose | WriteRecords(records)
    return pop_records(records, ChosenOrder).of(ChosenOrder)[0]


def _rank(
    night: Night,
    spec: RankingSpec,
    order: ChosenOrder,
    held_out: list[str],
    edges: list[float],
    folder: str,
    attempt: str,
) -> Records:
    """Rank the lists, and measure the expected seconds on held-out impressions; return the records of both.

    held_out: paths of records. edges: `class_edges` of their classes by prediction.
    """
    ranker, records = paths.join(folder, _ranker(attempt)), paths.join(folder, f"records-{attempt}.json")
    name = paths.shard_pattern(night.ingested.snapshot.buckets, attempt, "parquet")
    ranking = ListRanking(inputs=inputs_of(night, spec), ranker=ranker, count=night.job.ranking.candidates, order=order)
    rank = RankCandidates(ranking, folder, name, night.beam.threads)
    with night.beam.pipeline("ranking") as pipeline:
        ranked = pipeline | "Buckets" >> night.beam.create(ranking_buckets(night)) | rank
        measured = pipeline | "Holdout" >> night.beam.create(held_out) | MeasureRanker(ranker, edges)
        (ranked, measured) | beam.Flatten() | WriteRecords(records)
    return pop_records(records, FileEntry, Counts, RankerFigures)


def ranker_of(night: Night) -> str:
    """Return the folder of the night's ranker. Raises StageError if its lists are not ranked."""
    ranked = night.outputs(RankingOutputs).ranked
    if ranked is None:
        raise StageError(f"the lists of the night of {night.date} are not ranked")
    return paths.join(night.folder("ranking"), ranked.ranker)


def spec_of_night(night: Night) -> RankingSpec:
    """Return the specification of the features of the night's ranker."""
    return RankingSpec.from_json(files.read_bytes(paths.join(ranker_of(night), "spec.json")).decode())


def list_ranking(night: Night) -> ListRanking:
    """Return how the night's lists were ranked. Raises StageError if they are not."""
    ranked = night.outputs(RankingOutputs).ranked
    return ListRanking(
        inputs=inputs_of(night, spec_of_night(night)),
        ranker=ranker_of(night),
        count=night.job.ranking.candidates,
        order=ranked.order if ranked and ranked.order else ChosenOrder.fixed(0.0, "the order of earlier versions"),
    )


def of_held_out(night: Night) -> HeldOutRanking | None:
    """Return the ranking of held-out users' lists, as of the start of the held-out days; None if none are ranked."""
    if sink_protocol.served_stage(night) != publication_file.RANKING:
        return None
    return _as_of_held_out_days(night, list_ranking(night))


def _as_of_held_out_days(night: Night, ranking: ListRanking) -> HeldOutRanking:
    window = replace(ranking.inputs.window, end=night.dates.holdout_start)
    return HeldOutRanking(
        ranking=replace(ranking, inputs=replace(ranking.inputs, window=window), held_out=True),
        videos=paths.join(night.folder("train"), artifacts.VIDEO_VECTORS),
        cut=night.job.ranking.cut,
    )


def ranking_buckets(night: Night) -> list[RankingBucket]:
    """Return each bucket's files, its lists, and the paths of its users' vectors."""
    date, buckets = night.date.isoformat(), night.ingested.snapshot.buckets
    found = []
    for bucket_files in night.ingested.buckets():
        generator = ranking_nights.of_bucket(night, date, bucket_files.bucket, buckets)
        own_night = GeneratorNight(start=night.dates.start, vectors=generator.vectors, videos=generator.videos)
        found.append(RankingBucket(files=bucket_files, nights=(own_night,), lists=generator.lists))
    return found


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
