"""ROOT/index.html: a page with all nights, newest first, and their results. Replaced atomically after each night,
whether it succeeded or failed. `nights/DATE/outcome.json` contains the result of a night's last run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from pipelines.base import manifest, paths
from pipelines.base.manifest import ManifestError
from pipelines.night import night_results
from pipelines.night.errors import user_message
from pipelines.night.night import Night, Outcome
from pipelines.night.night_results import GateResults
from pipelines.night.outputs import NeighboursOutputs
from pipelines.night.publication_file import withdrawn
from pipelines.night.stage import STAGES
from pipelines.reports import report, report_history
from transforms.core import files
from transforms.report.page import NightRow, Status, render_nights


@contextmanager
def refreshing_index(night: Night) -> Iterator[None]:
    """Update the night's report and the page after the `with` block, also if it raised an error."""
    try:
        yield
    finally:
        report.write(night)
        write(night)


def write(night: Night, end: Outcome | None = None) -> str:
    """Replace the page. Return an error message; empty if there was no error.

    end: the result of the night's run, if it has ended.
    """
    try:
        if end:
            files.replace_file(night.root.outcome(night.date), json.dumps(asdict(end), indent=1).encode())
            (report.write if end.code else report.rewrite_status)(night)
        nights = [replace(night, date=date) for date in paths.nights(night.root)]
        metric = report_history.newest_metric(nights) or "recall"
        served = report.served_date(night.root)
        rows = [row(one, metric, served) for one in reversed(nights)]
        files.replace_file(night.root.index, render_nights(rows, metric=metric).encode())
        problems = [report.rewrite_status(one) for one in nights if one.date.isoformat() in withdrawn(night.root)]
    except Exception as error:
        return f"{night.root.index} is not up to date: {user_message(error) or repr(error)}"
    return "; ".join(problem for problem in problems if problem)


def refresh(night: Night) -> list[str]:
    """Update the served night on the page and in all reports. Return the error messages."""
    problems = [report.rewrite_status(replace(night, date=date)) for date in paths.nights(night.root)]
    return [problem for problem in (*problems, write(night)) if problem]


def row(night: Night, metric: str, served: str) -> NightRow:
    """Return the row of one night. metric: the metric that the page shows; served: the date of the served night."""
    lists, measured = manifest.record(night.folder("neighbours")), report_history.metrics(night)
    own = measured.gate if measured and not report_history.holdout_point(measured, metric) else metric
    recall = report_history.holdout_point(measured, own)
    try:
        gates, state = night_results.gates(night), None
    except ManifestError as error:
        gates, state = None, Status(text=str(error), level="warn")
    return NightRow(
        date=night.date.isoformat(),
        status=state or _status(night, gates),
        served=night.date.isoformat() == served,
        recall=recall,
        metric=own if recall and own != metric else "",
        users=lists.read(NeighboursOutputs).users if lists else None,
        failed=[gate.name for gate in gates.in_state("failed")] if gates else (),
        unexpected=[gate.name for gate in gates.unexpected] if gates else (),
        link=f"nights/{night.date}/report.html" if files.exists(night.root.report(night.date)) else "",
    )


def _status(night: Night, gates: GateResults | None) -> Status:
    """Return the status of a night: from its gates if it reached publish, otherwise from the stage that it reached."""
    end, done = report.outcome(night), manifest.record(night.folder("publish"))
    if (gates and gates.status == "failed") or (done and not end.get("code")):
        return report.status_of(night, gates)
    if done:
        return Status(text=f"the last run failed: {end['message'].splitlines()[0]}", level="bad")
    missing = next((stage for stage in STAGES if manifest.record(night.folder(stage)) is None), "publish")
    return Status(text=f"failed in stage {missing}", level="bad") if end else Status(text="under way", level="warn")
