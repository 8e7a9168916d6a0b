"""The history in a report: figures, volumes and gates of earlier nights. Reads only files that are never dropped
(`retention`), so that trends also include nights whose other files were dropped."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipelines.base import manifest, paths
from pipelines.base.manifest import ManifestError
from pipelines.night import night_results
from pipelines.night.night import Night
from pipelines.night.night_results import GateResults
from pipelines.night.outputs import IngestOutputs, NeighboursOutputs
from transforms.evaluation.night_metrics import NightMetrics
from transforms.evaluation.user_metrics import MeasuredFigures
from transforms.report.page import Point

NIGHTS, DAYS = 14, 28  # length of trends, and of volumes
HOLDOUT, SERVED = "held-out users", "published the night before"


def newest_nights(night: Night) -> list[Night]:
    """Return the newest nights up to this one, in order."""
    return [replace(night, date=date) for date in paths.nights(night.root) if date <= night.date][-NIGHTS:]


def metrics(night: Night) -> NightMetrics | None:
    """Return the metrics of a night; None if there are none, or if the file cannot be read."""
    try:
        return night_results.metrics(night)
    except ManifestError:
        return None


def gates(night: Night) -> GateResults | None:
    """Return the results of the night's gates; None if there are none, or if the file cannot be read."""
    try:
        return night_results.gates(night)
    except ManifestError:
        return None


def newest_metric(nights: Sequence[Night]) -> str:
    """Return the name of the gated metric (recall@k) of the newest of these nights; empty if none has metrics."""
    found = (metrics(night) for night in reversed(nights))
    return next((measured.gate for measured in found if measured is not None and measured.gate), "")


def point(measured: MeasuredFigures | None, metric: str) -> Point | None:
    """Return a metric and its interval; None if it was not measured, for example for lists of another length."""
    if not measured or metric not in measured.figures or metric not in measured.intervals:
        return None
    return (measured.figures[metric], *measured.intervals[metric])


def holdout_point(found: NightMetrics | None, metric: str) -> Point | None:
    """Return the `point` of the lists to serve of a night, from its metrics."""
    return point(found.systems.get(found.served_system), metric) if found else None


def trend(night: Night, named: Sequence[str]) -> dict[str, Any]:
    """Return `trend_nights` and `trend` of a Report: the recall of each night, and of the lists published before it.

    named: the metrics; the first is that of the report.
    """
    nights = newest_nights(night)
    found = [metrics(one) for one in nights]
    lines = {}
    for metric in dict.fromkeys(named):
        suffix = "" if metric == named[0] else f", {metric}"
        lines[HOLDOUT + suffix] = [holdout_point(measured, metric) for measured in found]
        lines[SERVED + suffix] = [point(measured.served if measured else None, metric) for measured in found]
    with_points = {name: points for name, points in lines.items() if any(points)}
    return {"trend_nights": [one.date.isoformat() for one in nights], "trend": with_points}


def volumes(night: Night) -> dict[str, Any]:
    """Return `days`, `events` and `night_rows` of a Report: the store's events by day, and the rows of each night."""
    rows = [(one.date.isoformat(), _rows(one)) for one in newest_nights(night)]
    if manifest.load(night.folder("ingest")) is None:
        return {"night_rows": rows}
    by_table = night.ingested.snapshot.rows_by_day
    newest = night.date - dt.timedelta(days=1)
    first = min((day for by_day in by_table.values() for day in by_day), default=newest.isoformat())
    days = [(newest - dt.timedelta(days=n)).isoformat() for n in reversed(range(DAYS))]
    days = [day for day in days if day >= first]
    events = {table: [by_day.get(day, 0) for day in days] for table, by_day in sorted(by_table.items(), reverse=True)}
    return {"days": days, "events": events, "night_rows": rows}


def _rows(night: Night) -> list[int | None]:
    """Return the rows that the night's ingest read, kept and rejected, and the number of users it served."""
    ingest, lists = (manifest.record(night.folder(stage)) for stage in ("ingest", "neighbours"))
    tables = ((ingest.read(IngestOutputs).tables if ingest else None) or {}).values()
    read = [sum(table[name] for table in tables) if ingest else None for name in ("read", "kept", "refused")]
    return [*read, lists.read(NeighboursOutputs).users if lists else None]
