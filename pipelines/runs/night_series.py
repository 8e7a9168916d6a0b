"""Several nights one after the other: those that were missed, or a range of dates, each as `nightly` would run it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipelines.base import manifest
from pipelines.night import publication_file
from pipelines.night.stage import Night
from pipelines.runs.run_log import RunLog


def missed_dates(night: Night) -> list[dt.date]:
    """The dates between the night that is published and this one that no run brought to its end, in order.

    At most as many as stay whole (`[storage] keep_nights`; days of the window where all nights do), the last ones.
    """
    served = publication_file.served_date(night.root)
    if served is None:
        return []
    most = night.job.storage.keep_nights or night.job.examples.window_days
    last = max(served, night.date - dt.timedelta(days=most + 1))
    return [date for date in _after(last, night.date) if manifest.load(night.root.stage(date, "publish")) is None]


def dates_between(first: dt.date, last: dt.date) -> list[dt.date]:
    """All dates from the first to the last."""
    return [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]


def run(
    night: Night, dates: Sequence[dt.date], one: Callable[[Night], int], log: RunLog, *, keep_going: bool
) -> list[int]:
    """Run `one`, which gives an exit code, on each of the dates; the exit codes up to where the series ended.

    It ends at a night that failed unless `keep_going`, and always where a signal stopped one. What became of each
    night is told at the end.
    """
    codes: list[int] = []
    for date in dates:
        if len(dates) > 1:
            log.tell("night_begins", f"night {date} ({len(codes) + 1} of {len(dates)})", date=date.isoformat())
        codes.append(one(night if date == night.date else replace(night, date=date, reingest=())))
        if codes[-1] > 128 or (codes[-1] and not keep_going):
            break
    if len(dates) > 1:
        _summary(dates, codes, log)
    return codes


def _summary(dates: Sequence[dt.date], codes: Sequence[int], log: RunLog) -> None:
    states = ["done" if code == 0 else f"failed (exit code {code})" for code in codes]
    states += ["not run"] * (len(dates) - len(codes))
    for date, state in zip(dates, states, strict=True):
        log.tell("summary", f"  {date}  {state}", date=date.isoformat())
    log.tell("summary", f"{codes.count(0)} of {len(dates)} nights done")


def _after(last: dt.date, end: dt.date) -> list[dt.date]:
    """The dates after the one and before the other."""
    return dates_between(last + dt.timedelta(days=1), end - dt.timedelta(days=1))
