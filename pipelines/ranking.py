"""Stage 7: rank the first videos of each list by expected watch time, if there are impressions (paper, section 4).

impressions, store              -> CountImpressions -> WriteVocabulary -> ranked/vocabulary/*.parquet
                                                    -> WriteOutcomes -> ranked/outcomes/DAY.parquet
those, earlier nights' lists    -> WriteRankingExamples -> examples/{train,holdout}/*
                                -> DrawNumbers -> write_numbers_graph -> examples/transform_fn
examples/train, earlier ranker  -> trainer -> ranked/training/ranker-ATTEMPT/, state-ATTEMPT/
examples/holdout, ranker        -> BinImpressions -> calibration, stored with the ranker
holdout, model, index, both     -> ChooseOrder -> weight of the neighbours' order in that of the lists
examples/holdout, both          -> MeasureRanker -> outputs and counts of the manifest
neighbours/*, store, ranker     -> RankCandidates -> ranked/*.parquet, as neighbours, with expected_seconds

A warm night counts, writes and learns only the impressions that are new to the ranker of the newest earlier night, and
learns again a share of those that earlier nights wrote (`pipelines.night.ranking_chain`).

Without impressions the stage writes no files, the lists keep the order of stage neighbours, and a note says so.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import polars as pl

from pipelines import neighbours
from pipelines.base import manifest, paths
from pipelines.night import (
    artifacts,
    local_workdir,
    outcome_files,
    publication_file,
    ranking_chain,
    ranking_nights,
    sink_protocol,
)
from pipelines.night.errors import StageError
from pipelines.night.local_workdir import LocalWorkdir
from pipelines.night.night import Night
from pipelines.night.outputs import RankedLists, RankingOutputs, TrainOutputs, VocabularyOutputs
from pipelines.night.ranking_chain import Chain
from pipelines.night.stage import Plan, StageResult, complete, stage_main
from trainer.auto import rules_version
from trainer.config import AUTO
from trainer.ranker.auto import replayed_share, unclicked_share
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.records import Counts, Records, WriteRecords, add_counts, pop_records
from transforms.examples.vocabulary import COUNTS, VocabularyFile, WriteVocabulary
from transforms.ranking.calibration import (
    KNOT_CLICKS,
    Calibration,
    CalibrationBins,
    fit_calibration,
    write_calibration,
)
from transforms.ranking.encoding import DrawNumbers, add_earlier_numbers, write_numbers_graph
from transforms.ranking.generator_features import GENERATOR_NUMBERS
from transforms.ranking.held_out_orders import ChooseOrder
from transforms.ranking.measured_calibration import class_edges
from transforms.ranking.order import ChosenOrder, choose_order
from transforms.ranking.outcome_features import OUTCOME_NUMBERS, Outcomes
from transforms.ranking.outcomes import WriteOutcomes
from transforms.ranking.rank_lists import HeldOutRanking, ListRanking, RankCandidates
from transforms.ranking.ranker import BinImpressions, MeasureRanker, RankerFigures
from transforms.ranking.records import (
    FOLDER,
    WRITTEN_ON,
    RankingBucket,
    RankingInputs,
    WriteRankingExamples,
    read_outcomes,
)
from transforms.ranking.vocabulary import (
    CountedDays,
    CountImpressions,
    ImpressionCounts,
    build_spec,
    covered_share,
    extend_spec,
    extend_vocabulary,
    merge_counts,
)

if TYPE_CHECKING:  # the trainer loads TensorFlow, which only the training needs
    from trainer.ranker.replay import RankingReplay
    from trainer.ranker.task import RankerResult
    from trainer.warm_start import WarmStartSource

VIDEOS, CHANNELS, TOKENS = (f"vocabulary/{name}.parquet" for name in ("videos", "channels", "tokens"))
GRAPH, SPEC, NUMBERS = f"{FOLDER}/transform_fn", f"{FOLDER}/spec.json", f"{FOLDER}/numbers.parquet"
MOST_COVER_LOST = 0.1  # share of the occurrences of a chain's vocabulary, since it began
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
    if earlier := ranking_chain.earlier_ranker(night):
        inputs |= {"earlier": earlier.digest, "replayed": manifest.fingerprint(earlier.replayed)}
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
    generators, chain = ranking_nights.generators(night), ranking_chain.open_chain(night)
    counted = count_impressions(night, generators, chain, folder, attempt)
    if chain.earlier and (reason := counted.why_cold(chain)):
        chain = chain.cold(reason)
        counted = count_impressions(night, generators, chain, folder, attempt)
    found = counted.impressions
    if not found.can_be_learned:
        return _not_ranked(
            "none or all of the impressions that may be learned from were clicked: lists stay in their order"
        )
    spec = ranking_spec(night, counted, chain)
    share, reason = unclicked_share(
        night.job.ranking.unclicked,
        impressions=found.impressions,
        clicked=found.clicked,
        days=(night.dates.end - chain.first_new(night)).days,
    )
    records = write_ranking_examples(night, spec, generators, chain, share, folder, attempt)
    result, left = _train(night, spec, records, chain, folder, attempt)
    held_out = sorted(manifest.entry_paths([entry for entry in records.files if "/holdout/" in entry.name], folder))
    bins = _bin_held_out(night, held_out, folder, attempt)
    longest = max(found.longest_seconds, chain.before.longest_seconds if chain.before else 0.0)
    calibration = fit_calibration(bins, longest_seconds=longest)
    entries = [
        *counted.vocabularies,
        *counted.outcomes,
        *left,
        write_calibration(calibration, folder, _ranker(attempt)),
    ]
    entries += records.files if night.job.storage.keep_examples or night.job.ranking.warm_start else []
    order = _choose_order(night, spec, folder, attempt)
    ranked = _rank(night, spec, order, held_out, class_edges(bins, calibration), folder, attempt)
    entries += ranked.of(FileEntry)
    lists = RankedLists(
        neighbours_attempt=night.require(publication_file.NEIGHBOURS).attempt,
        ranker=_ranker(attempt),
        generators=generators,
        expected_seconds=True,
        order=order,
        chain=ranking_chain.to_output(
            night,
            chain,
            state=_state(attempt),
            written=records.days,
            covered=chain.before.covered if chain.before else counted.covered,
            longest_seconds=longest,
        )
        if night.job.ranking.warm_start
        else None,
    )
    counts: dict[str, Any] = {name: value for name, value in vars(found).items() if name != "values"}
    counts |= add_counts(ranked.of(Counts))
    counts |= {"steps": result.steps, "examples": result.examples, "start": result.start}
    counts |= {"new_examples": records.impressions, "written_days": records.days}
    measured = next(iter(ranked.of(RankerFigures)), None)
    counts["holdout"] = measured and {
        "figures": measured.figures,
        "calibration": [of_class.model_dump(mode="json") for of_class in measured.calibration.classes],
    }
    auto = {f"ranking.{name}": value for name, value in result.auto.items()}
    auto |= {"ranking.unclicked": f"{share} ({reason})"} if reason else {}
    if night.job.ranking.order_weight == AUTO:
        auto["ranking.order_weight"] = f"{order.weight} ({order.reason})"
    counts["auto"] = auto
    notes = [f"{name} = {value}" for name, value in auto.items()]
    notes += [why] if (why := chain.why or result.start["why"]) else []
    counts["notes"] = [*notes, *_notes(spec, calibration)]
    outcomes = {day.isoformat(): digest for day, digest in outcome_files.fingerprints(night).items()}
    outputs = RankingOutputs(ranked=lists, calibration=measured.calibration if measured else None, outcomes=outcomes)
    return StageResult(entries, outputs, counts)


def _notes(spec: RankingSpec, calibration: Calibration) -> Iterator[str]:
    if not set(GENERATOR_NUMBERS) & set(spec.numbers):
        yield "no night precedes the impressions: the ranker learned without the features of the generator"
    if not calibration.is_fitted:
        yield (
            f"the expected seconds are not calibrated: a half of the held-out users has fewer than {KNOT_CLICKS} clicks"
        )


def _not_ranked(reason: str) -> StageResult:
    return StageResult([], RankingOutputs(ranked=None), {"why_not": reason, "notes": [reason]})


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The counts of the new impressions, the vocabularies that follow from them, and the outcomes of all days."""

    impressions: ImpressionCounts
    vocabularies: list[FileEntry]  # those that are not empty
    covered: dict[str, float]  # vocabulary -> share of the occurrences that are in it
    outcomes: list[FileEntry]  # of each day of the window

    def why_cold(self, chain: Chain) -> str:
        """Return why the earlier ranker should not be continued; empty if it should."""
        if not self.impressions.can_be_learned:
            return "none or all of the new impressions were clicked"
        for name, was in chain.before.covered.items() if chain.before else ():
            if (now := self.covered.get(name, 0.0)) < was - MOST_COVER_LOST:
                return f"its {name} are {now:.0%} of those in the new logs, but were {was:.0%} when it began"
        return ""


def count_impressions(night: Night, generators: dict[str, str], chain: Chain, folder: str, attempt: str) -> Counted:
    """Count the impressions that are new to the chain, and the outcomes of days that no earlier night counted; write
    the ranker's vocabularies.

    Vocabularies of a chain only grow, so that the ids in earlier nights' records stay valid.
    """
    starts = [ranking_nights.of_bucket(night, date, 0, 1).start for date in generators]
    first, settings, start = min(starts) if starts else None, night.job.ranking, chain.first_new(night)
    wanted = outcome_files.fingerprints(night)
    taken_over = outcome_files.take_over(night, wanted, folder)
    counted_days = CountedDays(
        days=tuple(day for day in wanted if day not in taken_over), rule=outcome_files.completion_rule(night)
    )
    if counted_days.days:
        start = min(start, night.dates.span(min(counted_days.days))[0])
    window, catalogue = replace(night.dates.window, start=start), night.ingested.catalogue() or ""
    count = CountImpressions(window, night.holdout, catalogue, first, counted_days, night.beam.threads, chain.written)
    records = paths.join(folder, f"records-{attempt}.json")
    sizes = {VIDEOS: settings.video_vocabulary, CHANNELS: settings.channel_vocabulary}
    with night.beam.pipeline("ranking") as pipeline:
        counted = pipeline | night.beam.create(night.ingested.buckets(start)) | count
        videos = counted["videos"] | "Videos" >> WriteVocabulary(sizes[VIDEOS], folder, VIDEOS)
        channels = counted["channels"] | "Channels" >> WriteVocabulary(sizes[CHANNELS], folder, CHANNELS)
        outcomes = counted["outcomes"] | "Outcomes" >> WriteOutcomes(folder, counted_days.days)
        (videos, channels, outcomes, counted["shown"]) | beam.Flatten() | WriteRecords(records)
    found = pop_records(records, VocabularyFile, ImpressionCounts, FileEntry)
    occurrences = {of.file.name: of.occurrences for of in found.of(VocabularyFile)}
    new = {name: files.read_parquet(paths.join(folder, name)) for name in occurrences}
    if tokens := night.require("vocabulary").named(artifacts.SEARCH_TOKENS):
        new[TOKENS] = files.read_parquet(manifest.entry_paths(tokens, night.folder("vocabulary"))[0])
        occurrences[TOKENS] = int(new[TOKENS]["count"].sum())
    sizes[TOKENS] = night.job.examples.search_vocabulary
    vocabularies, covered = _extend_vocabularies(_earlier_vocabularies(night, chain), new, occurrences, sizes, folder)
    return Counted(
        impressions=merge_counts(found.of(ImpressionCounts)),
        vocabularies=vocabularies,
        covered=covered,
        outcomes=[*taken_over.values(), *found.of(FileEntry)],
    )


def _extend_vocabularies(
    earlier: Mapping[str, pl.DataFrame],
    new: Mapping[str, pl.DataFrame],
    occurrences: Mapping[str, int],
    sizes: Mapping[str, int],
    folder: str,
) -> tuple[list[FileEntry], dict[str, float]]:
    """Write the earlier vocabularies with the new tokens after them; return the files of those that are not empty, and
    the share of the new occurrences that each covers.

    All arguments are by file name. occurrences: of all new tokens, also of those that `new` does not have.
    """
    entries, covered, empty = list[FileEntry](), dict[str, float](), pl.DataFrame(schema=COUNTS)
    for name in (VIDEOS, CHANNELS, TOKENS):
        found = new.get(name, empty)
        vocabulary = extend_vocabulary(earlier.get(name, empty), found, sizes[name])
        if vocabulary.height:
            entries.append(files.replace_parquet(vocabulary, folder, name))
            covered[Path(name).stem] = covered_share(vocabulary, found, occurrences.get(name, 0))
    return entries, covered


def _earlier_vocabularies(night: Night, chain: Chain) -> dict[str, pl.DataFrame]:
    """Return the vocabularies of the ranker to go on from, by file name."""
    if chain.earlier is None:
        return {}
    earlier = _of_date(night, chain.earlier)
    listed = earlier.require("ranking").named("vocabulary/")
    return {entry.name: files.read_parquet(paths.join(earlier.folder("ranking"), entry.name)) for entry in listed}


def _of_date(night: Night, date: str) -> Night:
    return replace(night, date=dt.date.fromisoformat(date))


def ranking_spec(night: Night, counted: Counted, chain: Chain) -> RankingSpec:
    """Return the specification of the ranker's features: those that the new logs have, and those of the chain.

    An empty vocabulary has no file, for example if no clicked video has a channel.
    """
    rows = {entry.name: entry.rows for entry in counted.vocabularies}
    spec = build_spec(
        counted.impressions,
        videos=rows[VIDEOS],
        channels=rows.get(CHANNELS, 0),
        tokens=rows.get(TOKENS, 0),
        outcomes=_outcomes(night).numbers,
        watch_history=night.job.ranking.watch_history,
        search_history=night.job.examples.search_history,
        categories=night.outputs(VocabularyOutputs).window.categories,
    )
    return extend_spec(spec, _written_spec(_of_date(night, chain.earlier))) if chain.earlier else spec


def _written_spec(night: Night) -> RankingSpec:
    """Return the specification of the records that a night wrote."""
    return RankingSpec.from_json(files.read_bytes(paths.join(night.folder("ranking"), SPEC)).decode())


def _outcomes(night: Night) -> Outcomes:
    """Return the outcomes of the window's days, whose files are written."""
    catalogue = night.ingested.catalogue() or ""
    return read_outcomes(outcome_files.paths_of(night), catalogue, zone=night.dates.time_zone)


def inputs_of(night: Night, spec: RankingSpec) -> RankingInputs:
    """Return the inputs that all buckets share."""
    folder = night.folder("ranking")
    tokens = paths.join(folder, TOKENS)
    if spec.tokens and not files.exists(tokens):  # nights of earlier versions have no copy
        tokens = paths.join(night.folder("vocabulary"), artifacts.SEARCH_TOKENS)
    return RankingInputs(
        window=night.dates.window,
        spec=spec,
        zone=night.job.logs.time_zone,
        videos=paths.join(folder, VIDEOS),
        channels=paths.join(folder, CHANNELS) if spec.channels else "",
        tokens=tokens if spec.tokens else "",
        catalogue=night.ingested.catalogue() or "",
        outcomes=outcome_files.paths_of(night) if {*spec.numbers} & {*OUTCOME_NUMBERS} else (),
    )


@dataclass(frozen=True, kw_only=True)
class WrittenRecords:
    """The records of a night, with their spec, graph and drawn numbers."""

    files: list[FileEntry]
    days: dict[str, int]  # day -> training impressions

    @property
    def impressions(self) -> int:
        return sum(self.days.values())


def write_ranking_examples(
    night: Night,
    spec: RankingSpec,
    generators: dict[str, str],
    chain: Chain,
    unclicked: float,
    folder: str,
    attempt: str,
) -> WrittenRecords:
    """Write records of the impressions that are new to the chain, the spec, and TFT's graph of the numbers.

    unclicked: share of the unclicked impressions that are learned from.
    """
    count = night.ingested.snapshot.buckets
    buckets = []
    for bucket_files in night.ingested.buckets():
        nights = tuple(ranking_nights.of_bucket(night, date, bucket_files.bucket, count) for date in generators)
        buckets.append(RankingBucket(files=bucket_files, nights=nights))
    name, records = paths.shard_pattern(count, attempt, "tfrecord.gz"), paths.join(folder, f"records-{attempt}.json")
    seed, zone = night.job.ranking.seed, night.job.logs.time_zone
    write = WriteRankingExamples(
        inputs_of(night, spec), night.holdout, folder, name, night.beam.threads, unclicked, seed, chain.written
    )
    numbers = f"numbers-{attempt}.parquet"  # of this night; lies there until they are added to the chain's
    with night.beam.pipeline("ranking") as pipeline:
        written = pipeline | night.beam.create(buckets) | write
        written["numbers"] | DrawNumbers(spec, seed, folder, numbers, zone)
        written["records"] | WriteRecords(records)
    drawn, graph = files.read_parquet(paths.join(folder, numbers)), paths.join(folder, GRAPH)
    if chain.earlier:
        earlier = files.read_parquet(paths.join(_of_date(night, chain.earlier).folder("ranking"), NUMBERS))
        drawn = add_earlier_numbers(drawn, earlier, numbers=spec.numbers, days=chain.valid_days)
    written_graph = write_numbers_graph(drawn, graph, spec=spec, pipeline=night.beam.local_pipeline())
    files.remove_files([paths.join(folder, numbers)])
    found = pop_records(records, FileEntry, Counts)
    entries = [
        *found.of(FileEntry),
        files.write_bytes(folder, SPEC, 1, spec.to_json().encode()),
        files.replace_parquet(drawn.sort(drawn.columns[::-1]), folder, NUMBERS),
        *files.prefix_entries(written_graph, GRAPH),
    ]
    counts = add_counts(found.of(Counts))
    days = {name.removeprefix(WRITTEN_ON): n for name, n in sorted(counts.items()) if name.startswith(WRITTEN_ON)}
    return WrittenRecords(files=entries, days=days)


def _train(
    night: Night, spec: RankingSpec, written: WrittenRecords, chain: Chain, folder: str, attempt: str
) -> tuple[RankerResult, list[FileEntry]]:
    """Train the ranker; return the result, and the entries of its files."""
    from trainer.ranker.config import RankerSettings
    from trainer.ranker.task import VOCABULARIES, train_ranker
    from trainer.ranker.training import RankingFiles

    settings = night.job.ranking.model_dump(include=set(RankerSettings.model_fields))
    records = [entry for entry in written.files if "/train/" in entry.name]
    graph = [entry.name for entry in written.files if entry.name.startswith(f"{GRAPH}/")]
    sizes = {"videos": spec.videos, "channels": spec.channels, "tokens": spec.tokens}
    vocabularies = {name: f"vocabulary/{name}.parquet" for name in VOCABULARIES if sizes[name]}
    with local_workdir.open_workdir(folder) as workdir:
        local = workdir.download(folder, [*(entry.name for entry in records), *graph, *vocabularies.values()])
        result = train_ranker(
            RankingFiles(
                train=tuple(manifest.entry_paths(records, local)),
                spec=spec,
                graph=paths.join(local, f"{GRAPH}/transform_fn") if spec.numbers else None,
                vocabularies={name: paths.join(local, path) for name, path in vocabularies.items()},
                replay=_replay(night, spec, written, chain, workdir),
            ),
            paths.join(workdir.local, TRAINING),
            settings=RankerSettings(**settings),
            attempt=attempt,
            earlier=_warm_start_source(night, chain, workdir),
        )
        reports = (f"{TRAINING}/{artifacts.TRAINING_HISTORY}", f"{TRAINING}/{artifacts.MODEL_INFO}")
        folders = [_ranker(attempt), *([_state(attempt)] if night.job.ranking.warm_start else [])]
        entries = workdir.upload_results(reports, folders)
    return result, entries


def _replay(
    night: Night, spec: RankingSpec, written: WrittenRecords, chain: Chain, workdir: LocalWorkdir
) -> RankingReplay | None:
    """Return what to learn again of the chain's earlier nights; None if there is nothing."""
    from trainer.ranker.replay import RankingReplay, draw_shards

    available = sum(sum(of.days.values()) for of in chain.records.values())
    share = replayed_share(new=written.impressions, available=available)
    if not share:
        return None
    found, shares, lacks = list[str](), dict[int, float](), set[str]()
    for date in chain.records:
        earlier = _of_date(night, date)
        listed = sorted(entry.name for entry in earlier.require("ranking").named(ranking_chain.RECORDS))
        shards, shares[_since_1970(date)] = draw_shards(len(listed), share=share, salt=f"{night.date}/{date}")
        drawn = [listed[shard] for shard in shards]
        local = workdir.download(earlier.folder("ranking"), drawn)
        found += [paths.join(local, name) for name in drawn]
        lacks |= set(spec.features) - set(_written_spec(earlier).features)
    return RankingReplay(
        paths=tuple(found),
        days={_since_1970(date): tuple(map(_since_1970, of.days)) for date, of in chain.records.items()},
        shares=shares,
        salt=night.date.isoformat(),
        lacks=frozenset(lacks),
    )


def _since_1970(day: str) -> int:
    return (dt.date.fromisoformat(day) - dt.date(1970, 1, 1)).days


def _warm_start_source(night: Night, chain: Chain, workdir: LocalWorkdir) -> WarmStartSource | None:
    """Return the state of the earlier ranker in a folder that the trainer can read."""
    from trainer.warm_start import WarmStartSource

    if chain.earlier is None or chain.before is None:
        return None
    earlier = _of_date(night, chain.earlier)
    listed = earlier.require("ranking").named(f"{chain.before.state}/")
    local = workdir.download(earlier.folder("ranking"), [entry.name for entry in listed])
    days = (night.date - earlier.date).days
    return WarmStartSource(state=paths.join(local, chain.before.state), name=chain.earlier, days=days)


def _state(attempt: str) -> str:
    return f"{TRAINING}/state-{attempt}"


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
        weights=by_seconds.weights,
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
    count = night.job.ranking.candidates
    ranking = ListRanking(inputs=inputs_of(night, spec), ranker=ranker, count=count, weights=order.weights)
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
    order = ranked.order if ranked and ranked.order else ChosenOrder.fixed(0.0, "the order of earlier versions")
    return ListRanking(
        inputs=inputs_of(night, spec_of_night(night)),
        ranker=ranker_of(night),
        count=night.job.ranking.candidates,
        weights=order.weights,
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
        trends=night.outputs(TrainOutputs).trends,
        cut=night.job.ranking.cut,
    )


def ranking_buckets(night: Night) -> list[RankingBucket]:
    """Return each bucket's files, its lists, and the paths of its users' vectors."""
    date, buckets = night.date.isoformat(), night.ingested.snapshot.buckets
    found = []
    for bucket_files in night.ingested.buckets():
        generator = ranking_nights.of_bucket(night, date, bucket_files.bucket, buckets)
        own_night = replace(generator, start=night.dates.start, lists=())
        found.append(RankingBucket(files=bucket_files, nights=(own_night,), lists=generator.lists))
    return found


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
