from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import watchnext
from findings import request_with_watches
from nights import DATE, REPOSITORY, environment, run_python, simulated, watch_rows, write_job

from pipelines import doctor
from pipelines.checks import findings
from pipelines.checks import installation as doctor_installation
from pipelines.checks import runner as doctor_runner
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, problem, warning
from pipelines.doctor import CHECKS, Check

NAMES = (  # of the checks of whole logs, in the order of their findings
    *("python", "packages", "job", "root", "lock", "published"),
    *("logs.watches", "logs.searches", "logs.videos", "logs.users", "catalogue", "times"),
    *("sinks", "memory", "disk", "time", "auto", "tensorflow", "scann", "runner"),
)


def without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks that start processes, with processes that do nothing."""
    script = "import json; print(json.dumps(dict(version='1', seconds=0, busy=0, gpus=0)))"
    monkeypatch.setattr(doctor_installation, "TRY_TENSORFLOW", script)
    monkeypatch.setattr(doctor_installation, "TRY_SCANN", script)
    monkeypatch.setattr(doctor_runner, "_run", lambda *_: (0, ""))


def test_whole_logs_on_a_whole_machine_have_no_problem(tmp_path: Path) -> None:
    job = simulated(tmp_path)
    done = run_python("-m", "pipelines.cli", "doctor", job, f"--date={DATE}", "--json", seconds=300)
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert [one["check"] for one in found] == list(NAMES)
    assert not [one for one in found if one["state"] == "problem"]
    assert all(set(one) == {"check", "state", "what", "fix", "details"} for one in found)


def test_findings_fit_the_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_processes(monkeypatch)
    request = request_with_watches(tmp_path)
    done = watchnext("doctor", request.job, f"--date={DATE}")
    lines = done.message.splitlines()
    assert done.code == 0 and max(map(len, lines)) <= findings.WIDEST
    assert "\033" not in "".join(lines)
    assert lines[0].startswith("ok       python: ")


def test_a_problem_gives_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_processes(monkeypatch)
    job = write_job(tmp_path, 'watches = "nowhere"')
    done = watchnext("doctor", job, f"--date={DATE}")
    flat = " ".join(done.message.split())  # where lines are broken depends on how long the folder's path is
    assert " problem logs.watches: " in flat and " fix: check the path: " in flat
    assert done.code == 1 and done.message.splitlines()[-1].startswith("1 problem: ")


def test_the_installation_is_checked_without_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_processes(monkeypatch)
    found = list(doctor.diagnose(DoctorRequest(job=str(tmp_path / "nowhere.toml"))))
    assert [one.check for one in found] == ["python", "packages", "job", "tensorflow", "scann"]
    assert [one.check for one in found if one.state == "problem"] == ["job"]


def test_the_content_of_an_unusable_root_is_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_processes(monkeypatch)
    (tmp_path / "file").write_text("")
    watch_rows().write_parquet(tmp_path / "w.parquet")
    job = write_job(tmp_path, 'watches = "w.parquet"', '[storage]\nroot = "file/runs"\n')
    found = {one.check: one.state for one in doctor.diagnose(DoctorRequest(job=str(job), date=DATE))}
    assert [name for name, state in found.items() if state == "problem"] == ["root"]
    assert found["logs.watches"] == "ok" and not {"lock", "published"} & set(found)


def fails(_request: DoctorRequest) -> Iterator[Finding]:
    yield ok("first", "seen before it failed")
    raise ZeroDivisionError("by chance")


def lacks(_request: DoctorRequest) -> list[Finding]:
    raise ModuleNotFoundError("No module named 'polars'")


def fine(_request: DoctorRequest) -> list[Finding]:
    return [ok("fine", "as it should be"), warning("fine", "a", "b")]


def checks_of(*functions: str, monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    monkeypatch.setitem(sys.modules, "pipelines.checks.test", sys.modules[__name__])
    return [
        Check(name=name, module="test", function=name, needs_job=False, in_background=at % 2 == 1)
        for at, name in enumerate(functions)
    ]


def test_an_error_in_a_check_is_a_problem_and_the_other_checks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = checks_of("fails", "fine", "lacks", "fails", "fine", monkeypatch=monkeypatch)
    found = list(doctor.diagnose(DoctorRequest(job="x"), checks))
    failed = problem(
        "fails",
        "could not be checked: ZeroDivisionError: by chance",
        "see the message; WATCHNEXT_TRACEBACK=1 shows the traceback",
    )
    lacking = problem(
        "lacks",
        "could not be checked: No module named 'polars'",
        "make setup, or install the missing packages: see the check packages",
    )
    assert found == [failed, *fine(DoctorRequest(job="x")), lacking, failed, *fine(DoctorRequest(job="x"))]


def test_a_check_whose_module_is_broken_is_a_problem() -> None:
    found = doctor.run_check(Check(name="gone", module="doctor_of_nothing", function="x"), DoctorRequest(job="x"))
    assert [one.state for one in found] == ["problem"] and "doctor_of_nothing" in found[0].what


def test_doctor_works_where_no_package_does(tmp_path: Path) -> None:
    """The interpreter that environments are made from has none of theirs."""
    request = request_with_watches(tmp_path)
    bare = shutil.which(f"python3.{sys.version_info.minor}", path=f"{sys.base_prefix}/bin")
    assert bare is not None
    command = [bare, "-S", "-m", "pipelines.doctor", request.job, "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    states = {one["check"]: one["state"] for one in json.loads(done.stdout)}
    assert states["job"] == states["tensorflow"] == states["scann"] == "problem"


def test_every_check_is_a_function_that_is_there() -> None:
    import importlib

    for check in CHECKS:
        assert callable(getattr(importlib.import_module(f"pipelines.checks.{check.module}"), check.function)), check
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_a_wrong_date_is_a_wrong_argument() -> None:
    done = watchnext("doctor", "job.toml", "--date", "yesterday")
    assert done.code == 2 and "'yesterday' is not a date such as 2026-11-21" in done.message
