"""ROOT/metrics.prom: the state of the nights in the OpenMetrics format, for a scraper or for the textfile collector of
node_exporter. Replaced atomically after each night, whether it succeeded or failed.

Each sample has the date of its night as a label (`date`). Figures about lists are also labelled with the lists (`list`:
the stage that wrote them and the beginning of its digest), so that figures of a backfill do not replace those of the
served night. Ages are left to the monitoring system: `time() - watchnext_last_success_timestamp_seconds`.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace

from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.base import manifest
from pipelines.base.manifest import Manifest
from pipelines.night import night_results, publication_file
from pipelines.night.errors import user_message
from pipelines.night.night import Night, Outcome
from pipelines.night.outputs import EvaluationOutputs, IngestOutputs
from pipelines.night.publication_file import NEIGHBOURS, Published
from pipelines.night.sink_protocol import served_stage
from pipelines.night.stage import STAGES
from pipelines.reports import report, report_history
from transforms.core import files

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[Labels, float]
_RUN = "watchnext_last_run_timestamp_seconds"
_RUN_DURATION = "watchnext_last_run_duration_seconds"
_RUN_CODE = "watchnext_last_run_exit_code"
SERVED = "served"  # the system of the lists to serve, whichever stage wrote them
_SUCCESS = "watchnext_last_success_timestamp_seconds"


def gauge(name: str, text: str, samples: Samples) -> Metric:
    """Return a gauge with samples: labels -> value. Its name ends with its unit if it has one."""
    unit = next((unit for unit in ("seconds", "ratio") if name.endswith(f"_{unit}")), "")
    metric = Metric(name, text, "gauge", unit)
    for labels, value in samples.items():
        metric.add_sample(name, dict(labels), value)
    return metric


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """The last run of a night, and the last successful run whose night was served."""

    date: str  # of the night; empty if a file of an older version did not contain it
    ended: float  # seconds since the epoch
    seconds: float
    code: int
    succeeded: float | None = None  # seconds since the epoch
    succeeded_date: str = ""


def write(night: Night, end: Outcome | None = None) -> str:
    """Replace ROOT/metrics.prom. Return an error message; empty if there was no error.

    end: how a night ended; None if another night was served, so that the last run remains. A run is successful if it
    ended without an error and its night is served. A backfill, or a single stage, is not, so that it does not hide that
    scheduled nights fail.
    """
    path = night.root.metrics
    try:
        run, served = _last_run(path), publication_file.read_if_valid(night.root)
        if end:
            before, ended = run, time.time()
            run = LastRun(date=end.date, ended=ended, seconds=end.seconds, code=end.code)
            if end.code == 0 and served and served.date == end.date:
                run = replace(run, succeeded=ended, succeeded_date=end.date)
            elif before:
                run = replace(run, succeeded=before.succeeded, succeeded_date=before.succeeded_date)
        files.replace_file(path, render(gauges(night, run)))
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        return f"{path} is not up to date: {message}"
    return ""


def render(metrics: Iterable[Metric]) -> bytes:
    """Return the OpenMetrics text of all metrics that have a sample."""
    registry = SimpleNamespace(collect=lambda: [metric for metric in metrics if metric.samples])
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]


def gauges(night: Night, run: LastRun | None) -> Iterator[Metric]:
    """Yield metrics of the last run, the stages of its night, the served night, and the withdrawn nights."""
    recall: dict[Labels, float] = {}
    if run is not None:
        yield from _run_gauges(run)
        if run.date:
            run_night = replace(night, date=dt.date.fromisoformat(run.date))
            done = {stage: found for stage in STAGES if (found := manifest.load(run_night.folder(stage)))}
            yield from _stage_gauges(run.date, done)
            yield from _gate_gauges(run_night)
            recalls = _with_served(_recalls(done), served_stage(run_night))
            recall |= _recall_samples((("date", run.date), ("list", _list_name(run_night, done))), recalls)
    served = publication_file.read_if_valid(night.root)
    if served is not None:
        labels: Labels = (("date", served.date), ("list", _served_list_name(served)))
        published = served.recall or _recalls_of_older_version(night, served)
        recall |= _recall_samples(labels, _with_served(published, served.stage))
        yield from _served_gauges(served, labels)
    yield gauge("watchnext_recall_ratio", "recall@k of held-out users, by night, list and system.", recall)
    withdrawn: dict[Labels, float] = {
        (("date", date),): _midnight(date) for date in report.withdrawn_nights(night.root)
    }
    yield gauge("watchnext_withdrawn_night_timestamp_seconds", "00:00 UTC of each night that was withdrawn.", withdrawn)


def _run_gauges(run: LastRun) -> Iterator[Metric]:
    labels: Labels = (("date", run.date),) if run.date else ()
    yield gauge(_RUN, "When the last night ended.", {labels: run.ended})
    yield gauge(_RUN_DURATION, "How long it took.", {labels: run.seconds})
    yield gauge(_RUN_CODE, "Its exit code: 0 for success.", {labels: run.code})
    if run.succeeded is not None:
        succeeded: Labels = (("date", run.succeeded_date),) if run.succeeded_date else ()
        yield gauge(_SUCCESS, "When a run last succeeded with its night served.", {succeeded: run.succeeded})


def _served_gauges(served: Published, labels: Labels) -> Iterator[Metric]:
    night, published = _midnight(served.date), dt.datetime.fromisoformat(served.published_at).timestamp()
    yield gauge("watchnext_published_night_timestamp_seconds", "00:00 UTC of the served night.", {labels: night})
    yield gauge("watchnext_published_timestamp_seconds", "When it was published.", {labels: published})
    yield gauge("watchnext_served_users", "Users with a published list.", {labels: served.users})


def _gate_gauges(night: Night) -> Iterator[Metric]:
    found = report_history.gates(night)
    if found is not None:
        date = night.date.isoformat()
        counted: dict[Labels, float] = {
            (("date", date), ("state", state)): len(found.in_state(state)) for state in night_results.STATES
        }
        yield gauge("watchnext_gates", "Gates of the night by result.", counted)


def _stage_gauges(date: str, done: Mapping[str, Manifest]) -> Iterator[Metric]:
    label = ("date", date)
    seconds: dict[Labels, float] = {(label, ("stage", stage)): found.seconds for stage, found in done.items()}
    yield gauge("watchnext_stage_duration_seconds", "Duration of the last run of each stage.", seconds)
    ingested = done["ingest"].read(IngestOutputs) if "ingest" in done else None
    read: dict[Labels, float] = {
        (label, ("table", table), ("became", became)): rows
        for table, counts in ((ingested.tables if ingested else None) or {}).items()
        for became, rows in counts.items()
        if became != "read"
    }
    yield gauge("watchnext_ingested_rows", "Rows of raw files that this night read, by outcome.", read)
    kept: dict[Labels, float] = {
        (label, ("table", table)): rows for table, rows in (ingested.rows if ingested else {}).items()
    }
    yield gauge("watchnext_store_rows", "Events in the store after its ingest.", kept)


def _recall_samples(labels: Labels, recalls: Mapping[str, Mapping[str, float]]) -> dict[Labels, float]:
    return {
        (*labels, ("system", system), ("k", name.removeprefix("recall@"))): value
        for system, figures in recalls.items()
        for name, value in figures.items()
    }


def _with_served(recalls: Mapping[str, Mapping[str, float]], stage: str) -> dict[str, Mapping[str, float]]:
    """Return the recall by system, and that of the lists of a stage, whose name is that of their system, as `SERVED`.

    Lists that an older version ranked were not measured.
    """
    return {**recalls, **({SERVED: recalls[stage]} if stage in recalls else {})}


def _recalls(done: Mapping[str, Manifest]) -> dict[str, dict[str, float]]:
    return done["evaluation"].read(EvaluationOutputs).recalls() if "evaluation" in done else {}


def _recalls_of_older_version(night: Night, served: Published) -> dict[str, dict[str, float]]:
    """Return the served night's figures if an older version wrote `published.json`, without them."""
    served_night = replace(night, date=served.night)
    done = manifest.record(served_night.folder("evaluation"))
    return done.read(EvaluationOutputs).recalls() if done else {}


def _list_name(night: Night, done: Mapping[str, Manifest]) -> str:
    """Return the name of a night's lists, in the form of `_served_list_name`; empty if there are none yet."""
    lists = done.get(NEIGHBOURS)
    return f"{served_stage(night)}-{lists.digest[:8]}" if lists else ""


def _served_list_name(served: Published) -> str:
    return f"{served.stage}-{served.neighbours[:8]}"


def _midnight(date: str) -> float:
    return dt.datetime.combine(dt.date.fromisoformat(date), dt.time(), dt.UTC).timestamp()


def _last_run(path: str) -> LastRun | None:
    """Read the last run from the file; None if there is no file, or no run in it."""
    if not files.exists(path):
        return None
    try:
        families = list(text_string_to_metric_families(files.read_bytes(path).decode(errors="replace")))
    except ValueError:
        return None
    found = {one.name: one for family in families for one in family.samples}
    if not {_RUN, _RUN_DURATION, _RUN_CODE} <= found.keys():
        return None
    success = found.get(_SUCCESS)
    return LastRun(
        date=found[_RUN].labels.get("date", ""),
        ended=found[_RUN].value,
        seconds=found[_RUN_DURATION].value,
        code=int(found[_RUN_CODE].value),
        succeeded=success.value if success else None,
        succeeded_date=success.labels.get("date", "") if success else "",
    )
