"""`watchnext status`, on nights made by hand."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import run_here
from nights import DATE, gate_results, published_json, published_night, with_figures, write_job

from pipelines import status
from pipelines.base import lock
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from transforms.core import files

BEFORE, AFTER = DATE - dt.timedelta(days=1), DATE + dt.timedelta(days=1)
LISTS = pl.DataFrame(
    {"user_id": ["ann", "bob"], "video_ids": [["v1", "v2"], ["v2"]], "scores": [[2.0, 1.0], [0.5]]},
    schema_overrides={"scores": pl.List(pl.Float32)},
)


@pytest.fixture
def served(tmp_path: Path) -> Night:
    """A published night with figures."""
    job = write_job(tmp_path, 'watches = "w"', "[gates]\nsame_night = false\n")
    of = with_figures(published_night(job, LISTS, publish=False), 100, {10: 0.2, 100: 0.5})
    from pipelines import publish

    publish.run(of)
    end(of, 0, "night done", run="20261121T030000Z-a")
    return of


def end(of: Night, code: int, message: str, *, run: str) -> None:
    """Write the result of a night's last run."""
    content = {"run": run, "date": of.date.isoformat(), "code": code, "message": message, "seconds": 1.0}
    files.replace_file(of.root.outcome(of.date), json.dumps(content).encode())


def found(of: Night, today: dt.date = DATE) -> status.JobStatus:
    return status.status(of.job, "job.toml", today)


def job_of(of: Night) -> Path:
    return Path(of.root.path).parent / "job.toml"


def test_the_served_night_is_shown_with_its_figures(served: Night) -> None:
    now = found(served)
    assert now.served is not None and (now.code, now.problems, now.failed) == (0, [], None)
    assert (now.served.date, now.served.users, now.served.days_old) == (DATE.isoformat(), 2, 0)
    assert now.served.since == published_json(served.root)["published_at"]
    assert now.served.figures == {"users": 90, "recall@10": 0.2, "recall@100": 0.5}
    assert now.served.held_out_users == 90 and now.served.interval == (0.495, 0.505)
    assert [(one.other, round(one.difference, 9), one.low) for one in now.served.compared] == [
        ("most popular", 0.4, 0.05),
        ("item to item", 0.4, 0.05),
    ]
    assert now.next == "nothing; the next night is run by its schedule"


def test_the_night_before_is_compared_user_by_user(served: Night) -> None:
    job = job_of(served)
    later = with_figures(published_night(job, LISTS, publish=False, date=AFTER), 100, {10: 0.2, 100: 0.6})
    from pipelines import publish

    publish.run(later)
    assert gate_results(later).compared_with == DATE.isoformat()
    now = found(served, AFTER)
    assert now.served is not None and now.served.date == AFTER.isoformat()
    last = now.served.compared[-1]
    assert last.other.startswith(f"the night of {DATE}") and last.difference == pytest.approx(0.1)
    assert last.low == pytest.approx(0.1) and last.verdict == "significantly better"


def test_text_and_json_say_the_same(served: Night) -> None:
    text = run_here("status", job_of(served))
    assert text.returncode == 0 and f"served: the night of {DATE}, 2 users, since " in text.stdout
    assert "recall@100 0.500" in text.stdout and "minus most popular (0.100): +0.400 [+0.050, +0.150]" in text.stdout
    as_json = json.loads(run_here("status", job_of(served), "--json").stdout)
    assert as_json["served"]["figures"]["recall@100"] == 0.5 and as_json["code"] == 0
    assert as_json["served"]["compared"][0]["difference"] == pytest.approx(0.4)


def test_nothing_published_yet(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    done = run_here("status", job)
    assert done.returncode == 1 and "served: nothing is published in" in done.stdout
    assert f"next: watchnext doctor {job}, then watchnext nightly {job}" in done.stdout


def test_an_old_night_asks_for_the_missed_ones(served: Night) -> None:
    now = found(served, DATE + dt.timedelta(days=5))
    assert now.code == 0 and now.next == "watchnext nightly job.toml --catch-up: the served night is 5 days old"


FAILURES: list[tuple[int, str, int, str, str]] = [
    (1, "stage train: no space left on device below /x: free some space", 1, "train", "which resumes after"),
    (1, "stage index ended with exit code 1; nothing was published. boom", 1, "index", "which resumes after"),
    (2, "unknown setting k", 2, "ingest", "correct the setting that the message names"),
    (143, "stopped by SIGTERM", 1, "ingest", "which resumes after"),
]


@pytest.mark.parametrize(("code", "message", "_exit", "stage", "then"), FAILURES)
def test_the_last_failure_is_shown(code: int, message: str, _exit: int, stage: str, then: str, served: Night) -> None:
    later = replace(served, date=AFTER)
    end(later, code, message, run="20261122T030000Z-b")
    now = found(served, AFTER)
    assert now.failed is not None and now.served is not None and now.served.date == DATE.isoformat()
    assert (now.failed.date, now.failed.code, now.failed.stage) == (AFTER.isoformat(), code, stage)
    assert now.failed.message == message and then in now.next and f"--date {AFTER}" in now.next
    assert now.code == 1 and run_here("status", job_of(served)).returncode == 1


def test_a_failure_before_the_newest_run_is_shown_and_is_no_failure_now(served: Night) -> None:
    end(replace(served, date=BEFORE), 1, "stage train ended", run="20261120T030000Z-b")
    now = found(served)
    assert now.failed is not None and now.failed.date == BEFORE.isoformat() and now.code == 0
    assert now.next == "nothing; the next night is run by its schedule"


def test_a_failed_gate_is_named_with_its_exit_code(served: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    later = replace(served, date=AFTER)
    results = gate_results(served).model_copy(update={"date": AFTER.isoformat(), "status": "failed"})
    failed = results.gates[0].model_copy(update={"name": "recall", "state": "failed"})
    content = results.model_copy(update={"gates": (failed,)}).model_dump_json()
    files.replace_file(later.root.gates(AFTER), content.encode())
    end(later, 3, "gate recall: 0.1 is below 0.2", run="20261122T030000Z-b")
    done = run_here("status", job_of(served))
    assert done.returncode == 3 and "failed gates: recall" in done.stdout and "--force-publish" in done.stdout


def test_a_run_that_was_killed_leaves_a_night_without_a_result(served: Night) -> None:
    files.replace_file(served.root.night(AFTER, "catalogue", "part"), b"")
    now = found(served, AFTER)
    assert now.failed is not None and now.failed.code is None and now.failed.stage == "ingest"
    assert now.code == 1 and f"watchnext nightly job.toml --date {AFTER}" in now.next
    with lock.hold(served.root.lock):
        running = found(served, AFTER)
        assert running.failed is None and "is running on this root" in running.running
        assert running.next == "wait until the run that is active on this root ends" and running.code == 0


def test_a_damaged_publication_is_a_problem_with_its_repair(served: Night) -> None:
    files.replace_file(served.root.published, b"{")
    done = run_here("status", job_of(served))
    assert done.returncode == 1 and "problem: " in done.stdout and "published.json cannot be read" in done.stdout
    assert f"watchnext nightly JOB.toml --date {DATE}, which restores it" in done.stdout
    assert json.loads(run_here("status", job_of(served), "--json").stdout)["served"] is None


def _served_list(of: Night) -> Path:
    names = sorted(Path(of.folder("neighbours")).glob("*.parquet"))
    return names[0]


def _damage(of: Night, what: str) -> None:
    if what == "list":
        _served_list(of).unlink()
    elif what == "manifest":
        Path(of.folder("ingest"), "COMPLETED").write_text("{")
        Path(of.root.outcome(of.date)).unlink()
    else:
        path = {"metrics": Path(of.folder("evaluation")) / "metrics.json", "outcome": Path(of.root.outcome(of.date))}
        (path | {"gates": Path(of.root.gates(of.date))})[what].write_text("{")


@pytest.mark.parametrize("what", ["list", "metrics", "outcome", "gates"])
def test_a_damaged_file_is_a_problem_and_the_rest_is_shown(what: str, served: Night) -> None:
    _damage(served, what)
    now = found(served)
    assert now.served is not None and len(now.problems) >= 1 and now.code == 1 and now.next == now.problems[0]
    assert run_here("status", job_of(served)).returncode == 1


def test_a_damaged_manifest_of_a_night_without_a_result_is_a_problem(served: Night) -> None:
    _damage(served, "manifest")
    now = found(served)
    assert any("COMPLETED cannot be read" in problem for problem in now.problems)


def test_an_interrupted_publication_is_shown(served: Night) -> None:
    files.replace_file(served.root.publishing, b"{}")
    now = found(served)
    assert now.interrupted_publication and now.code == 1 and "completes or undoes" in now.next


def test_withdrawn_nights_are_listed(served: Night) -> None:
    files.replace_file(served.root.withdrawn, json.dumps([AFTER.isoformat()]).encode())
    assert found(served).withdrawn == [AFTER.isoformat()]
    assert f"withdrawn: {AFTER}" in run_here("status", job_of(served)).stdout


@pytest.mark.parametrize("arguments", [["job.toml"], ["job.toml", "--jsonn"], []])
def test_a_wrong_argument_is_a_mistake(arguments: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here("status", *arguments).returncode == 2


def test_the_job_is_read_as_by_every_command(served: Night) -> None:
    assert load_job(str(job_of(served))).storage.root == served.root.path
