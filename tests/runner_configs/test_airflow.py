"""The DAG in a real Airflow, which has an environment of its own: `make test-airflow` makes it and runs these tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nights import DATE, REPOSITORY, environment, night, published_json, simulated

from pipelines.night.stage import STAGES

AIRFLOW = os.environ.get("WATCHNEXT_AIRFLOW", "")  # the program `airflow`
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not AIRFLOW, reason="needs Airflow: make test-airflow")]

# Loads the DAGs as a scheduler would, and prints what it found.
LOAD = """
import json
from airflow.models.dagbag import DagBag
bag = DagBag(include_examples=False)
dag = bag.dags["watchnext"]
tasks = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
print(json.dumps({
    "errors": bag.import_errors, "dags": list(bag.dags), "tasks": tasks, "catchup": dag.catchup,
    "retries": sorted({task.retries for task in dag.tasks}), "at_once": dag.max_active_runs,
}))
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("airflow") / "logs")


@pytest.fixture(scope="module")
def airflow(job: Path) -> dict[str, str]:
    """The environment of an Airflow that has the DAG and what it asks for, and a database."""
    home = job.parent / "airflow"
    (home / "dags").mkdir(parents=True)
    shutil.copy(REPOSITORY / "runner_configs" / "schedules" / "airflow_dag.py", home / "dags")
    given = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_VAR_WATCHNEXT_PYTHON": sys.executable,
        "AIRFLOW_VAR_WATCHNEXT_JOB": str(job),
        "PYTHONPATH": str(REPOSITORY),
    }
    found = {name: value for name, value in environment().items() if name != "PYTHONPATH"} | given
    call(found, AIRFLOW, "db", "migrate")
    return found


def call(variables: dict[str, str], *command: str) -> str:
    """What a command prints; fails with all it said where it fails."""
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def test_the_dag_loads_without_errors_and_has_a_task_a_stage(airflow: dict[str, str]) -> None:
    python = str(Path(AIRFLOW).with_name("python"))
    found = json.loads(call(airflow, python, "-c", LOAD).splitlines()[-1])
    names = [*STAGES, "nightly"]
    following = [[name] for name in names[1:]]
    assert found == {
        "errors": {},
        "dags": ["watchnext"],
        "tasks": dict(zip(names, [*following, []], strict=True)),
        "catchup": True,
        "retries": [3],
        "at_once": 1,
    }


def test_a_run_of_the_dag_publishes_the_night(airflow: dict[str, str], job: Path) -> None:
    call(airflow, AIRFLOW, "dags", "test", "watchnext", DATE.isoformat())
    of = night(job)
    served = published_json(of.root)
    assert served["date"] == DATE.isoformat() and served["users"] > 100
    assert len({of.require(stage).run for stage in STAGES}) == 1 and of.require("ingest").run
    assert f'watchnext_last_run_exit_code{{date="{DATE}"}} 0.0' in Path(of.root.metrics).read_text().splitlines()
