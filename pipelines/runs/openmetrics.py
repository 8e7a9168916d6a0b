"""ROOT/metrics.prom: the state of the nights as OpenMetrics text, for a scraper or the textfile collector of
node_exporter. Replaced whole after each night, whether it went well or not.

Every sample names its night (`date`); what is said of lists names those too (`list`: the stage that wrote them and the
beginning of its digest), so that figures of a backfill stand next to those of the served night and do not replace them.
Ages are left to whoever reads them, who knows what time it is: `time() - watchnext_last_success_timestamp_seconds`.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.base import manifest
from pipelines.base.manifest import Manifest
from pipelines.night import night_results, publication_file
from pipelines.night.errors import user_message
from pipelines.night.outcome import Outcome
from pipelines.night.sink_protocol import NEIGHBOURS, served_stage
from pipelines.night.stage import STAGES, Night
from pipelines.reports import report, report_history
from transforms.core import files

Labels = tuple[tuple[str, str], ...]
_SUCCESS = "watchnext_last_success_timestamp_seconds"
_OF_LAST_RUN = (
    "watchnext_last_run_timestamp_seconds",
    "watchnext_last_run_duration_seconds",
    "watchnext_last_run_exit_code",
    _SUCCESS,
)
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True)
class Gauge:
    """One metric and its samples: labels -> value. A name ends with its unit where it has one."""

    name: str
    text: str
    samples: Mapping[Labels, float] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return next((unit for unit in ("seconds", "ratio") if self.name.endswith(f"_{unit}")), "")

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self.name} gauge"
        if self.unit:
            yield f"# UNIT {self.name} {self.unit}"
        yield f"# HELP {self.name} {self.text.translate(_ESCAPES)}"
        for labels, value in self.samples.items():
            inside = ",".join(f'{label}="{of.translate(_ESCAPES)}"' for label, of in labels)
            yield f"{self.name}{{{inside}}} {float(value)!r}" if inside else f"{self.name} {float(value)!r}"


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """The last run of a night, and when a run last ended well with its night served."""

    date: str  # of the night; empty if the file of an older version did not name it
    ended: float  # seconds since the epoch
    seconds: float
    code: int
    succeeded: float | None  # seconds since the epoch
    succeeded_date: str = ""


def write(night: Night, end: Outcome) -> str:
    """Replace ROOT/metrics.prom after a night; what went wrong with that, in a line, empty if nothing did.

    A run counts as a success if it ended without an error and its night is the one that is served: a backfill, and a
    stage run by itself, do not hide that the nights of a schedule do not come.
    """
    path = night.root.metrics
    try:
        before, now = _last_run(path), time.time()
        served = publication_file.read_if_valid(night.root) or {}
        succeeded, of = (before.succeeded, before.succeeded_date) if before else (None, "")
        if end.code == 0 and served.get("date") == end.date:
            succeeded, of = now, end.date
        run = LastRun(
            date=end.date, ended=now, seconds=end.seconds, code=end.code, succeeded=succeeded, succeeded_date=of
        )
        files.replace_file(path, render(list(gauges(night, run))).encode())
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        return f"{path} is not up to date: {message}"
    return ""


def refresh(night: Night) -> str:
    """Replace ROOT/metrics.prom after another night was made the served one: what it says of the last run stays. What
    went wrong with that, in a line, empty if nothing did."""
    path = night.root.metrics
    try:
        files.replace_file(path, render(list(gauges(night, _last_run(path)))).encode())
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        return f"{path} is not up to date: {message}"
    return ""


def render(found: list[Gauge]) -> str:
    """The text of all metrics that have a sample."""
    return "\n".join([*(line for gauge in found if gauge.samples for line in gauge.lines()), "# EOF", ""])


def gauges(night: Night, run: LastRun | None) -> Iterator[Gauge]:
    """The last run, the stages of its night, the night that is served, and those that were taken back."""
    recall: dict[Labels, float] = {}
    if run is not None:
        yield from _of_run(run)
        if run.date:
            of = replace(night, date=dt.date.fromisoformat(run.date))
            done = {stage: found for stage in STAGES if (found := manifest.load(of.folder(stage)))}
            yield from _of_stages(run.date, done)
            yield from _of_gates(of)
            recall |= _recall((("date", run.date), ("list", _list_of(of, done))), _recalls(done))
    served = publication_file.read_if_valid(night.root)
    if served is not None:
        labels: Labels = (("date", served["date"]), ("list", _served_list(served)))
        recall |= _recall(labels, served.get("recall") or _recalls_of_older_version(night, served))
        yield from _of_served(served, labels)
    yield Gauge("watchnext_recall_ratio", "recall@k of held-out users, by night, list and system.", recall)
    taken_back: dict[Labels, float] = {
        (("date", date),): _midnight(date) for date in report.withdrawn_nights(night.root)
    }
    yield Gauge(
        "watchnext_withdrawn_night_timestamp_seconds", "00:00 UTC of each night that was taken back.", taken_back
    )


def _of_run(run: LastRun) -> Iterator[Gauge]:
    of: Labels = (("date", run.date),) if run.date else ()
    yield Gauge("watchnext_last_run_timestamp_seconds", "When the last night ended.", {of: run.ended})
    yield Gauge("watchnext_last_run_duration_seconds", "How long it took.", {of: run.seconds})
    yield Gauge("watchnext_last_run_exit_code", "Its exit code: 0 if all went well.", {of: run.code})
    if run.succeeded is not None:
        succeeded: Labels = (("date", run.succeeded_date),) if run.succeeded_date else ()
        yield Gauge(_SUCCESS, "When a run last ended well with its night served.", {succeeded: run.succeeded})


def _of_served(served: Mapping[str, Any], labels: Labels) -> Iterator[Gauge]:
    night, at = _midnight(served["date"]), dt.datetime.fromisoformat(served["published_at"]).timestamp()
    yield Gauge("watchnext_published_night_timestamp_seconds", "00:00 UTC of the served night.", {labels: night})
    yield Gauge("watchnext_published_timestamp_seconds", "When it was published.", {labels: at})
    yield Gauge("watchnext_served_users", "Users with a published list.", {labels: served["users"]})


def _of_gates(night: Night) -> Iterator[Gauge]:
    found = report_history.gates(night)
    if found is not None:
        date = night.date.isoformat()
        counted: dict[Labels, float] = {
            (("date", date), ("state", state)): len(found.named(state)) for state in night_results.STATES
        }
        yield Gauge("watchnext_gates", "Gates of the night by how they ended.", counted)


def _of_stages(date: str, done: Mapping[str, Manifest]) -> Iterator[Gauge]:
    of = ("date", date)
    seconds: dict[Labels, float] = {(of, ("stage", stage)): found.seconds for stage, found in done.items()}
    yield Gauge("watchnext_stage_duration_seconds", "Time of each stage's own work, the last time it ran.", seconds)
    ingested = done["ingest"].counts if "ingest" in done else {}
    read: dict[Labels, float] = {
        (of, ("table", table), ("became", became)): rows
        for table, rows_of in ingested.get("tables", {}).items()
        for became, rows in rows_of.items()
        if became != "read"
    }
    yield Gauge("watchnext_ingested_rows", "Rows of raw files this night read, by what became of them.", read)
    kept: dict[Labels, float] = {(of, ("table", table)): rows for table, rows in ingested.get("rows", {}).items()}
    yield Gauge("watchnext_store_rows", "Events in the store after its ingest.", kept)


def _recall(labels: Labels, recalls: Mapping[str, Mapping[str, float]]) -> dict[Labels, float]:
    return {
        (*labels, ("system", system), ("k", name.removeprefix("recall@"))): value
        for system, figures in recalls.items()
        for name, value in figures.items()
    }


def _recalls(done: Mapping[str, Manifest]) -> dict[str, dict[str, float]]:
    return night_results.recalls(done["evaluation"]) if "evaluation" in done else {}


def _recalls_of_older_version(night: Night, served: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The served night's figures if `published.json` was written before it held them."""
    of = replace(night, date=dt.date.fromisoformat(served["date"]))
    done = manifest.record(of.folder("evaluation"))
    return night_results.recalls(done) if done else {}


def _list_of(night: Night, done: Mapping[str, Manifest]) -> str:
    """The name of a night's lists, as `_served_list` names them; empty before there are any."""
    lists = done.get(NEIGHBOURS)
    return f"{served_stage(night)}-{lists.digest[:8]}" if lists else ""


def _served_list(served: Mapping[str, Any]) -> str:
    return f"{served.get('stage', NEIGHBOURS)}-{served.get('neighbours', '')[:8]}"


def _midnight(date: str) -> float:
    return dt.datetime.combine(dt.date.fromisoformat(date), dt.time(), dt.UTC).timestamp()


def _last_run(path: str) -> LastRun | None:
    """What the file says of the last run; None if there is no such file, or no run in it."""
    if not files.exists(path):
        return None
    text = files.read_bytes(path).decode(errors="replace")
    found = {name: re.search(rf'^{name}(?:{{date="([\d-]+)"}})? (\S+)$', text, re.MULTILINE) for name in _OF_LAST_RUN}
    ended, seconds, code, succeeded = found.values()
    if not (ended and seconds and code):
        return None
    return LastRun(
        date=ended[1] or "",
        ended=float(ended[2]),
        seconds=float(seconds[2]),
        code=int(float(code[2])),
        succeeded=float(succeeded[2]) if succeeded else None,
        succeeded_date=(succeeded[1] or "") if succeeded else "",
    )
