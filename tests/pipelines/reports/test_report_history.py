"""What a report says of the nights before, gathered from what made nights left."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from nights import DATE, commit, night

from pipelines.base import snapshot_store
from pipelines.base.snapshot_store import Snapshot, StoreFile
from pipelines.night.night import Night
from pipelines.reports import report_history
from transforms.core import files
from transforms.core.files import FileEntry

DAYS = [DATE + dt.timedelta(days=n) for n in range(4)]


def measured(value: float, figure: str = "recall@10") -> dict[str, Any]:
    return {"figures": {figure: value}, "intervals": {figure: [value - 0.1, value + 0.1]}}


def evaluated(of: Night, lists: dict[str, Any] | None, served: dict[str, Any] | None, version: int = 1) -> None:
    systems = {"neighbours": lists} if lists else {}
    content = {"format_version": version, "systems": systems, "served": served}
    files.replace_file(f"{of.folder('evaluation')}/metrics.json", json.dumps(content).encode())


def test_a_trend_has_a_point_of_each_night_that_measured_the_figure(job: Path) -> None:
    given = [
        (measured(0.5), None, 1),
        (measured(0.3, "recall@20"), measured(0.4), 1),  # when lists were longer
        (measured(0.6), measured(0.2), 2),  # of another format
        (measured(0.7), measured(0.25), 1),
    ]
    for date, (lists, served, version) in zip(DAYS, given, strict=True):
        evaluated(night(job, date), lists, served, version)
    found = report_history.trend(night(job, DAYS[3]), ["recall@10"])
    assert found["trend_nights"] == [str(date) for date in DAYS]
    assert found["trend"] == {
        "held-out users": [(0.5, 0.4, 0.6), None, None, (0.7, pytest.approx(0.6), pytest.approx(0.8))],
        "published the night before": [None, (0.4, pytest.approx(0.3), 0.5), None, (0.25, 0.15, 0.35)],
    }
    before = report_history.trend(night(job, DAYS[0]), ["recall@10"])
    assert before == {"trend_nights": [str(DATE)], "trend": {"held-out users": [(0.5, 0.4, 0.6)]}}


def test_a_trend_is_that_of_the_lists_to_serve(job: Path) -> None:
    """Nights before ranking was measured, or without it, have the point of the neighbours."""
    evaluated(night(job, DAYS[0]), measured(0.5), None)
    both = {name: {"recall@10": value, "recall@50": 0.9} for name, value in (("neighbours", 0.5), ("ranking", 0.25))}
    systems = {
        name: {"figures": of, "intervals": {figure: [value, value] for figure, value in of.items()}}
        for name, of in both.items()
    }
    content = {"format_version": 1, "systems": systems, "served_system": "ranking"}
    files.replace_file(f"{night(job, DAYS[1]).folder('evaluation')}/metrics.json", json.dumps(content).encode())
    found = report_history.trend(night(job, DAYS[1]), ["recall@50", "recall@10"])["trend"]
    assert found == {
        "held-out users": [None, (0.9, 0.9, 0.9)],
        "held-out users, recall@10": [(0.5, 0.4, 0.6), (0.25, 0.25, 0.25)],
    }


def test_a_night_without_a_holdout_has_no_lines(job: Path) -> None:
    evaluated(night(job), None, None)
    assert report_history.trend(night(job), ["recall@10"]) == {"trend_nights": [str(DATE)], "trend": {}}


def test_no_more_nights_are_shown_than_fit(job: Path) -> None:
    dates = [DATE - dt.timedelta(days=n) for n in range(20)]
    for date in dates:
        evaluated(night(job, date), measured(0.5), None)
    shown = report_history.trend(night(job), ["recall@10"])["trend_nights"]
    assert shown == [str(date) for date in reversed(dates[: report_history.NIGHTS])]


def ingested(of: Night, rows: dict[tuple[str, str], list[int]], tables: dict[str, dict[str, int]]) -> None:
    """rows: of the files of a table and day."""
    listed = [
        StoreFile(table=table, day=day, bucket=bucket, file=FileEntry(name=f"{bucket}", rows=n, bytes=1, digest=""))
        for (table, day), counts in rows.items()
        for bucket, n in enumerate(counts)
    ]
    snapshot_store.commit(of.root.snapshots, Snapshot(buckets=8, number=1, files=listed))
    commit(of, "ingest", counts={"snapshot": 1, "tables": tables})


def test_volumes_are_rows_by_day_and_rows_by_night(job: Path) -> None:
    of, before = night(job), night(job, DATE - dt.timedelta(days=1))
    commit(before, "neighbours", counts={"users": 9})
    rows = {
        ("watches", "2026-11-18"): [3, 4],
        ("watches", "2026-11-20"): [5],
        ("searches", "2026-11-19"): [1, 1],
        ("watches", "2026-11-21"): [8],  # of the night's own day: for the next night
    }
    tables = {"watches": {"read": 30, "kept": 20, "refused": 2}, "users": {"read": 3, "kept": 3, "refused": 0}}
    ingested(of, rows, tables)
    found = report_history.volumes(of)
    assert found["days"] == ["2026-11-18", "2026-11-19", "2026-11-20"]
    assert found["events"] == {"watches": [7, 0, 5], "searches": [0, 2, 0]}
    assert found["night_rows"] == [("2026-11-20", [None, None, None, 9]), ("2026-11-21", [33, 23, 2, None])]


def test_before_an_ingest_there_are_rows_by_night_alone(job: Path) -> None:
    commit(night(job), "neighbours", counts={"users": 9})
    assert report_history.volumes(night(job)) == {"night_rows": [("2026-11-21", [None, None, None, 9])]}
