"""Check a night before it is published, against bounds and against the night before.

The figures are in manifests, metrics and lists. The night before is the newest earlier night that was published and not
withdrawn.

`nights/DATE/gates.json` contains the result of every gate, whether or not the night was published: status, why,
compared_with (a date or null), counts (gates by state), and gates, each with name, value, bound, state (passed, failed
or not computed), ok (true, false, null: not computed), reason (why it was not computed), expected (whether that is
normal for such a night), note (why a gate that passed shows nothing) and message.

| status  | what                                                                                                    |
|---------|---------------------------------------------------------------------------------------------------------|
| passed  | no gate failed, every gate that should be computed was, users were held out, and a night before exists  |
| ungated | no gate failed, but it is the first night, no user was held out, or a gate that should be computed is   |
|         | missing                                                                                                 |
| failed  | nothing was published: a gate failed, or a gate could not be computed for an unexpected reason and      |
|         | `stop_if_not_computed` is set                                                                           |
| forced  | like failed, but the night was published: why is the reason that was given                              |
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import replace

from pipelines.base import manifest, paths
from pipelines.base.manifest import Manifest, ManifestError, OutputsT
from pipelines.config.gate_settings import Gates
from pipelines.night import artifacts, night_results, publication_file, sink_protocol
from pipelines.night.errors import GateError
from pipelines.night.night import Night
from pipelines.night.night_results import STATES, GateResults
from pipelines.night.outputs import (
    EvaluationOutputs,
    ExamplesOutputs,
    GateSummary,
    IndexOutputs,
    IngestOutputs,
    RankingOutputs,
    TrainOutputs,
)
from pipelines.night.publication_file import Summary
from pipelines.reports import report_history
from transforms.core import files
from transforms.core.bootstrap import MIN_USERS
from transforms.core.user_sampling import UserSample
from transforms.evaluation import gates, night_metrics
from transforms.evaluation.gates import Gate, MeasuredNight, not_computed
from transforms.evaluation.list_comparison import ListComparison, compare_lists
from transforms.evaluation.night_metrics import NightMetrics

SAMPLED_USERS = 5_000  # whose lists are compared: a mean over them is exact to a hundredth
NOBODY_HELD_OUT = "nobody was held out (examples.holdout_days, holdout_users)"
FIRST_NIGHT = "first night: there is no published night before it"
_DAYS_BEFORE = 7  # that the newest day's volume is compared with


def check(night: Night) -> GateResults:
    """Compute all gates and write their results. Raises GateError if one fails, unless publication is forced."""
    found = _results(night)
    files.replace_file(night.root.gates(night.date), found.model_dump_json(indent=1).encode())
    if found.status == "failed":
        stops = [*found.in_state("failed"), *(found.unexpected if night.job.gates.stop_if_not_computed else ())]
        raise GateError(
            f"{_gap_text(found)}. {'; '.join(gate.message for gate in stops)}. Fix the cause and rerun the night, "
            "or publish it as it is with --force-publish REASON"
        )
    return found


def _gap_text(found: GateResults) -> str:
    """Return the number of failed gates and of gates that could not be computed, whether or not that was expected."""
    failed, gaps, total = found.counts["failed"], found.counts["not computed"], f"of {len(found.gates)} gates"
    if not failed:
        return f"{gaps} {total} could not be computed"
    return f"{failed} {total} failed" + (f", {gaps} could not be computed" if gaps else "")


def notes(found: GateResults) -> list[str]:
    """Return notes for the run log of a published night, in addition to `in_words`."""
    lines = []
    if found.status == "forced":
        failed = "; ".join(gate.message for gate in found.in_state("failed") or found.unexpected)
        lines.append(f"FORCED, in spite of what gates found ({found.why}): {failed}")
    if found.unexpected:
        lines.append(f"WARNING: {'; '.join(gate.message for gate in found.unexpected)}")
    elif found.status == "ungated":
        lines.append(f"UNGATED: {found.why}")
    return lines


def summary(night: Night) -> Summary:
    """Return what `published.json` contains about the night's gates and recall, as far as these were computed."""
    found, evaluated = night_results.gates(night), manifest.record(night.folder("evaluation"))
    recalls = evaluated.read(EvaluationOutputs).recalls() if evaluated else None
    return summarize(found.summary() if found else None, recalls)


def summarize(found: GateSummary | None, recalls: dict[str, dict[str, float]] | None) -> Summary:
    """Return what `published.json` contains about the result of gates and the recall by system and k."""
    fields = {"gates": found.model_dump(exclude={"failed"}, exclude_defaults=True)} if found else {}
    return Summary.model_validate(fields | ({"recall": recalls} if recalls else {}))


def summary_line(night: Night) -> str:
    """Return the number of the night's gates in each state, in one line; empty if they were never computed."""
    found = report_history.gates(night)
    return found.in_words() if found else ""


def night_before(night: Night) -> Night | None:
    """Return the newest earlier night that was published and not withdrawn."""
    date = publication_file.newest_publication(night.root, night.date)
    return replace(night, date=date) if date else None


def _results(night: Night) -> GateResults:
    before = night_before(night)
    found = tuple(_all_gates(night, before, night.job.gates))
    results = GateResults(
        date=night.date.isoformat(),
        status="passed",
        why="",
        compared_with=before.date.isoformat() if before else None,
        counts={state: sum(gate.state == state for gate in found) for state in STATES},
        gates=found,
    )
    if results.in_state("failed") or (results.unexpected and night.job.gates.stop_if_not_computed):
        forced = night.force_publish
        return results.model_copy(update={"status": "forced" if forced else "failed", "why": forced})
    why = _ungated(night, before, results)
    return results.model_copy(update={"status": "ungated", "why": why}) if why else results


def _ungated(night: Night, before: Night | None, found: GateResults) -> str:
    """Return why the night was not compared completely; empty if it was."""
    if found.unexpected:
        return "; ".join(f"{gate.name} could not be computed: {gate.reason}" for gate in found.unexpected)
    metrics = night_results.metrics(night)
    if not metrics or not metrics.holdout:
        return NOBODY_HELD_OUT
    return "" if before else FIRST_NIGHT


def _all_gates(night: Night, before: Night | None, bounds: Gates) -> Iterator[Gate]:
    """Yield all gates that are enabled, the most basic ones first."""
    done = {stage: manifest.record(night.folder(stage)) for stage in ("train", "index", "neighbours", "evaluation")}
    if bounds.same_night and done["train"]:
        yield gates.same_night(list(_not_of_one_training(night, done["train"], done)))
    yield from _rejects(night, bounds)
    yield from _volumes(night, bounds)
    yield from _skew(night, bounds)
    yield from _index(night, bounds)
    yield from _calibration(night, bounds)
    yield from _recall(night, before, bounds)
    yield from _lists(night, before, bounds)


def _not_of_one_training(night: Night, model: Manifest, stages: dict[str, Manifest | None]) -> Iterator[str]:
    """Yield what was not computed from the night's model, according to its manifests and the model's files."""
    if model.dropped is None:
        served = [*model.named(artifacts.VIDEO_VECTORS), *model.named(f"{model.read(TrainOutputs).tower}/")]
        for entry in served:
            path = paths.join(night.folder("train"), entry.name)
            if not files.exists(path) or files.file_entry(night.folder("train"), entry.name).digest != entry.digest:
                yield f"{path} is not the file that the training of {model.date} wrote"
    for stage, done in stages.items():
        inputs = done.inputs if done and stage != "train" else {}
        for name, current in (("model", model), ("train", model), ("index", stages["index"])):
            if name in inputs and current is not None and inputs[name] != current.digest:
                yield f"stage {stage} was done with another {'index' if name == 'index' else 'model'} than the night's"
    for stage, done in stages.items():
        if done and done.date != night.date.isoformat():
            yield f"{night.folder(stage)} is of the night of {done.date}"


def _rejects(night: Night, bounds: Gates) -> Iterator[Gate]:
    ingested = night.outputs(IngestOutputs)
    if bounds.max_rejects < 1 and ingested.tables is not None:
        read_rows = sum(table["read"] for table in ingested.tables.values())
        yield gates.rejects(read=read_rows, reasons=ingested.rejects, most=bounds.max_rejects)


def _volumes(night: Night, bounds: Gates) -> Iterator[Gate]:
    """Yield the gates on events per day, in the time zone of the job."""
    if not bounds.min_volume and not bounds.max_volume:
        return
    newest = night.date - dt.timedelta(days=1)
    for table, by_day in sorted(night.ingested.snapshot.rows_by_day.items()):
        days = [(newest - dt.timedelta(days=n)).isoformat() for n in reversed(range(_DAYS_BEFORE + 1))]
        counts = [by_day.get(day, 0) for day in days if day >= min(by_day)]
        yield gates.volume(table, counts, least=bounds.min_volume, most=bounds.max_volume)


def _skew(night: Night, bounds: Gates) -> Iterator[Gate]:
    examples = _outputs(night, ExamplesOutputs)
    if bounds.max_skew and examples:
        for feature, values in sorted(examples.features.items()):
            yield gates.skew(feature, values.train, values.serving, most=bounds.max_skew)


def _index(night: Night, bounds: Gates) -> Iterator[Gate]:
    index, short = _outputs(night, IndexOutputs), bounds.max_ann_shortfall
    if index and short < 1:
        yield gates.ann_recall(index.candidates.recall, wanted=night.job.index.recall, most_short=short)


def _calibration(night: Night, bounds: Gates) -> Iterator[Gate]:
    """Yield the gates on expected seconds, if there are impressions to learn them from."""
    if night.job.logs.impressions is None:
        return
    ranked = _outputs(night, RankingOutputs)
    measured = ranked.calibration if ranked else None
    if bounds.max_calibration_error:
        yield gates.calibration(measured, most=bounds.max_calibration_error)
    if bounds.max_decile_error:
        yield gates.calibration_by_decile(measured, most=bounds.max_decile_error)


def _recall(night: Night, before: Night | None, bounds: Gates) -> Iterator[Gate]:
    """Yield the gates on figures of held-out users."""
    on = {
        "most popular": bounds.most_popular,
        "item to item": bounds.item_to_item,
        "ranking": bounds.ranking and night.job.logs.impressions is not None,
        "ranking recall": bounds.max_ranking_loss < 1 and night.job.logs.impressions is not None,
        "recall": bounds.max_recall_lost < 1,
        "approximate search": bounds.max_ann_loss < 1,
    }
    metrics, reason, expected = _measured(night)
    if metrics is None:
        yield from (not_computed(name, reason, expected=expected) for name, wanted in on.items() if wanted)
        return
    if on["most popular"]:
        yield _baseline(metrics, night_metrics.MOST_POPULAR, gates.most_popular)
    if on["item to item"]:
        yield _baseline(metrics, night_metrics.ITEM_TO_ITEM, gates.item_to_item)
    if on["ranking"]:
        yield gates.ranking(metrics.ranking, night.job.ranking.cut)
    if on["ranking recall"]:
        yield _ranking_recall(metrics, most_lost=bounds.max_ranking_loss)
    if on["recall"]:
        yield _recall_before(metrics, before, most_lost=bounds.max_recall_lost)
    if on["approximate search"]:
        yield _ann_loss(metrics, most_lost=bounds.max_ann_loss)


def _measured(night: Night) -> tuple[NightMetrics | None, str, bool]:
    """Return the figures of held-out users; or None, why there are none, and whether that is expected.

    Raises ManifestError for a file that cannot be read."""
    metrics, done = night_results.metrics(night), manifest.record(night.folder("evaluation"))
    path = night_results.metrics_path(night)
    if metrics is None and files.exists(path):
        return None, f"{path} has the format of another version", False
    if metrics is None and done is not None and done.named(night_metrics.FILE):
        return None, f"{path} is missing", False
    if metrics is None or not metrics.systems:
        return None, NOBODY_HELD_OUT, True
    missing = {metrics.served_system, night_metrics.NEIGHBOURS, night_metrics.MOST_POPULAR} - set(metrics.systems)
    if missing:
        return None, f"{path} has no figures of {', '.join(sorted(missing))}", False
    return metrics, "", True


def _baseline(metrics: NightMetrics, system: str, gate: Callable[..., Gate]) -> Gate:
    """Return the gate that compares the lists with a baseline, whose name is that of the gate."""
    difference, baseline = metrics.beside.get(system), metrics.systems.get(system)
    if difference is None or baseline is None or metrics.gate not in baseline.figures:
        return not_computed(system, f"{night_metrics.FILE} has no difference of {metrics.gate}", expected=False)
    held_out = metrics.holdout.users if metrics.holdout else None
    return gate(difference, baseline.figures[metrics.gate], metrics.gate, held_out=held_out)


def _ranking_recall(metrics: NightMetrics, *, most_lost: float) -> Gate:
    if metrics.ranking is None:
        return not_computed("ranking recall", "no lists were ranked, or no users were held out")
    if not metrics.cut_figure:
        return not_computed("ranking recall", f"{night_metrics.FILE} has no figures of ranked lists", expected=False)
    ranked, neighbours = (metrics.systems[system] for system in (night_metrics.RANKING, night_metrics.NEIGHBOURS))
    return gates.ranking_recall(ranked, neighbours, metrics.cut_figure, most_lost=most_lost)


def _recall_before(metrics: NightMetrics, before: Night | None, *, most_lost: float) -> Gate:
    if before is None:
        return not_computed("recall", FIRST_NIGHT)
    try:
        measured, reason, expected = _measured(before)
    except ManifestError as error:
        measured, reason, expected = None, str(error), False
    if measured is None:
        return not_computed("recall", f"of the night of {before.date}, {reason}", expected=expected)
    return gates.recall_before(_sides(metrics), _sides(measured), metrics.gate, most_lost=most_lost)


def _sides(metrics: NightMetrics) -> MeasuredNight:
    return MeasuredNight(metrics.systems[metrics.served_system], metrics.systems[night_metrics.MOST_POPULAR])


def _ann_loss(metrics: NightMetrics, *, most_lost: float) -> Gate:
    loss = metrics.ann_loss
    if loss is None or loss.exact_search is None or loss.neighbours is None:
        exact = loss is not None and loss.index == "exact"
        reason = "search is exact" if exact else "no held-out user was searched for exactly"
        return not_computed("approximate search", reason)
    return gates.ann_loss(loss.exact_search, loss.neighbours, metrics.gate, most_lost=most_lost)


def _lists(night: Night, before: Night | None, bounds: Gates) -> Iterator[Gate]:
    """Yield the gates on the lists to serve, compared with those of the night before."""
    users = publication_file.from_stages(night.root, night.date).users
    if bounds.max_users_lost < 1:
        yield _users(before, users, most_lost=bounds.max_users_lost)
    index = _outputs(night, IndexOutputs)
    if index is None:
        return
    candidates, found = index.candidates.rows, _compared(night, before, users)
    if bounds.min_coverage:
        counted = {"distinct": found.shown.len(), "lists": found.lists, "length": night.job.neighbours.k}
        yield gates.coverage(**counted, candidates=candidates, least=bounds.min_coverage)
    if bounds.max_sameness < 1:
        enough = found.lists >= MIN_USERS
        overlap = gates.list_overlap(found.shown, lists=found.lists, candidates=candidates) if enough else None
        yield gates.list_overlap_gate(overlap, most=bounds.max_sameness)
    if bounds.min_stayed or bounds.max_stayed < 1:
        yield _stayed(night, before, found, bounds, candidates=candidates)


def _users(before: Night | None, tonight: int, *, most_lost: float) -> Gate:
    if before is None:
        return not_computed("users", FIRST_NIGHT)
    had = _users_before(before)
    if had is None:
        return not_computed("users", f"no lists of the night of {before.date} are known", expected=False)
    return gates.users(before=had, tonight=tonight, most_lost=most_lost)


def _stayed(night: Night, before: Night | None, found: ListComparison, bounds: Gates, *, candidates: int) -> Gate:
    if before is None:
        return not_computed("stayed", FIRST_NIGHT)
    if publication_file.last_published(before.root, before.date) is None:
        return not_computed("stayed", f"the lists of the night of {before.date} were dropped")
    if 2 * night.job.neighbours.k > candidates:
        return not_computed("stayed", "lists are more than half as long as there are videos to choose from")
    if found.retention is None:
        reason = f"no user has a list of both this night and the night of {before.date}"
        return not_computed("stayed", reason, expected=False)
    return gates.retention(found.retention, least=bounds.min_stayed, most=bounds.max_stayed, places=found.places)


def _users_before(before: Night) -> int | None:
    """Return the number of users that the night before served, even if its lists were dropped later."""
    if lists := publication_file.last_published(before.root, before.date):
        return lists.users
    listed = manifest.record(before.folder(sink_protocol.served_stage(before)))
    return sum(entry.rows for entry in publication_file.own(listed)) if listed else None


def _compared(night: Night, before: Night | None, users: int) -> ListComparison:
    """Compare the lists of a sample of users.

    Both bucket counts are powers of two: users of bucket b of one are in the buckets of the other that are equal to b
    modulo the smaller count.
    """
    lists_before = publication_file.last_published(before.root, before.date) if before else None
    earlier_paths = lists_before.paths(night.root, "lists") if lists_before else ()
    earlier, tonight = {paths.shard_index(path): path for path in earlier_paths}, _files_of_buckets(night)
    smaller = min(len(tonight), len(earlier) or len(tonight))
    sample = UserSample.from_size(users=users, buckets=smaller, max_users=SAMPLED_USERS)

    def within(found: dict[int, str], bucket: int) -> list[str]:
        return [path for number, path in found.items() if number % smaller == bucket]

    return compare_lists(((within(tonight, b), within(earlier, b)) for b in range(sample.buckets)), sample)


def _files_of_buckets(night: Night) -> dict[int, str]:
    """Return the path of the lists of each bucket; empty if they were dropped."""
    folder = night.folder(sink_protocol.served_stage(night))
    listed = manifest.load(folder)
    entries = publication_file.own(listed) if listed else []
    return {paths.shard_index(path): path for path in manifest.entry_paths(entries, folder)}


def _outputs(night: Night, kind: type[OutputsT]) -> OutputsT | None:
    done = manifest.load(night.folder(kind.stage))
    return done.read(kind) if done else None
