from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from nights import DATE, commit, night, write_job

from pipelines.night.night import Night, Outcome
from pipelines.runs import night_series
from pipelines.runs.run_log import RunLog

LOG = RunLog(run="r", as_json=False)


def days(*past: int) -> list[dt.date]:
    """Dates that lie so many days before DATE."""
    return [DATE - dt.timedelta(days=n) for n in past]


def ended(of: Night, *past: int, serves: int | None = None) -> None:
    """Nights whose publish is complete, and the one that is served."""
    for date in days(*past):
        commit(Night(of.job, date), "publish")
    if serves is not None:
        Path(of.root.published).write_text(json.dumps({"date": days(serves)[0].isoformat()}))


@pytest.fixture
def of(tmp_path: Path) -> Night:
    return night(write_job(tmp_path, 'watches = "w"', "[storage]\nkeep_nights = 5\n"))


@pytest.mark.parametrize(
    ("complete", "serves", "missed"),
    [
        ([], None, []),
        ([4, 2], 4, [3, 1]),
        ([0], 0, []),
        ([1], 1, []),
        ([40], 40, [5, 4, 3, 2, 1]),  # older ones would not stay whole
    ],
)
def test_missed_nights(of: Night, complete: list[int], serves: int | None, missed: list[int]) -> None:
    ended(of, *complete, serves=serves)
    assert night_series.missed_dates(of) == days(*missed)


def test_where_all_nights_stay_those_of_a_window_are_caught_up(tmp_path: Path) -> None:
    settings = "[storage]\nkeep_nights = 0\n[examples]\nwindow_days = 3\n"
    of = night(write_job(tmp_path, 'watches = "w"', settings))
    ended(of, 40, serves=40)
    assert night_series.missed_dates(of) == days(3, 2, 1)


class Codes:
    """A stand-in for running nights: the exit code of each date, 0 where none is given."""

    def __init__(self, codes: dict[dt.date, int]) -> None:
        self.codes, self.seen = codes, list[Night]()

    def __call__(self, of: Night) -> Outcome:
        self.seen.append(of)
        return Outcome(run="", date=of.date.isoformat(), code=self.codes.get(of.date, 0), message="", seconds=0.0)


def test_nights_run_in_order_and_are_summarised_at_the_end(of: Night, capsys: pytest.CaptureFixture[str]) -> None:
    one = Codes({days(1)[0]: 3})
    assert night_series.run(of, days(2, 1, 0), one, LOG, keep_going=True) == [0, 3, 0]
    assert [seen.date for seen in one.seen] == days(2, 1, 0)
    assert capsys.readouterr().err.splitlines() == [
        "night 2026-11-19 (1 of 3)",
        "night 2026-11-20 (2 of 3)",
        "night 2026-11-21 (3 of 3)",
        "  2026-11-19  done",
        "  2026-11-20  failed (exit code 3)",
        "  2026-11-21  done",
        "2 of 3 nights done",
    ]


def test_a_signal_always_ends_it(of: Night) -> None:
    assert night_series.run(of, days(2, 1, 0), Codes({days(2)[0]: 143}), LOG, keep_going=True) == [143]


def test_one_night_is_no_series(of: Night, capsys: pytest.CaptureFixture[str]) -> None:
    assert night_series.run(of, days(0), Codes({}), LOG, keep_going=False) == [0]
    assert capsys.readouterr().err == ""


def test_days_to_ingest_again_are_those_of_the_night_that_was_asked_for(tmp_path: Path) -> None:
    of = Night(night(write_job(tmp_path, 'watches = "w"')).job, DATE, flags=("--x",), reingest=(DATE,))
    one = Codes({})
    night_series.run(of, days(1, 0), one, LOG, keep_going=True)
    assert [(seen.reingest, seen.flags) for seen in one.seen] == [((), ("--x",)), ((DATE,), ("--x",))]
