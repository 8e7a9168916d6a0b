"""ROOT/index.html: all nights, newest first, with what became of each. Replaced whole after each night, whether it went
well or not; `nights/DATE/outcome.json` says how its last run ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from pipelines import kept, manifest, report, report_history
from pipelines.errors import told
from pipelines.run_log import Outcome
from pipelines.stages import STAGES, Night
from transforms import files
from transforms.report.nights import NightRow, render_nights
from transforms.report.page import Status


@contextmanager
def kept_up(night: Night) -> Iterator[None]:
    """The night's report and the page show what was done within, whether or not it went well."""
    try:
        yield
    finally:
        report.write(night)
        write(night)


def write(night: Night, end: Outcome | None = None) -> str:
    """Replace the page; what went wrong with that, in a line, empty where nothing did. end: how the night ended, where
    its run is over."""
    try:
        if end:
            files.replace_file(night.root.outcome(night.date), json.dumps(asdict(end), indent=1).encode())
        if end and end.code:
            report.write(night)
        figure = (report_history.metrics(night) or {}).get("gate", "recall")
        rows = [row(replace(night, date=date), figure) for date in reversed(kept.nights(night.root))]
        files.replace_file(night.root.index, render_nights(rows, figure=figure).encode())
    except Exception as error:
        return f"{night.root.index} is not up to date: {told(error) or repr(error)}"
    return ""


def row(night: Night, figure: str) -> NightRow:
    """One night, from its manifests, figures and gates."""
    gates = report_history.gates(night) or {}
    lists = manifest.record(night.folder("neighbours"))
    return NightRow(
        date=night.date.isoformat(),
        status=_status(night),
        recall=report_history.holdout(report_history.metrics(night), figure),
        users=lists.counts.get("users") if lists else None,
        failed=[gate["name"] for gate in gates.get("gates", ()) if gate["ok"] is False],
        link=f"nights/{night.date}/report.html" if files.exists(night.root.report(night.date)) else "",
    )


def _status(night: Night) -> Status:
    """Of a night that came to its end by its gates, of another by the stage it came to."""
    path = night.root.outcome(night.date)
    end = json.loads(files.read_bytes(path)) if files.exists(path) else {}
    gates, done = report_history.gates(night) or {}, manifest.record(night.folder("publish"))
    if gates.get("status") == "failed" or (done and not end.get("code")):
        return report.status(gates, done.counts if done else None)
    missing = next((stage for stage in STAGES if manifest.record(night.folder(stage)) is None), "publish")
    return Status(text=f"failed in stage {missing}", level="bad") if end else Status(text="under way", level="warn")
