"""The job file of imported logs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from pipelines.datasets.data_set import DataSet

WINDOW_WATCHES = 2_000_000
WINDOW_DAYS = 28


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was written. days: the rows of each day."""

    data_set: DataSet
    completed: str  # which watches are
    days: Mapping[dt.date, int]
    time_zone: str
    has_videos: bool
    has_users: bool
    is_split: bool
    date: dt.date  # of the night

    @property
    def window_days(self) -> int:
        """The days of the shortest window with `WINDOW_WATCHES` watches, or with all; at least `WINDOW_DAYS`."""
        newest_first = sorted(self.days, reverse=True)
        totals = accumulate(self.days[day] for day in newest_first)
        enough = (day for day, total in zip(newest_first, totals, strict=True) if total >= WINDOW_WATCHES)
        first = next(enough, newest_first[-1])
        return max(WINDOW_DAYS, (self.date - first).days)


def job_text(imported: Imported) -> str:
    """Return the text of a job file next to the tables."""
    data_set, days = imported.data_set, sorted(imported.days)
    lines = [
        f"# {data_set.title}, written by watchnext import {data_set.name}. All settings: docs/job.md.",
        f"# A watch is completed: {imported.completed}.",
        "[logs]",
        'watches = "watches/{date}.parquet"',
    ]
    lines += ['videos = "videos.parquet"'] if imported.has_videos else []
    lines += ['users = "users.parquet"'] if imported.has_users else []
    lines += [f'time_zone = "{imported.time_zone}"'] if imported.time_zone != "UTC" else []
    if len(days) < (imported.date - days[0]).days:
        lines.append("allow_missing_days = true  # there are days without watches")
    lines += ["[examples]", f"window_days = {imported.window_days}  # of {(imported.date - days[0]).days}"]
    if data_set.has_bursts:
        lines.append("max_events_per_day = 0  # people enter many events in one sitting")
    if imported.is_split:
        lines.append("holdout_days = 0  # the truth is not in the logs")
    if imported.has_users and data_set.user_categories:
        lines.append(f"user_categories = {json.dumps(data_set.user_categories)}")
    if data_set.exclude != "completed":
        lines += ["[neighbours]", f'exclude = "{data_set.exclude}"']
    lines += [
        "[gates]",
        "min_volume = 0  # the volumes of the days of a sample say nothing about missing logs",
        "max_volume = 0",
        "[storage]",
        'root = "runs"',
        "",
    ]
    return "\n".join(lines)
