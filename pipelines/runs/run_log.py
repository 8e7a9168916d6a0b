"""What a run says of itself while it is at work: text for people, or one JSON object a line for programs.

    {"time": "2026-11-21T03:00:07.412Z", "run": "20261121T030000Z-1a2b3c4d", "date": "2026-11-21", "level": "info",
     "event": "stage_done", "stage": "ingest", "seconds": 7.4, "counts": {"buckets": 8, ...}, "message": "7.4 s"}

Events: night_begins (of several), stage_begins, stage_done, stage_skipped, note, night_done, night_failed, run_failed,
warning, summary. The run's id goes to the stages it starts, and with them into the manifests of what they leave.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.base import console
from pipelines.night.outcome import Outcome
from pipelines.night.stage import RUN_VARIABLE
from pipelines.runs.processes import ConsoleDisplay

FORMATS = ("text", "json")


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """The log of one run, on the standard error."""

    run: str
    as_json: bool

    def tell(self, event: str, message: str, *, level: str = "info", **fields: Any) -> None:
        """One event. As text, warnings and errors say whose they are."""
        if self.as_json:
            self._write({"level": level, "event": event, **fields, "message": message})
            return
        sign = {"error": "watchnext: ", "warning": "watchnext: warning: "}.get(level, "")
        print(f"{sign}{console.printable(message)}", file=sys.stderr, flush=True)

    def fail(self, message: str) -> None:
        """The end of a run before any night began."""
        self.tell("run_failed", message, level="error")

    def end(self, end: Outcome) -> None:
        """The end of a night."""
        figures = {"date": end.date, "seconds": round(end.seconds, 3), "exit_code": end.code}
        failed = end.code != 0
        self.tell(
            "night_failed" if failed else "night_done", end.message, level="error" if failed else "info", **figures
        )

    def on_screen(self, stage: str) -> bool:
        """Whether a stage's own progress is to be seen on a terminal."""
        return stage == "train" and not self.as_json

    def screen(self, date: dt.date, stages: int) -> ConsoleDisplay:
        """What shows the stages of a night."""
        return JsonScreen(self, date) if self.as_json else ConsoleDisplay(stages)

    def _write(self, record: dict[str, Any]) -> None:
        time = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": time, "run": self.run, **record}, ensure_ascii=False, default=str)
        print(console.printable_json(line, sys.stderr), file=sys.stderr, flush=True)


class JsonScreen(ConsoleDisplay):
    """A screen nobody looks at: every stage is two events."""

    def __init__(self, log: RunLog, date: dt.date) -> None:
        self._log, self._date, self._bar = log, date.isoformat(), None

    def begin(self, stage: str) -> None:
        self._log.tell("stage_begins", f"{stage} begins", date=self._date, stage=stage)

    def say(self, stage: str, what: str, **fields: Any) -> None:
        event = "stage_done" if "seconds" in fields else "stage_skipped"
        if counts := fields.get("counts"):  # the figures alone: the rest is in the manifest
            fields["counts"] = {name: value for name, value in counts.items() if isinstance(value, int | float)}
        self._log.tell(event, what, date=self._date, stage=stage, **fields)

    def line(self, text: str) -> None:
        self._log.tell("note", text, date=self._date)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-format", choices=FORMATS, default="text", help="text, or one JSON object a line (default: text)"
    )


@contextmanager
def open_log(form: str) -> Iterator[RunLog]:
    """The log of a run that begins, in one of FORMATS; its id is what a scheduler set in RUN_VARIABLE, else a new one
    that begins with the time."""
    given = os.environ.get(RUN_VARIABLE)
    run = given or f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    os.environ[RUN_VARIABLE] = run
    try:
        yield RunLog(run=run, as_json=form == "json")
    finally:
        if given is None:
            os.environ.pop(RUN_VARIABLE, None)
