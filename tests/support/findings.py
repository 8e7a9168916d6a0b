"""Requests to the checks of `watchnext doctor` about small jobs, and their findings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nights import DATE, watch_rows, write_job

from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding


def request_of(folder: Path, logs: str = 'watches = "w"', more: str = "", **fields: Any) -> DoctorRequest:
    """Return a request about a job with these lines in `[logs]`, for the night of DATE if no date is given."""
    return DoctorRequest(job=str(write_job(folder, logs, more)), **{"date": DATE} | fields)


def request_with_watches(folder: Path, more: str = "", **fields: Any) -> DoctorRequest:
    """Return a request about a job whose logs are `watch_rows`, in `w.parquet`."""
    watch_rows().write_parquet(folder / "w.parquet")
    return request_of(folder, 'watches = "w.parquet"', more, **fields)


def only(found: Iterable[Finding]) -> Finding:
    """Return the finding of a check that has exactly one."""
    (one,) = found
    return one
