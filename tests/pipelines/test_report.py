"""`watchnext report`: the path of a night's report."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import polars as pl
import pytest
from commands import run_here
from nights import DATE, published_night, write_job

LISTS = pl.DataFrame({"user_id": ["ann"], "video_ids": [["v1"]], "scores": [[1.0]]})


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = write_job(tmp_path, 'watches = "w"')
    published_night(path, LISTS)
    return path


def test_the_newest_night_s_report_is_printed(job: Path) -> None:
    path = job.parent / "runs" / "nights" / DATE.isoformat() / "report.html"
    for arguments in ([], ["--date", DATE]):
        done = run_here("report", job, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}\n", "")
    assert path.exists()


def test_an_unknown_date_names_the_nights_with_a_report(job: Path) -> None:
    done = run_here("report", job, "--date", "2026-01-01")
    assert done.returncode == 1 and done.stdout == ""
    assert f"no report of the night of 2026-01-01 in {job.parent / 'runs'}" in done.stderr
    assert f"nights with a report: {DATE}" in done.stderr


def test_no_night_yet_is_an_error(tmp_path: Path) -> None:
    done = run_here("report", write_job(tmp_path, 'watches = "w"'))
    assert done.returncode == 1 and "there is no report in" in done.stderr and "run a night first" in done.stderr


@pytest.mark.parametrize("is_opened", [True, False])
def test_a_browser_is_started(is_opened: bool, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def start(url: str) -> bool:
        opened.append(url)
        return is_opened

    monkeypatch.setattr(webbrowser, "open", start)
    done = run_here("report", job, "--open")
    assert opened == [Path(done.stdout.strip()).as_uri()]
    assert done.returncode == (0 if is_opened else 1)
    assert ("no browser could be started" in done.stderr) is not is_opened


def test_a_missing_job_file_is_a_mistake(tmp_path: Path) -> None:
    done = run_here("report", tmp_path / "job.toml")
    assert done.returncode == 2 and "no such job file" in done.stderr
