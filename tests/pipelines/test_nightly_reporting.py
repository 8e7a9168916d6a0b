"""What `nightly.attended` does around the stages of a night: exit code, log, metrics, notification, lock."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import Done, watchnext
from nights import DATE, children, night, start_python, wait_for, write_job
from stores import daily

from pipelines import nightly
from pipelines.base import lock
from pipelines.config.jobs import JobError
from pipelines.night.errors import GateError, StageError
from pipelines.night.night import Night
from pipelines.night.stage import STAGES
from pipelines.runs.run_log import RunLog

GIVEN = ["--date", DATE.isoformat()]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    notify = f"[notify]\non = 'always'\ncommand = 'cat > {tmp_path}/told.json'\n"
    return write_job(tmp_path, 'watches = "w"', notify)


class Stand:
    """In place of a night's stages: raises an error, or says how it went; keeps which nights it was asked for."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.seen = error, list[tuple[str, Sequence[str]]]()

    def __call__(self, of: Night, job: str, stages: Sequence[str], log: RunLog) -> str:
        assert Path(of.root.lock).exists()
        self.seen.append((of.date.isoformat(), stages))
        if self.error:
            raise self.error
        return "all went well"


def stand(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> Stand:
    found = Stand(error)
    monkeypatch.setattr(nightly, "run", found)
    return found


def exit_code_in_metrics(of: Night) -> float:
    lines = Path(of.root.metrics).read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("watchnext_last_run_exit_code{")))


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, "all went well"),
        (StageError("train failed"), 1, "watchnext: train failed"),
        (JobError("a key is missing"), 2, "watchnext: a key is missing"),
        (GateError("recall is 0.1"), 3, "watchnext: recall is 0.1"),
        (KeyError("a defect"), 1, "KeyError: 'a defect'"),
    ],
)
def test_every_outcome_of_a_night_is_reported_everywhere(
    job: Path, error: Exception | None, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand(monkeypatch, error)
    done = watchnext("nightly", job, *GIVEN)
    assert (done.code, done.message.splitlines()[-1]) == (code, message)
    of, sent = night(job), json.loads((job.parent / "told.json").read_text())
    assert (sent["exit_code"], sent["date"], sent["status"]) == (code, "2026-11-21", "failed" if code else "done")
    assert exit_code_in_metrics(of) == code
    assert not Path(of.root.lock).exists()


def test_a_signal_ends_the_night(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(10)
        return "it went on"

    monkeypatch.setattr(nightly, "run", run)
    assert watchnext("nightly", job, *GIVEN) == Done(143, "watchnext: stopped by SIGTERM; nothing was published\n")
    assert exit_code_in_metrics(night(job)) == 143 and not Path(night(job).root.lock).exists()
    assert json.loads((job.parent / "told.json").read_text())["exit_code"] == 143


def test_a_failed_notification_is_a_warning(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand(monkeypatch)
    job.write_text(job.read_text().replace("cat >", "exit 9; cat >"))
    warning = "watchnext: warning: notify.command ended with exit code 9"
    assert watchnext("nightly", job, *GIVEN) == Done(0, f"all went well\n{warning}\n")


def test_messages_as_json(job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stand(monkeypatch, StageError("first line\nsecond"))
    assert nightly.main([str(job), *GIVEN, "--log-format", "json"]) == 1
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(event["event"], event["message"]) for event in events] == [("night_failed", "first line\nsecond")]
    assert nightly.main([str(job.parent / "none.toml"), *GIVEN, "--log-format", "json"]) == 2
    (event,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (event["event"], event["message"]) == ("run_failed", f"{job.parent}/none.toml: no such job file")


def published(of: Night, date: str) -> None:
    served = {"date": date, "users": 1, "published_at": "2026-11-19T04:00:00+00:00"}
    Path(of.root.path).mkdir()
    Path(of.root.published).write_text(json.dumps(served))


def test_a_night_runs_alone_unless_it_is_to_catch_up(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = stand(monkeypatch).seen
    published(night(job), "2026-11-18")
    assert nightly.main([str(job), *GIVEN]) == 0
    assert seen == [("2026-11-21", STAGES)]
    assert nightly.main([str(job), *GIVEN, "--catch-up"]) == 0
    assert [date for date, _ in seen[1:]] == ["2026-11-19", "2026-11-20", "2026-11-21"]


def test_a_failed_missed_night_does_not_stop_tonight(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(of: Night, *_: object) -> str:
        if of.date.day == 20:
            raise StageError("its log is broken")
        return f"night {of.date}: done"

    monkeypatch.setattr(nightly, "run", run)
    published(night(job), "2026-11-19")
    done = watchnext("nightly", job, *GIVEN, "--catch-up")
    assert done.code == 0 and done.message.splitlines()[-3:] == [
        "  2026-11-20  failed (exit code 1)",
        "  2026-11-21  done",
        "1 of 2 nights done",
    ]


def test_a_night_that_does_not_fit_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []

    def check_space(of: Night, stages: Sequence[str]) -> None:
        asked.append(stages)
        raise StageError("there is no room")

    monkeypatch.setattr(nightly.estimate, "check_space", check_space)
    assert watchnext("nightly", daily(tmp_path), *GIVEN) == Done(1, "watchnext: there is no room\n")
    left = {path.name for path in (tmp_path / "runs" / "nights" / "2026-11-21").iterdir()}
    assert asked == [STAGES] and left == {"outcome.json", "report.html"}  # what became of it, and no stage


def test_a_part_of_a_night_catches_up_with_nothing(job: Path) -> None:
    done = watchnext("nightly", job, "--catch-up", "--only", "train")
    assert done.code == 2 and "not allowed with argument" in done.message


def test_the_help_has_the_exit_codes() -> None:
    message = " ".join(watchnext("nightly", "--help").message.split())
    assert "3 a gate failed: the previously published lists stay served" in message


def test_a_terminated_night_ends_its_stage(tmp_path: Path) -> None:
    """The stage, a real one, has begun to read logs; the night ends at once, and the next one may begin."""
    job = daily(tmp_path)
    with start_python("-m", "pipelines.nightly", job, *GIVEN) as process:
        wait_for(lambda: children(process.pid), process)
        (stage,) = children(process.pid)
        process.terminate()
        message = process.communicate(timeout=60)[1]
    assert (process.returncode, message) == (143, "watchnext: stopped by SIGTERM; nothing was published\n")
    assert not Path(f"/proc/{stage}").exists() and lock.describe_holder(night(job).root.lock) is None
    assert not Path(night(job).root.lock).exists()
