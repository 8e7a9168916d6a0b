"""Roots with two whole nights, made once a session for all workers, and copies of them for tests to change."""

from __future__ import annotations

import datetime as dt
import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import stages_in_process, watchnext
from nights import DATE, GATES, RANKING, night, reports_without_plots, rooted, simulated, with_impressions

from pipelines.serving.served_lists import open_lists

BEFORE = DATE - dt.timedelta(days=1)
MADE = "made by a test"
USERS = 120  # of the simulated logs
# With these, 24 held-out users and a tiny model pass the gates.
MORE_GATES = "min_volume = 0\nmax_volume = 0\nmost_popular = false\nmax_recall_lost = 1\n"


def made_once(factory: pytest.TempPathFactory, worker_id: str, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of the session, filled by `make(folder)` in the first worker that needs it. No test may change
    it: other workers read it at the same time."""
    shared = factory.getbasetemp() if worker_id == "master" else factory.getbasetemp().parent
    folder = shared / name
    with open(shared / f"{name}.lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            (folder / "ready").touch()
    return folder


def make(folder: Path) -> None:
    """Make the nights BEFORE and DATE of `folder/job.toml`, published, in `folder/runs`. Two of 60 videos' lists of
    30 are alike by chance: k is 10."""
    job = simulated(folder, GATES + MORE_GATES)
    job.write_text(job.read_text().replace("k = 30", "k = 10"))
    _run_both(job, folder)


def make_ranked(folder: Path) -> None:
    """Make the same of logs with impressions, whose lists of 14 are ranked."""
    job = with_impressions(simulated(folder, RANKING + MORE_GATES))
    job.write_text(job.read_text().replace("k = 30", "k = 14"))
    _run_both(job, folder)


def _run_both(job: Path, folder: Path) -> None:
    """Run both nights, and write what each printed to `printed-DATE.txt`."""
    with stages_in_process(), reports_without_plots():
        for date in (BEFORE, DATE):
            done = watchnext("nightly", job, "--date", date)
            assert done.code == 0, done.message
            (folder / f"printed-{date}.txt").write_text(done.message)


def copy(folder: Path, to: Path, more: str = "") -> Path:
    """The job file of a copy of the root, which reads the same logs. `more`: further lines of the job file."""
    shutil.copytree(folder / "runs", to / "runs")
    job = to / "job.toml"
    job.write_text(rooted(folder / "job.toml", str(to / "runs")) + more)
    return job


def all_lists(job: Path) -> dict[str, list[str]]:
    """The published list of every user, as a server of files reads it. Raises what a reader raises."""
    lists = open_lists(night(job).job, "files")
    found = {user: lists.of_user(user) for user in (f"u{n:07d}" for n in range(1, USERS + 1))}
    return {user: one.video_ids for user, one in found.items() if one is not None}
