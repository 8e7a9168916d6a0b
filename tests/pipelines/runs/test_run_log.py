from __future__ import annotations

import datetime as dt
import json
import os
import re

import pytest
from nights import DATE

from pipelines.base import command_lines
from pipelines.night.stage import RUN_VARIABLE
from pipelines.runs import run_log
from pipelines.runs.processes import ConsoleDisplay
from pipelines.runs.run_log import JsonDisplay, Outcome, RunLog


@pytest.fixture(autouse=True)
def _no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_VARIABLE, raising=False)


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """What was logged as JSON, one object a line, without the times."""
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for one in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["time"])
        dt.datetime.fromisoformat(one.pop("time"))
    return found


def test_a_run_has_an_id_of_its_own_which_its_stages_see() -> None:
    with run_log.open_log("text") as log:
        assert os.environ[RUN_VARIABLE] == log.run
        assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", log.run)
    assert RUN_VARIABLE not in os.environ
    with run_log.open_log("text") as other:
        assert other.run != log.run


def test_the_id_a_scheduler_gave_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_VARIABLE, "scheduled__2026-11-21")
    with run_log.open_log("json") as log:
        assert log.run == "scheduled__2026-11-21" and log.as_json
    assert os.environ[RUN_VARIABLE] == "scheduled__2026-11-21"


def test_as_json_a_stage_is_two_events_and_a_note_one(capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(run="r", as_json=True)
    with log.open_display(DATE, 2) as display:
        display.begin_stage("ingest")
        counts = {"users": 3, "share": 0.5, "tables": {"watches": {"read": 7}}, "notes": ["it snowed"]}
        display.end_stage("ingest", "3.4 s", seconds=3.412, counts=counts)
        display.print_line("it snowed")
        display.end_stage("train", "already complete")
    common = {"run": "r", "level": "info", "date": "2026-11-21"}
    assert events(capsys) == [
        {**common, "event": "stage_begins", "stage": "ingest", "message": "ingest begins"},
        {**common, "event": "stage_done", "stage": "ingest", "seconds": 3.412}
        | {"counts": {"users": 3, "share": 0.5}, "message": "3.4 s"},
        {**common, "event": "note", "message": "it snowed"},
        {**common, "event": "stage_skipped", "stage": "train", "message": "already complete"},
    ]


@pytest.mark.parametrize(("code", "event", "level"), [(0, "night_done", "info"), (3, "night_failed", "error")])
def test_the_end_of_a_night_is_an_event(code: int, event: str, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    end = Outcome(run="r", date="2026-11-21", code=code, message="so it ended", seconds=1.23456)
    RunLog(run="r", as_json=True).end_night(end)
    message = {"date": "2026-11-21", "seconds": 1.235, "exit_code": code, "message": "so it ended"}
    assert events(capsys) == [{"run": "r", "level": level, "event": event, **message}]


def test_a_message_of_several_lines_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    RunLog(run="r", as_json=True).fail("first\nsecond")
    assert events(capsys) == [{"run": "r", "level": "error", "event": "run_failed", "message": "first\nsecond"}]


def test_as_text_errors_and_warnings_say_whose_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(run="r", as_json=False)
    log.end_night(Outcome(run="r", date="2026-11-21", code=0, message="night 2026-11-21: done", seconds=1.0))
    log.end_night(Outcome(run="r", date="2026-11-21", code=1, message="a stage failed", seconds=1.0))
    log.write_event("warning", "nobody was told", level="warning")
    said = "night 2026-11-21: done\nwatchnext: a stage failed\nwatchnext: warning: nobody was told\n"
    assert capsys.readouterr().err == said


def test_only_text_is_for_a_terminal() -> None:
    text, as_json = (RunLog(run="r", as_json=form == "json") for form in command_lines.LOG_FORMATS)
    assert type(text.open_display(DATE, 2)) is ConsoleDisplay and type(as_json.open_display(DATE, 2)) is JsonDisplay
    assert (
        text.shows_own_progress("train")
        and not text.shows_own_progress("index")
        and not as_json.shows_own_progress("train")
    )
