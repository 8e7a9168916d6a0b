"""Airflow 3: one task per stage, every night at 03:00 UTC. Missed nights are caught up, one at a time.

Copy this file to the DAGs folder. Workers need watchnext in a separate environment, not in Airflow's. Fill in:

    airflow variables set watchnext_python FOLDER-OF-WATCHNEXT/.venv/bin/python
    airflow variables set watchnext_job FOLDER-OF-THE-JOB/job.toml

A retried task resumes its stage; a complete stage does nothing. The last task finds every stage complete, writes
ROOT/metrics.prom and sends the notification of `[notify]`.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from airflow.exceptions import AirflowException, AirflowFailException
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.sdk.bases.operator import chain

STAGES = ("ingest", "vocabulary", "examples", "train", "index", "neighbours", "ranking", "evaluation", "publish")
PYTHON, JOB = "{{ var.value.watchnext_python }}", "{{ var.value.watchnext_job }}"
DATE = "{{ (dag_run.logical_date or dag_run.run_after).strftime('%Y-%m-%d') }}"


class Command(BashOperator):
    """A command that is retried, unless it exits with 2 (a wrong setting) or 3 (a gate failed), which need a person."""

    def execute(self, context: Any) -> Any:
        try:
            return super().execute(context)
        except AirflowException as error:
            if re.search(r"exit code [23]\b", str(error)):
                raise AirflowFailException(str(error)) from error
            raise


def task(name: str, command: str) -> Command:
    """Return a task that runs a command with the run's id, which the manifests of its stages record."""
    return Command(
        task_id=name, bash_command=command, env={"WATCHNEXT_RUN": "{{ run_id }}"}, append_env=True, do_xcom_push=False
    )


with DAG(
    dag_id="watchnext",
    description="from watch and search logs to the next videos of every user",
    schedule="0 3 * * *",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),  # FILL-IN the first night: all nights since then are caught up
    catchup=True,
    max_active_runs=1,  # one run at a time on a root
    default_args={
        "retries": 3,
        "retry_delay": dt.timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "execution_timeout": dt.timedelta(hours=12),
    },
    tags=["watchnext"],
) as dag:
    stages = [task(stage, f'"{PYTHON}" -m pipelines.{stage} "{JOB}" --date {DATE}') for stage in STAGES]
    chain(*stages, task("nightly", f'"{PYTHON}" -m pipelines.nightly "{JOB}" --date {DATE} --log-format json'))
