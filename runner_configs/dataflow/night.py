"""Run a whole night on Dataflow: the program that the Flex Template starts.

    job of the template: one element, one worker -> watchnext nightly -> the jobs of the stages, one after the other

A template's program must end as soon as its one job is submitted, but a night is several jobs and reads their results
in between. So the template's job is the night itself, on a single worker. Dataflow retries a failed job up to four
times: the night resumes after its last completed stage, and the lock of ROOT excludes a second run.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam

from pipelines.config.jobs import Job, load_job
from pipelines.config.settings import TABLES
from pipelines.night.stage import STAGES
from transforms.core import files

# Options of the template that are passed on to the jobs of the stages.
FORWARDED_OPTIONS = (
    "project",
    "region",
    "temp_location",
    "sdk_container_image",
    "service_account_email",
    "network",
    "subnetwork",
    "dataflow_kms_key",
)


class NightError(ValueError):
    """The night cannot be started, or it failed."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the template's parameters; all other arguments are Beam options."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--job", required=True, help="the job file, gs://BUCKET/job.toml")
    parser.add_argument("--date", help="the night, YYYY-MM-DD (default: today)")
    parser.add_argument("--only", choices=STAGES, help="one stage")
    parser.add_argument("--from", dest="first", choices=STAGES, help="this stage and those after it")
    parser.add_argument("--options", default="", help="more Beam options for the stages' jobs")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Submit the job of the night. Raises NightError if the job file names a path that workers cannot reach."""
    args, flags = parser().parse_known_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        check_paths(load_job(_download(args.job, folder)))
    pipeline = beam.Pipeline(argv=[*flags, "--runner=DataflowRunner", "--no_save_main_session"])
    pipeline | beam.Create([args.job]) | "Night" >> beam.Map(run_night, arguments(args, flags))
    pipeline.run()  # without waiting: the template is launched when this program ends


def arguments(args: argparse.Namespace, flags: Sequence[str]) -> list[str]:
    """Return the arguments of `watchnext nightly` after the job file."""
    selection = {"--date": args.date, "--only": args.only, "--from": args.first}
    chosen = [word for name, value in selection.items() if value for word in (name, value)]
    beam_parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in FORWARDED_OPTIONS:
        beam_parser.add_argument(f"--{name}")
    values = vars(beam_parser.parse_known_args(flags)[0])
    forwarded = [f"--{name}={value}" for name, value in values.items() if value]
    return [*chosen, "--runner-config", "dataflow", "--log-format", "json", *forwarded, *shlex.split(args.options)]


def run_night(job: str, arguments: Sequence[str]) -> None:
    """Run a night in a subprocess. Raises NightError if it exits with another code than 0."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipelines.nightly", _download(job, folder), *arguments]
        code = subprocess.run(command, check=False).returncode
    if code:
        raise NightError(f"the night ended with exit code {code}: the previous lines of the log show the cause")


def _download(job: str, folder: str) -> str:
    """Copy the job file to a local folder and return the path of the copy."""
    copy = Path(folder, "job.toml")
    copy.write_bytes(files.read_bytes(job))
    return str(copy)


def check_paths(job: Job) -> None:
    """Raise NightError if the job's root or a table of its logs is on a local disk."""
    locations = {f"logs.{name}": getattr(job.logs, name) for name in TABLES} | {"storage.root": job.storage.root}
    locations["privacy.forget"] = job.privacy.forget
    for name, path in locations.items():
        if path and not path.startswith("bigquery:") and files.is_local(path):
            raise NightError(f"{name} = {path!r} is on a local disk, which workers cannot reach: use gs://...")
