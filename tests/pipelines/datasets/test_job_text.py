"""The window and the settings of the job file of imported logs."""

from __future__ import annotations

import datetime as dt
import tomllib
from typing import Any

import pytest

from pipelines.datasets import job_text as module
from pipelines.datasets.job_text import Imported, job_text
from pipelines.datasets.registry import DATA_SETS

LAST = dt.date(2020, 1, 31)


def imported(rows: dict[int, int], name: str = "movielens-1m", **fields: Any) -> Imported:
    """rows: the number of days before the last -> the rows of that day."""
    given = {"time_zone": "UTC", "has_videos": True, "has_users": True, "is_split": False}
    days = {LAST - dt.timedelta(days=back): count for back, count in sorted(rows.items(), reverse=True)}
    night = LAST + dt.timedelta(days=1)
    return Imported(data_set=DATA_SETS[name], completed="all", days=days, date=night, **{**given, **fields})


@pytest.mark.parametrize(
    ("rows", "days"),
    [
        ({0: 1}, 28),
        ({0: 50, 10: 50}, 28),
        ({0: 1, 99: 1}, 100),  # all watches
        ({0: 50, 59: 50, 60: 50}, 60),
        ({0: 50, 40: 49, 60: 50, 61: 50}, 61),
    ],
)
def test_the_window_has_enough_watches(rows: dict[int, int], days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_WATCHES", 100)
    assert imported(rows).window_days == days


def test_settings_follow_from_what_was_written() -> None:
    job = tomllib.loads(job_text(imported({0: 1, 1: 1}, is_split=True)))
    assert job == {
        "logs": {"watches": "watches/{date}.parquet", "videos": "videos.parquet", "users": "users.parquet"},
        "examples": {
            "window_days": 28,
            "max_events_per_day": 0,
            "holdout_days": 0,
            "user_categories": ["occupation"],
        },
        "neighbours": {"exclude": "watched"},
        "gates": {"min_volume": 0, "max_volume": 0},
        "storage": {"root": "runs"},
    }
    tables = {"has_videos": False, "has_users": False}
    job = tomllib.loads(job_text(imported({0: 1, 2: 1}, "kuairand-1k", time_zone="Asia/Shanghai", **tables)))
    assert job["logs"] == {
        "watches": "watches/{date}.parquet",
        "time_zone": "Asia/Shanghai",
        "allow_missing_days": True,
    }
    assert job["examples"] == {"window_days": 28} and "neighbours" not in job
