"""The log of a run: text for people, or one JSON object per line for programs.

    {"time": "2026-11-21T03:00:07.412Z", "run": "20261121T030000Z-1a2b3c4d", "date": "2026-11-21", "level": "info",
     "event": "stage_done", "stage": "ingest", "seconds": 7.4, "counts": {"buckets": 8, ...}, "message": "7.4 s"}

Events: night_begins (of several nights), stage_begins, stage_done, stage_skipped, note, night_done, night_failed,
run_failed, warning, summary. The id of the run is passed to its stages, which write it into their manifests.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from pipelines.base import console
from pipelines.night.night import Outcome
from pipelines.night.stage import RUN_VARIABLE
from pipelines.runs.processes import ConsoleDisplay


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """The log of one run, on the standard error."""

    run: str
    as_json: bool

    def write_event(self, event: str, message: str, *, level: str = "info", **fields: Any) -> None:
        """Write one event. In text, warnings and errors begin with `watchnext:`."""
        if self.as_json:
            self._write({"level": level, "event": event, **fields, "message": message})
            return
        prefix = {"error": "watchnext: ", "warning": "watchnext: warning: "}.get(level, "")
        print(f"{prefix}{console.printable(message)}", file=sys.stderr, flush=True)

    def fail(self, message: str) -> None:
        """Write that the run failed before a night began."""
        self.write_event("run_failed", message, level="error")

    def end_night(self, end: Outcome) -> None:
        """Write how a night ended."""
        figures = {"date": end.date, "seconds": round(end.seconds, 3), "exit_code": end.code}
        failed = end.code != 0
        self.write_event(
            "night_failed" if failed else "night_done", end.message, level="error" if failed else "info", **figures
        )

    def shows_own_progress(self, stage: str) -> bool:
        """Return whether a stage displays its own progress on a terminal."""
        return stage == "train" and not self.as_json

    def open_display(self, date: dt.date, stages: int) -> ConsoleDisplay:
        """Return the display for the stages of a night."""
        return JsonDisplay(self, date) if self.as_json else ConsoleDisplay(stages)

    def _write(self, record: dict[str, Any]) -> None:
        time = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": time, "run": self.run, **record}, ensure_ascii=False, default=str)
        print(console.printable_json(line, sys.stderr), file=sys.stderr, flush=True)


class JsonDisplay(ConsoleDisplay):
    """A display for programs: writes two events per stage."""

    def __init__(self, log: RunLog, date: dt.date) -> None:
        self._log, self._date, self._bar = log, date.isoformat(), tqdm(disable=True)

    def begin_stage(self, stage: str) -> None:
        self._log.write_event("stage_begins", f"{stage} begins", date=self._date, stage=stage)

    def end_stage(self, stage: str, result: str, **fields: Any) -> None:
        event = "stage_done" if "seconds" in fields else "stage_skipped"
        if counts := fields.get("counts"):  # only numbers: the rest is in the manifest
            fields["counts"] = {name: value for name, value in counts.items() if isinstance(value, int | float)}
        self._log.write_event(event, result, date=self._date, stage=stage, **fields)

    def print_line(self, text: str) -> None:
        self._log.write_event("note", text, date=self._date)


@contextmanager
def open_log(form: str) -> Iterator[RunLog]:
    """Yield the log of a new run, in one of `LOG_FORMATS`. The id of the run is the value of RUN_VARIABLE, which a
    scheduler may set, or else a new id that begins with the time."""
    given = os.environ.get(RUN_VARIABLE)
    run = given or f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    os.environ[RUN_VARIABLE] = run
    try:
        yield RunLog(run=run, as_json=form == "json")
    finally:
        if given is None:
            os.environ.pop(RUN_VARIABLE, None)
