"""Run several nights in order: missed nights, or a range of dates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipelines.base import manifest
from pipelines.night import publication_file
from pipelines.night.night import Night, Outcome
from pipelines.runs.run_log import RunLog


def missed_dates(night: Night) -> list[dt.date]:
    """Return the dates between the published night and this one whose nights did not complete, in order.

    Returns at most the last `[storage] keep_nights` dates, or the days of the window if all nights are kept whole.
    """
    served = publication_file.served_date(night.root)
    if served is None:
        return []
    most = night.job.storage.keep_nights or night.job.examples.window_days
    last = max(served, night.date - dt.timedelta(days=most + 1))
    between = dates_between(last + dt.timedelta(days=1), night.date - dt.timedelta(days=1))
    return [date for date in between if manifest.load(night.root.stage(date, "publish")) is None]


def dates_between(first: dt.date, last: dt.date) -> list[dt.date]:
    """Return all dates from the first to the last, inclusive."""
    return [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]


def run(
    night: Night, dates: Sequence[dt.date], one: Callable[[Night], Outcome], log: RunLog, *, keep_going: bool
) -> list[int]:
    """Call `one`, which runs a night, for the night of each date. Return the exit codes of the nights that ran.

    The series ends after a failed night unless `keep_going`, and always after a night that a signal stopped.
    """
    codes: list[int] = []
    for date in dates:
        if len(dates) > 1:
            log.write_event("night_begins", f"night {date} ({len(codes) + 1} of {len(dates)})", date=date.isoformat())
        codes.append(one(night if date == night.date else replace(night, date=date, reingest=())).code)
        if codes[-1] > 128 or (codes[-1] and not keep_going):
            break
    if len(dates) > 1:
        _summary(dates, codes, log)
    return codes


def _summary(dates: Sequence[dt.date], codes: Sequence[int], log: RunLog) -> None:
    states = ["done" if code == 0 else f"failed (exit code {code})" for code in codes]
    states += ["not run"] * (len(dates) - len(codes))
    for date, state in zip(dates, states, strict=True):
        log.write_event("summary", f"  {date}  {state}", date=date.isoformat())
    log.write_event("summary", f"{codes.count(0)} of {len(dates)} nights done")
