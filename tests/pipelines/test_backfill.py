from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from commands import watchnext
from nights import night, published_night

from pipelines import backfill, nightly
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.stage import STAGES
from pipelines.runs.run_log import RunLog

RANGE = ["--from", "2026-11-19", "--to", "2026-11-21"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The dates whose nights were run, by a stand-in that fails on the 20th."""
    dates: list[str] = []

    def run(of: Night, job: str, stages: Sequence[str], log: RunLog) -> str:
        assert (job, tuple(stages)) == (str(of.root.path).replace("runs", "job.toml"), STAGES)
        assert Path(of.root.lock).exists()
        dates.append(of.date.isoformat())
        if of.date.day == 20:
            raise StageError("the 20th is no good")
        return f"night {of.date}: done"

    monkeypatch.setattr(nightly, "run", run)
    return dates


def test_nights_are_run_in_order_until_one_fails(job: Path, ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert backfill.main([str(job), *RANGE]) == 1
    assert ran == ["2026-11-19", "2026-11-20"]
    assert capsys.readouterr().err.splitlines() == [
        "night 2026-11-19 (1 of 3)",
        "night 2026-11-19: done",
        "night 2026-11-20 (2 of 3)",
        "watchnext: the 20th is no good",
        "  2026-11-19  done",
        "  2026-11-20  failed (exit code 1)",
        "  2026-11-21  not run",
        "1 of 3 nights done",
    ]
    assert not Path(night(job).root.lock).exists()


def test_with_keep_going_the_others_are_run_and_the_exit_code_is_still_the_failure(job: Path, ran: list[str]) -> None:
    assert backfill.main([str(job), *RANGE, "--keep-going"]) == 1
    assert ran == ["2026-11-19", "2026-11-20", "2026-11-21"]


def test_a_night_before_the_served_one_says_that_it_is_not_published(job: Path) -> None:
    served = published_night(job, pl.DataFrame({"user_id": ["ann"], "video_ids": [["v1"]], "scores": [[1.0]]}))
    older = replace(served, date=served.date - dt.timedelta(days=2))
    assert "; published: 2026-11-21, 1 users; report: " in nightly._closing(served, ["publish"])
    not_published = "; not published (the night of 2026-11-21 is served); report: "
    assert not_published in nightly._closing(older, ["publish"])


def test_a_range_without_a_failure_is_0(job: Path, ran: list[str]) -> None:
    assert backfill.main([str(job), "--from", "2026-11-21", "--to", "2026-11-22"]) == 0
    assert ran == ["2026-11-21", "2026-11-22"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--from", "2026-11-21", "--to", "2026-11-19"], "--from 2026-11-21 is after --to 2026-11-19"),
        (["--from", "2026-11-21"], "the following arguments are required: --to"),
        (["--from", "2026-11-21", "--to", "tomorrow"], "'tomorrow' is not a date such as 2026-11-21"),
    ],
)
def test_a_wrong_range_is_an_error(job: Path, given: list[str], message: str) -> None:
    done = watchnext("backfill", job, *given)
    assert done.code == 2 and message in done.message


def test_the_date_of_one_night_is_no_option_here(job: Path, ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert backfill.main([str(job), *RANGE, "--date", "2026-11-19"]) == 2
    assert "Beam has no option date" in capsys.readouterr().err and ran == []
