"""ROOT/metrics.prom: the state of the nights as OpenMetrics text, for a scraper or the textfile collector of
node_exporter. Replaced whole after each night, whether it went well or not.

Ages are left to whoever reads them, who knows what time it is: `time() - watchnext_last_success_timestamp_seconds`.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipelines import manifest, publish
from pipelines.errors import told
from pipelines.manifest import Manifest
from pipelines.run_log import Outcome
from pipelines.stages import STAGES, Night
from transforms import files

Labels = tuple[tuple[str, str], ...]
_SUCCESS = "watchnext_last_success_timestamp_seconds"
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


def write(night: Night, end: Outcome) -> str:
    """Replace ROOT/metrics.prom; what went wrong with that, in a line, empty where nothing did."""
    path = night.root.metrics
    try:
        succeeded = time.time() if end.code == 0 else _last_success(path)
        files.replace_file(path, render(list(gauges(night, end, succeeded))).encode())
    except Exception as error:
        if (message := told(error)) is None:
            raise
        return f"{path} is not up to date: {message}"
    return ""


def render(found: list[Gauge]) -> str:
    """The text of all metrics that have a sample."""
    return "\n".join([*(line for gauge in found if gauge.samples for line in gauge.lines()), "# EOF", ""])


def gauges(night: Night, end: Outcome, succeeded: float | None) -> Iterator[Gauge]:
    """What is told of the last run, of the stages of its night, and of what is published."""
    alone: Labels = ()
    yield Gauge("watchnext_last_run_timestamp_seconds", "When the last night ended.", {alone: time.time()})
    yield Gauge("watchnext_last_run_duration_seconds", "How long it took.", {alone: end.seconds})
    yield Gauge("watchnext_last_run_exit_code", "Its exit code: 0 where all went well.", {alone: end.code})
    if succeeded is not None:
        yield Gauge(_SUCCESS, "When a night last ended well.", {alone: succeeded})
    done = {stage: found for stage in STAGES if (found := manifest.load(night.folder(stage)))}
    yield from _of_stages(done)
    served = publish.read(night.root)
    if served is not None:
        of = dt.datetime.combine(dt.date.fromisoformat(served["date"]), dt.time(), dt.UTC).timestamp()
        at = dt.datetime.fromisoformat(served["published_at"]).timestamp()
        yield Gauge("watchnext_published_night_timestamp_seconds", "00:00 UTC of the published night.", {alone: of})
        yield Gauge("watchnext_published_timestamp_seconds", "When it was published.", {alone: at})
        yield Gauge("watchnext_served_users", "Users with a published list.", {alone: served["users"]})


def _of_stages(done: dict[str, Manifest]) -> Iterator[Gauge]:
    counts = {stage: found.counts for stage, found in done.items()}
    seconds: dict[Labels, float] = {(("stage", stage),): found.seconds for stage, found in done.items()}
    yield Gauge("watchnext_stage_duration_seconds", "Time of each stage's own work, the last time it ran.", seconds)
    ingested = counts.get("ingest", {})
    read: dict[Labels, float] = {
        (("table", table), ("became", became)): rows
        for table, of in ingested.get("tables", {}).items()
        for became, rows in of.items()
        if became != "read"
    }
    yield Gauge("watchnext_ingested_rows", "Rows of raw files this night read, by what became of them.", read)
    kept: dict[Labels, float] = {(("table", table),): rows for table, rows in ingested.get("rows", {}).items()}
    yield Gauge("watchnext_store_rows", "Events in the store after its ingest.", kept)
    recall: dict[Labels, float] = {
        (("system", system), ("k", name.removeprefix("recall@"))): value
        for system, figures in counts.get("evaluation", {}).get("metrics", {}).items()
        for name, value in figures.items()
        if name.startswith("recall@")
    }
    yield Gauge("watchnext_recall_ratio", "recall@k of held-out users, by system.", recall)


def _last_success(path: str) -> float | None:
    """What the file said of it so far."""
    if not files.exists(path):
        return None
    found = re.search(rf"^{_SUCCESS} (\S+)$", files.read_bytes(path).decode(), re.MULTILINE)
    return float(found[1]) if found else None
