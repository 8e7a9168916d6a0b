"""The report of a night, `nights/DATE/report.html`: collected from the manifests, figures and gates of this night and
earlier ones. Rendered after stage evaluation and again after publish, whether or not a gate failed.

It is next to the folders of the stages and in no manifest, because it shows results that come after their commits.
Missing data is omitted. A night does not fail if its report cannot be written.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pipelines.base import console, manifest, paths
from pipelines.base.machine import format_bytes
from pipelines.base.manifest import Manifest
from pipelines.night import artifacts, night_results, publication_file
from pipelines.night.errors import user_message
from pipelines.night.night import Night
from pipelines.night.night_results import GateResults
from pipelines.night.outputs import (
    IndexOutputs,
    IngestOutputs,
    NeighboursOutputs,
    PublishOutputs,
    RankingOutputs,
    VocabularyOutputs,
)
from pipelines.night.stage import STAGES
from pipelines.reports import night_figures, report_history, report_summary, report_users, report_videos
from transforms.core import files
from transforms.evaluation import night_metrics
from transforms.evaluation.folding_check import KINDS
from transforms.evaluation.list_statistics import LENGTHS
from transforms.evaluation.night_metrics import NightMetrics
from transforms.report.page import Level, Report, Status, Training, render_report, with_status

_FOLDING = {
    "apart": "no user watched both",
    "other_country": "different country",
    "other_topic": "different topic",
    "folded": "folded",
}
_PACKAGES = ("watchnext", "apache-beam", "tensorflow", "tensorflow-transform", "scann", "polars", "numpy")
_UNGATED = "ungated: no gate has checked this night"
_MEANWHILE = re.compile(r"; (the night of \S+|no night) is served meanwhile$")  # the end of publish's error messages


def write(night: Night) -> str:
    """Replace the night's report. Return an error message, which is also printed; empty if there was no error."""
    path = night.root.report(night.date)
    try:
        files.replace_file(path, render_report(gather(night)).encode())
    except Exception as error:
        problem = f"{path} is not up to date: {user_message(error) or repr(error)}"
        print(console.printable(problem), file=sys.stderr)
        return problem
    return ""


def gather(night: Night) -> Report:
    """Collect the content of a night's report, up to the stage that the night has reached."""
    done = {stage: found for stage in STAGES if (found := manifest.load(night.folder(stage)))}
    ingested = done["ingest"].read(IngestOutputs) if "ingest" in done else None
    metrics, gates = report_history.metrics(night), report_history.gates(night)
    metric = (metrics.gate if metrics else "") or report_history.newest_metric(report_history.newest_nights(night))
    measured, comparisons = metrics.to_dict() if metrics else {}, _comparisons(metrics) if metrics else {}
    with_vectors = "train" in done and "neighbours" in done
    return Report(
        date=night.date.isoformat(),
        run=max((found.run for found in done.values()), default=""),
        status=status_of(night, gates),
        summary=_summary(night, done, metrics, gates),
        gates=[gate.model_dump() for gate in gates.gates] if gates else (),
        headline=[*_headline(done), *(_quality_headline(metrics) if metrics else ())],
        metric=metric,
        systems=_in_order(metrics) if metrics else {},
        differences=_differences(measured),
        comparisons=comparisons,
        **report_history.trend(night, [metric, *([metrics.cut_figure] if metrics and metrics.cut_figure else [])]),
        **report_history.volumes(night),
        slices=measured.get("slices", {}),
        list_statistics=measured.get("shown", {}),
        ages=_curves(metrics, "by_day"),
        lengths=_curves(metrics, "by_length"),
        length_classes=_length_classes(),
        ann_loss=measured.get("ann_loss") or {},
        diversity=measured.get("diversity") or {},
        new_videos=measured.get("new_videos") or {},
        served=measured.get("served") or {},
        ranking=measured.get("ranking") or {},
        ranker=(done["ranking"].counts.get("holdout") if "ranking" in done else None) or {},
        order=_order(done["ranking"]) if "ranking" in done else {},
        training=_training(night) if "train" in done else Training(),
        users=report_users.users_of(night) if "neighbours" in done and "ingest" in done else (),
        similar=report_videos.similar(night) if with_vectors else {},
        map=report_videos.map_of(night) if "train" in done else None,
        folding=folding(done["neighbours"].counts) if "neighbours" in done else {},
        counts=list(_rows(done)),
        rejects=ingested.rejects if ingested else {},
        vocabulary=_vocabulary(done),
        seconds={stage: found.seconds for stage, found in done.items()},
        costs=[(stage, _cost(found)) for stage, found in done.items() if found.peak_bytes],
        settings=night.job.model_dump(mode="json"),
        versions={name: _version(name) for name in _PACKAGES},
    )


def status(
    gates: GateResults | None,
    published: bool | None,
    *,
    night: str = "",
    failed: str = "",
    served: str = "",
    withdrawn: Collection[str] = (),
) -> Status:
    """Return the status of a night.

    published: whether stage publish published it, None if publish is not complete; night: its date; failed: the error
    message of its last run, if it failed; served: the date of the published night; withdrawn: the dates of the
    withdrawn nights.
    """
    if gates is not None and gates.status == "failed":
        names = ", ".join(gate.name for gate in gates.in_state("failed") or gates.unexpected)
        return _not_published(f"failed at {names}", night=night, served=served)
    if failed and (published is None or (served and served == night)):
        return _not_published(_MEANWHILE.sub("", failed), night=night, served=served)
    if gates is None:
        return Status(text=_UNGATED, level="warn")
    if published is None:
        return Status(text="gates computed, not yet published", level="warn")
    if night in withdrawn:
        again = f"; the night of {served} was served again" if served else ""
        return Status(text=f"withdrawn after publication{again}", level="warn")
    if not published:
        return Status(text="complete, not published: a later night is", level="ok")
    return _published(gates, sorted(date for date in withdrawn if served == night < date))


def _not_published(why: str, *, night: str, served: str) -> Status:
    if served and served == night:
        text = f"served with the lists of an earlier run; the figures are of the last one, not published: {why}"
        return Status(text=text, level="bad")
    meanwhile = f"; the night of {served} stayed served" if served else ""
    return Status(text=f"not published: {why}{meanwhile}", level="bad")


def _published(gates: GateResults, replaced: Sequence[str]) -> Status:
    """Return the status of a published night. replaced: withdrawn later nights."""
    again = f"; served again after the withdrawal of {', '.join(replaced)}" if replaced else ""
    if gates.status == "forced":
        return Status(text=f"published in spite of failed gates: {gates.why}{again}", level="bad")
    if gates.status == "ungated":
        level: Level = "warn" if gates.unexpected else "neutral"
        return Status(text=f"published, not compared (ungated): {gates.why}{again}", level=level)
    return Status(text=f"published{again}", level="ok")


def status_of(night: Night, gates: GateResults | None) -> Status:
    """Return the `status` of a night from its files. The result of its last run counts until a later run completes a
    stage."""
    records = {stage: found for stage in STAGES if (found := manifest.load(night.folder(stage)))}
    end = outcome(night)
    over = end.get("code") and end["run"] >= max((found.run for found in records.values()), default="")
    publish = records.get("publish")
    return status(
        gates,
        publish.read(PublishOutputs).published if publish else None,
        night=night.date.isoformat(),
        failed=end["message"].splitlines()[0] if over else "",
        served=served_date(night.root),
        withdrawn=withdrawn_nights(night.root),
    )


def withdrawn_nights(root: paths.Root) -> list[str]:
    """Return the dates of published nights that were withdrawn, in order. A rollback also withdraws failed nights."""
    dates = publication_file.withdrawn(root)
    found = ((date, manifest.record(root.stage(dt.date.fromisoformat(date), "publish"))) for date in dates)
    return sorted(date for date, done in found if done is not None and done.read(PublishOutputs).published)


def rewrite_status(night: Night) -> str:
    """Update the status in the night's report. Return an error message; empty if there was no error.

    The rest of the page is not rendered again, because its files may have been dropped.
    """
    path = night.root.report(night.date)
    try:
        files.rewrite_text(path, lambda page: with_status(page, status_of(night, night_results.gates(night))))
    except Exception as error:
        return f"{path} is not up to date: {user_message(error) or repr(error)}"
    return ""


def served_date(root: paths.Root) -> str:
    """Return the date of the published night; empty if there is none, or if `published.json` cannot be read."""
    served = publication_file.read_if_valid(root)
    return served.date if served else ""


def outcome(night: Night) -> dict[str, Any]:
    """Return how the night's last run ended, as `outcome.json` has it; {} if no run has ended."""
    path = night.root.outcome(night.date)
    return dict(json.loads(files.read_bytes(path))) if files.exists(path) else {}


def long_tail(counts: dict[str, int]) -> dict[str, float]:
    """Return the shares of completed watches and users that the limit of the video vocabulary affects, from the counts
    of stage examples."""
    affected, only = counts["users_with_out_of_vocabulary"], counts["users_with_nothing_else"]
    completed = counts["watches"] - counts["watches_of_robots"] - counts["watches_not_completed"]
    return {
        "share of completed watches out of vocabulary": counts["watches_out_of_vocabulary"] / max(1, completed),
        "share of users with such a watch": affected / max(1, counts["users_with_completed"]),
        "share of users with only such watches": only / max(1, counts["users_with_completed"]),
    }


def folding(counts: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the shares of the pairs of each kind that has pairs, from the counts of stage neighbours."""
    found = {kind: counts["folding"][kind] for kind in KINDS} if "folding" in counts else {}
    return {
        kind: {shown: of[figure] / of["pairs"] for figure, shown in _FOLDING.items()}
        for kind, of in found.items()
        if of["pairs"]
    }


def _cost(of: Manifest) -> list[Any]:
    sizes = [of.peak_bytes, of.read_bytes, of.written_bytes, sum(entry.bytes for entry in of.files)]
    return [of.processor_seconds, *map(format_bytes, sizes)]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # runs from a source tree
        return "not installed"


def _headline(done: Mapping[str, Manifest]) -> Iterator[tuple[str, float]]:
    if "neighbours" in done:
        yield "users served", done["neighbours"].read(NeighboursOutputs).users
    if "index" in done:
        yield "videos to choose from", done["index"].read(IndexOutputs).candidates.rows
    if "vocabulary" in done:
        yield "watches in the window", done["vocabulary"].read(VocabularyOutputs).window.watches
    if "examples" in done and "train_pointers" in done["examples"].counts:
        yield "training labels", done["examples"].counts["train_pointers"]


def _quality_headline(metrics: NightMetrics) -> Iterator[tuple[str, float]]:
    """Yield the gate figure of the served lists and of the baselines that gates compare them with; of ranked lists also
    the figure that shows the order."""
    baselines = (night_metrics.MOST_POPULAR, night_metrics.ITEM_TO_ITEM)
    for system in (metrics.served_system, *baselines):
        if system in metrics.systems:
            yield f"{metrics.gate}, {system}", metrics.systems[system].figures[metrics.gate]
    if (cut_figure := metrics.cut_figure) and cut_figure != metrics.gate:
        for system in (metrics.served_system, night_metrics.NEIGHBOURS, *baselines):
            yield f"{cut_figure}, {system}", metrics.systems[system].figures[cut_figure]


def _differences(measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the differences by system and figure; files of older versions only have those of the gate figure."""
    of_gate = {system: {measured["gate"]: difference} for system, difference in measured.get("beside", {}).items()}
    return measured.get("differences") or of_gate


def _comparisons(metrics: NightMetrics) -> dict[str, str]:
    """Return what the difference of the gate figure between the lists and each other system shows, in words."""
    users, found = night_figures.held_out_users(metrics), {}
    for system, difference in metrics.beside.items():
        baseline = metrics.systems[system].figures.get(metrics.gate)
        if difference is not None and baseline is not None:
            found[system] = night_figures.verdict(difference, users, baseline)
    return found


def _curves(metrics: NightMetrics | None, name: str) -> dict[str, list[float]]:
    """Return shares of the videos in lists and of those watched, by system; systems of older metrics have none.

    name: `by_day` since upload or `by_length`.
    """
    systems = (night_metrics.NEIGHBOURS, night_metrics.MOST_POPULAR, night_metrics.WATCHED)
    curves = {system: metrics.shown.get(system, {}).get(name) for system in systems} if metrics else {}
    return {system: curve for system, curve in curves.items() if isinstance(curve, list) and curve}


def _length_classes() -> list[str]:
    """Return the classes of `list_statistics.length_shares` in minutes."""
    minutes = [seconds // 60 for seconds in LENGTHS]
    between = [f"{first} to {last} min" for first, last in pairwise(minutes)]
    return [f"under {minutes[0]} min", *between, f"{minutes[-1]} min and more"]


def _summary(
    night: Night, done: Mapping[str, Manifest], metrics: NightMetrics | None, gates: GateResults | None
) -> Status | None:
    users = done["neighbours"].read(NeighboursOutputs).users if "neighbours" in done else None
    before = night_results.night_before(night, gates)
    return report_summary.summary(users, metrics, gates, report_history.metrics(before) if before else None)


def _in_order(metrics: NightMetrics) -> dict[str, Any]:
    """Return the figures of each system in display order."""
    return {
        system: metrics.systems[system].model_dump(exclude_unset=True) | {"figures": figures}
        for system, figures in night_metrics.ordered_figures(metrics).items()
    }


def _training(night: Night) -> Training:
    folder = night.folder("train")
    names = (artifacts.TRAINING_HISTORY, artifacts.MODEL_INFO)
    history, info = (json.loads(files.read_bytes(paths.join(folder, name))) for name in names)
    points = history["loss"]
    spans = pairwise(points)
    speeds = [(b["examples"] - a["examples"]) / max(b["seconds"] - a["seconds"], 1e-9) for a, b in spans]
    return Training(
        steps=[point["step"] for point in points],
        losses=[point["loss"] for point in points],
        speeds=speeds if len(speeds) > 1 else (),
        epochs=[next(value for name, value in epoch.items() if "recall" in name) for epoch in history["holdout"]],
        waiting=info.get("waiting_for_input_share"),
        auto=auto_settings(night, info),
    )


def _order(ranking: Manifest) -> dict[str, Any]:
    """Return how ranked lists are ordered; empty if they are not ranked, or an earlier version did."""
    ranked = ranking.read(RankingOutputs).ranked
    return ranked.order.model_dump(mode="json") if ranked and ranked.order else {}


def auto_settings(night: Night, info: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that were "auto" in [examples], [model], [training], [neighbours] and [ranking], with values
    and reasons.

    info: the content of the model's `info.json`.
    """
    values = {**info["model"], **info["training"]}
    resolved = {name: f"{values[name]} ({reason})" for name, reason in info.get("auto", {}).items()}
    for stage in ("vocabulary", "examples", "neighbours", "ranking"):
        if done := manifest.load(night.folder(stage)):
            resolved |= done.counts.get("auto", {})
    return resolved


def _vocabulary(done: Mapping[str, Manifest]) -> dict[str, Any]:
    cover = done["vocabulary"].counts.get("cover", {}) if "vocabulary" in done else {}
    examples = done["examples"].counts if "examples" in done else {}
    return {**cover, **({"long tail": long_tail(examples)} if "users_with_completed" in examples else {})}


def _rows(done: Mapping[str, Manifest]) -> Iterator[tuple[str, str, int]]:
    """Yield (stage, name, rows) of all counts."""
    tables = done["ingest"].read(IngestOutputs).tables if "ingest" in done else None
    for table, rows in (tables or {}).items():
        yield from (("ingest", f"{table} {what}", number) for what, number in rows.items())
    for stage in ("examples", "neighbours", "ranking"):
        for what, number in (done[stage].figures if stage in done else {}).items():
            if isinstance(number, int):
                yield stage, what.replace("_", " "), number
