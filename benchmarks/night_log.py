"""Read the JSON log of a run, and the text of its report.

log = Log(Path("night.jsonl"))   # the standard error of `nightly --log-format json`
log.end_of(dt.date(2026, 11, 21))["exit_code"]
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "pipelines.nightly")


@dataclass(frozen=True)
class Log:
    """The JSON lines of a run."""

    path: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events with a name, in order, without a line that is still being written."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"\n")]
        return [event for event in found if event["event"] == name]

    def end_of(self, date: dt.date) -> dict[str, Any] | None:
        """Return the event that ended a night (exit_code, message, seconds), or None if there is none."""
        ends = [*self.events("night_done"), *self.events("night_failed"), *self.events("run_failed")]
        return next((end for end in ends if end.get("date") in (None, date.isoformat())), None)

    def stage_seconds(self) -> dict[str, float]:
        """Return the wall time of each stage that ran, including its process."""
        return {event["stage"]: event["seconds"] for event in self.events("stage_done")}


def report_of(root: Path, date: dt.date) -> Path | None:
    """Return the path of a night's report, if it has one."""
    return next((root / "nights" / date.isoformat()).rglob("report.html"), None)


def text_of(page: Path) -> str:
    """Return the visible text of a page, without styles, scripts and tags."""
    html = page.read_text(encoding="utf-8")
    bare = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", bare)).split())
