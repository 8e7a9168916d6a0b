"""What the tests share: hypothesis without deadlines (the machine may be busy), a fake tower, and two whole nights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beam_inspection import inspect_once
from damage import INJECTED_FAULT
from hypothesis import settings
from made_frames import write_tower
from nights import reports_without_plots, write_job

settings.register_profile("watchnext", deadline=None)
settings.load_profile("watchnext")
inspect_once()

DIMENSION = 3


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tower whose vectors are `made_frames.user_vector`s of `DIMENSION` numbers and a 1."""
    return write_tower(tmp_path_factory.mktemp("tower"), DIMENSION)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job file for nights whose logs are not read."""
    return write_job(tmp_path, 'watches = "w"')


@pytest.fixture
def without_plots() -> Iterator[None]:
    """Let reports have no plots."""
    with reports_without_plots():
        yield


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record calls in order: the path of each fsync, and `-> path` of each file that was replaced."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def syncing(number: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    def replacing(path: Path, target: str) -> Path:
        calls.append(f"-> {target}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    return calls


@pytest.fixture(scope="session")
def two_nights(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of logs, `job.toml`, and `runs` with two published nights. Read it, or change a `two_nights.copy`."""
    from two_nights import made_once, make

    return made_once(tmp_path_factory, worker_id, "two-nights", make)


@pytest.fixture(scope="session")
def ranked_nights(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The same of logs with impressions, whose lists are ranked."""
    from two_nights import made_once, make_ranked

    return made_once(tmp_path_factory, worker_id, "ranked-nights", make_ranked)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the number of injected faults of all workers."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, ())]
    kinds = Counter(value for report in reports for name, value in report.user_properties if name == INJECTED_FAULT)
    if kinds:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        terminalreporter.write_line(f"{kinds.total()} faults were injected: {listed}")
