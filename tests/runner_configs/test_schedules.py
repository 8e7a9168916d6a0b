"""The schedules that are shipped: what they call exists and takes these arguments, and they are what they say to be."""

from __future__ import annotations

import argparse
import configparser
import importlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_fields import check_fields
from nights import REPOSITORY

from pipelines import nightly
from pipelines.night.stage import STAGES, stage_parser

SCHEDULES = REPOSITORY / "runner_configs" / "schedules"
NAMES = ["airflow_dag.py", "cronjob.yaml", "crontab", "watchnext.service", "watchnext.timer"]


def text_of(name: str) -> str:
    return (SCHEDULES / name).read_text(encoding="utf-8")


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(text_of(name))
    return found


def parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """What our parser makes of a command; there must be nothing left over for Beam."""
    args, flags = parser.parse_known_args(arguments)
    assert flags == []
    return args


def test_these_are_the_schedules() -> None:
    assert sorted(path.name for path in SCHEDULES.iterdir() if path.is_file()) == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name != "watchnext.timer"])
def test_what_a_person_must_fill_in_is_named_and_no_machine_is(name: str) -> None:
    assert "FILL-IN" in text_of(name)
    assert not re.search(r"/(home|root|work|Users)/|\b\d+\.\d+\.\d+\.\d+\b|https?://", text_of(name))


def test_the_crontab_runs_nights_and_catches_up() -> None:
    lines = [line for line in text_of("crontab").splitlines() if line and not line.startswith("#")]
    names = [line.split("=")[0] for line in lines[:-1]]
    assert names == ["WATCHNEXT", "JOB", "LOG"] and "%" not in lines[-1]
    fields = lines[-1].split(None, 5)
    assert all(re.fullmatch(r"[\d,*/-]+", field) for field in fields[:5])
    command = shlex.split(fields[5].partition(">>")[0])
    assert command[0] == "$WATCHNEXT" and command[1] == "nightly"
    args = parsed(nightly.parser(), command[2:])
    assert (args.job, args.catch_up, args.date) == ("$JOB", True, None)


def test_the_systemd_service_runs_nights_and_tries_again_what_may_succeed() -> None:
    service = unit("watchnext.service")["Service"]
    command = shlex.split(service["ExecStart"])
    assert command[0].endswith("/.venv/bin/watchnext") and command[1] == "nightly"
    assert parsed(nightly.parser(), command[2:]).catch_up
    assert (service["Type"], service["Restart"]) == ("oneshot", "on-failure")
    assert service["RestartPreventExitStatus"].split() == ["2", "3"]


def test_the_systemd_timer_makes_up_for_missed_nights() -> None:
    timer = unit("watchnext.timer")["Timer"]
    assert timer["Persistent"] == "true" and timer["OnCalendar"].endswith(" UTC")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """With what is to be filled in filled in."""
    program = tmp_path / ".venv" / "bin" / "watchnext"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("watchnext.service", "watchnext.timer"):
        filled = re.sub(r"/FILL-IN[A-Z-]*", str(tmp_path), text_of(name)).replace("FILL-IN-A-USER", "root")
        (tmp_path / name).write_text(filled)
    files = [str(tmp_path / name) for name in ("watchnext.service", "watchnext.timer")]
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_cron_job_is_one_kubernetes_knows() -> None:
    found = yaml.safe_load(text_of("cronjob.yaml"))
    check_fields(found, "CronJob", "CronJob")
    assert (found["apiVersion"], found["kind"]) == ("batch/v1", "CronJob")
    spec = found["spec"]
    assert spec["concurrencyPolicy"] == "Forbid" and spec["startingDeadlineSeconds"] >= 3600
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never" and {"requests", "limits"} <= container["resources"].keys()
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    (in_order, _) = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert in_order["onExitCodes"]["values"] == [2, 3] and in_order["onExitCodes"]["containerName"] == container["name"]
    assert container["command"][:2] == ["watchnext", "nightly"]
    assert parsed(nightly.parser(), container["command"][2:]).catch_up


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    with pytest.raises(AssertionError, match=r"spec\.concurencyPolicy is no field of CronJobSpec"):
        check_fields({"spec": {"concurencyPolicy": "Forbid"}}, "CronJob", "CronJob")
    with pytest.raises(AssertionError, match="backoffLimit = '6' is no int"):
        check_fields({"backoffLimit": "6"}, "JobSpec", "JobSpec")


class Anything:
    """In place of Airflow's classes: takes all, keeps it."""

    made: list[Anything]

    def __init__(self, **given: Any) -> None:
        self.given = given
        Anything.made.append(self)

    def __enter__(self) -> Anything:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, context: object) -> None:
        raise NotImplementedError


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Task -> command of the DAG, in its order. tests/runner_configs/test_airflow.py loads it in Airflow itself."""
    return {task.given["task_id"]: task.given["bash_command"] for task in chained_tasks(monkeypatch, Anything)}


class Failed(Exception):  # noqa: N818  # stands in for Airflow's
    """A task that failed, and is tried again."""


class FailedForGood(Failed):
    """A task that is not tried again."""


def chained_tasks(monkeypatch: pytest.MonkeyPatch, operator: type[Anything]) -> list[Anything]:
    """The tasks of the DAG in its order, made by a stand-in for Airflow's operator of commands."""
    chained: list[Anything] = []
    names = ["airflow", "airflow.sdk", "airflow.sdk.bases", "airflow.providers", "airflow.providers.standard"]
    given: dict[str, dict[str, Any]] = {
        "airflow.providers.standard.operators": {},
        "airflow.exceptions": {"AirflowException": Failed, "AirflowFailException": FailedForGood},
        "airflow.providers.standard.operators.bash": {"BashOperator": operator},
        "airflow.sdk": {"DAG": Anything},
        "airflow.sdk.bases.operator": {"chain": lambda *tasks: chained.extend(tasks)},
    }
    for name in {*names, *given}:
        module = types.ModuleType(name)
        vars(module).update(given.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    Anything.made = []
    runpy.run_path(str(SCHEDULES / "airflow_dag.py"))
    return chained


@pytest.mark.parametrize(("code", "error"), [(1, Failed), (2, FailedForGood), (3, FailedForGood), (23, Failed)])
def test_a_wrong_setting_and_a_gate_are_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    class Failing(Anything):
        def execute(self, context: object) -> None:
            raise Failed(f"Bash command failed. The command returned a non-zero exit code {code}.")

    with pytest.raises(Failed) as raised:
        chained_tasks(monkeypatch, Failing)[0].execute({})
    assert raised.type is error


def test_the_dag_has_a_task_a_stage_and_each_command_is_ours(tasks: dict[str, str]) -> None:
    assert list(tasks) == [*STAGES, "nightly"]
    for name, command in tasks.items():
        filled = command.replace("{{ var.value.watchnext_job }}", "job.toml").replace(
            "{{ var.value.watchnext_python }}", "python"
        )
        words = shlex.split(re.sub(r"\{\{.*?\}\}", "2026-11-21", filled))
        assert words[:3] == ["python", "-m", f"pipelines.{name}"]
        module = importlib.import_module(words[2])
        args = parsed(nightly.parser() if name == "nightly" else stage_parser(module), words[3:])
        assert (args.job, args.date.isoformat()) == ("job.toml", "2026-11-21")
