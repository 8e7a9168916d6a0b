"""A root with two whole nights, made once a session, and copies of it for the tests to damage."""

from __future__ import annotations

import datetime as dt
import fcntl
import shutil
from pathlib import Path

import pytest
from commands import stages_in_process, watchnext
from nights import DATE, night, rooted, simulated

from pipelines.serving.served_lists import open_lists

BEFORE = DATE - dt.timedelta(days=1)
MADE = "made by a test"
USERS = 120  # of the simulated logs


@pytest.fixture(scope="session")
def two_nights(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of the logs, the job and the root; nobody may change it. Workers of one session share it."""
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder = shared / "two-nights"
    with open(shared / "two-nights.lock", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            make(folder)
            (folder / "ready").touch()
    return folder


def make(folder: Path) -> None:
    job = simulated(folder)
    (folder / "whole.toml").write_text(rooted(job, str(folder / "runs")))
    with stages_in_process():
        for date in (BEFORE, DATE):
            done = watchnext("nightly", folder / "whole.toml", "--date", date, "--force-publish", MADE)
            assert done.code == 0, done.message


def copy(of: Path, folder: Path) -> Path:
    """The job file of a copy of the root, which reads the same logs."""
    shutil.copytree(of / "runs", folder / "runs")
    job = folder / "job.toml"
    job.write_text(rooted(of / "job.toml", str(folder / "runs")))
    return job


def all_lists(job: Path) -> dict[str, list[str]]:
    """The published list of every user, as a server of files reads it. Raises what a reader raises."""
    lists = open_lists(night(job).job, "files")
    found = {user: lists.of_user(user) for user in (f"u{n:07d}" for n in range(1, USERS + 1))}
    return {user: one.video_ids for user, one in found.items() if one is not None}
