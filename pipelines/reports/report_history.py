"""What a report shows of the nights before: their figures, their volumes, their gates. Read from what nights leave for
ever (`retention`), so that a trend does not end where files were dropped."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipelines.base import manifest
from pipelines.base.manifest import ManifestError
from pipelines.night import night_list, night_results
from pipelines.night.night_results import GateResults
from pipelines.night.stage import Night
from transforms.evaluation import night_metrics
from transforms.evaluation.night_metrics import MeasuredServed, NightMetrics
from transforms.evaluation.user_metrics import MeasuredFigures
from transforms.report.page import Point

NIGHTS, DAYS = 14, 28  # that a trend and the volumes go back to
HOLDOUT, SERVED = "held-out users", "published the night before"


def newest_nights(night: Night, most: int = NIGHTS) -> list[Night]:
    """The newest nights up to this one, in order."""
    return [replace(night, date=date) for date in night_list.nights(night.root) if date <= night.date][-most:]


def metrics(night: Night) -> NightMetrics | None:
    """What stage evaluation measured of a night; None also if the file cannot be read: a page of many nights shows the
    others."""
    try:
        return night_results.metrics(night)
    except ManifestError:
        return None


def gates(night: Night) -> GateResults | None:
    """What the night's gates found; None also if the file cannot be read."""
    try:
        return night_results.gates(night)
    except ManifestError:
        return None


def newest_figure(nights: Sequence[Night]) -> str:
    """The figure that the newest of some nights in order is compared by, recall@k; empty if none was measured."""
    found = (metrics(of) for of in reversed(nights))
    return next((measured.gate for measured in found if measured is not None and measured.gate), "")


def point(measured: MeasuredFigures | MeasuredServed | None, figure: str) -> Point | None:
    """A figure and its interval; None if it was not measured, as with lists of another length."""
    if not measured or figure not in measured.figures or figure not in measured.intervals:
        return None
    return (measured.figures[figure], *measured.intervals[figure])


def holdout_point(found: NightMetrics | None, figure: str) -> Point | None:
    """The same of a night's lists, from its `metrics`."""
    return point(found.systems.get(night_metrics.NEIGHBOURS), figure) if found else None


def trend(night: Night, figure: str) -> dict[str, Any]:
    """`trend_nights` and `trend` of a Report: the night's recall, and that of what was published the night before."""
    nights = newest_nights(night)
    found = [metrics(of) for of in nights]
    lines = {
        HOLDOUT: [holdout_point(of, figure) for of in found],
        SERVED: [point(of.served if of else None, figure) for of in found],
    }
    measured = {name: points for name, points in lines.items() if any(points)}
    return {"trend_nights": [of.date.isoformat() for of in nights], "trend": measured}


def volumes(night: Night) -> dict[str, Any]:
    """`days`, `events` and `night_rows` of a Report: the store's events by day, and what each night read."""
    rows = [(of.date.isoformat(), _rows(of)) for of in newest_nights(night)]
    if manifest.load(night.folder("ingest")) is None:
        return {"night_rows": rows}
    by_table = night.snapshot.rows_by_day
    newest = night.date - dt.timedelta(days=1)
    first = min((day for of_day in by_table.values() for day in of_day), default=newest.isoformat())
    days = [(newest - dt.timedelta(days=n)).isoformat() for n in reversed(range(DAYS))]
    days = [day for day in days if day >= first]
    events = {table: [of_day.get(day, 0) for day in days] for table, of_day in sorted(by_table.items(), reverse=True)}
    return {"days": days, "events": events, "night_rows": rows}


def _rows(night: Night) -> list[int | None]:
    """Rows read, kept and refused by the night's ingest, and the users it served."""
    ingest, lists = (manifest.record(night.folder(stage)) for stage in ("ingest", "neighbours"))
    tables = ingest.counts.get("tables", {}).values() if ingest else ()
    read = [sum(table[name] for table in tables) if ingest else None for name in ("read", "kept", "refused")]
    return [*read, lists.counts.get("users") if lists else None]
