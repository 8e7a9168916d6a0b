"""Stages that `nightly` runs again although they were complete: files that are not whole, and `--force`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from commands import Done, watchnext
from damage import flip_bit
from nights import DATE
from stores import DAYS, daily, day_of_watches, ingested, write_day

from pipelines.base import manifest, snapshot_store
from pipelines.base.manifest import ManifestError
from pipelines.night.night import Night
from pipelines.night.outputs import IngestOutputs
from pipelines.runs import processes

ONLY = ("--date", DATE.isoformat(), "--only", "ingest")


@pytest.fixture
def of(tmp_path: Path) -> Night:
    return ingested(daily(tmp_path))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the stages that are run; none is."""
    found: list[list[str]] = []

    def run_stage(command: list[str], **_how: Any) -> None:
        found.append(command)

    monkeypatch.setattr(processes, "run_stage", run_stage)
    return found


def run(of: Night, *given: str) -> Done:
    return watchnext("nightly", Path(of.root.path).parent / "job.toml", *ONLY, *given)


def users_file(of: Night) -> Path:
    listed = manifest.entry_paths(of.require("ingest").named("users/"), of.folder("ingest"))
    return Path(listed[0])


def test_a_stage_that_is_whole_is_not_run_again(of: Night, commands: list[list[str]]) -> None:
    assert run(of).code == 0 and commands == []


def test_a_flipped_bit_runs_the_stage_again(of: Night, commands: list[list[str]]) -> None:
    path = users_file(of)
    flip_bit(path)
    done = run(of)
    assert done.code == 0 and [command[-1] for command in commands] == ["--force"]
    assert f"{path} is not the file that stage ingest wrote: its digest differs" in done.message


def test_a_missing_file_runs_the_stage_again(of: Night, commands: list[list[str]]) -> None:
    path = users_file(of)
    path.unlink()
    done = run(of)
    assert done.code == 0 and len(commands) == 1
    assert f"{path} is missing: stage ingest is run again" in done.message
    ingested(Path(of.root.path).parent / "job.toml")
    assert path.parent.exists() and users_file(of).exists() and manifest.load(of.folder("ingest")) is not None


def test_a_stage_can_be_forced(of: Night, commands: list[list[str]]) -> None:
    assert run(of, "--force", "ingest").code == 0 and [command[-1] for command in commands] == ["--force"]
    done = run(of, "--force", "ingest", "--dry-run")
    assert done.code == 0 and "ingest     would run  it is forced" in done.message


@pytest.mark.parametrize("given", [("--force", "train"), ("--force", "dinner")])
def test_a_stage_that_would_not_run_cannot_be_forced(of: Night, given: tuple[str, ...]) -> None:
    assert run(of, *given).code == 2
    assert watchnext("nightly", of.root.path, "--catch-up", "--force", "ingest").code == 2


def test_a_damaged_manifest_of_an_earlier_night_stops_no_ingest_and_its_night_makes_it_anew(tmp_path: Path) -> None:
    job = daily(tmp_path, days=DAYS[:3])
    before = ingested(job, DATE - dt.timedelta(days=1))
    snapshot = snapshot_store.path_of(before.root.snapshots, before.outputs(IngestOutputs).snapshot)
    damaged = Path(before.folder("ingest"), "COMPLETED")
    damaged.write_bytes(damaged.read_bytes()[:100])
    write_day(tmp_path, DAYS[3], day_of_watches(DAYS[3]))
    ingested(job)
    write_day(tmp_path, DAYS[0], day_of_watches(DAYS[0], mark="late"))
    ingested(job)
    assert Path(snapshot).exists(), "the earlier night may refer to it"
    with pytest.raises(ManifestError, match=f"watchnext nightly JOB.toml --date {before.date} removes it"):
        before.require("ingest")
    assert ingested(job, before.date).require("ingest").date == before.date.isoformat()
