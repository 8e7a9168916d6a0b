"""A whole night on Dataflow without a machine of one's own: what the Flex Template starts.

    job of the template: one element, one worker -> watchnext nightly -> the jobs of the stages, one after the other

A template's program has to end as soon as its one job is handed over, and a night is several jobs, with what they
found read in between. So the template's job is the night itself, on a single worker. Dataflow tries it again, up to
four times, where it fails or its machine goes away: a night goes on where it was, and ROOT's lock lets no second in.
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

# Of the options the template is started with, those that the stages' jobs get too.
HANDED_ON = (
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
    """A night that cannot be started, or that failed."""


def parser() -> argparse.ArgumentParser:
    """The template's own parameters; what else Dataflow gives is Beam's."""
    found = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    found.add_argument("--job", required=True, help="the job file, gs://BUCKET/job.toml")
    found.add_argument("--date", help="the night, YYYY-MM-DD (default: today)")
    found.add_argument("--only", choices=STAGES, help="one stage")
    found.add_argument("--from", dest="first", choices=STAGES, help="this stage and those after it")
    found.add_argument("--options", default="", help="more Beam options for the stages' jobs")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Hand over the job of the night. Raises NightError where its job file names a place that workers do not reach."""
    args, flags = parser().parse_known_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        check_places(load_job(fetched(args.job, folder)))
    pipeline = beam.Pipeline(argv=[*flags, "--runner=DataflowRunner", "--no_save_main_session"])
    pipeline | beam.Create([args.job]) | "Night" >> beam.Map(run_night, arguments(args, flags))
    pipeline.run()  # and not to its end: a template is ready once this program is over


def arguments(args: argparse.Namespace, flags: Sequence[str]) -> list[str]:
    """What `watchnext nightly` is given after the job file."""
    some = {"--date": args.date, "--only": args.only, "--from": args.first}
    chosen = [word for name, value in some.items() if value for word in (name, value)]
    beam_s = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in HANDED_ON:
        beam_s.add_argument(f"--{name}")
    given = vars(beam_s.parse_known_args(flags)[0])
    handed = [f"--{name}={value}" for name, value in given.items() if value]
    return [*chosen, "--runner-config", "dataflow", "--log-format", "json", *handed, *shlex.split(args.options)]


def run_night(job: str, arguments: Sequence[str]) -> None:
    """Run a night to its end, in a process of its own. Raises NightError where it does not end well."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipelines.nightly", fetched(job, folder), *arguments]
        code = subprocess.run(command, check=False).returncode
    if code:
        raise NightError(f"the night ended with exit code {code}: the lines before this one say why")


def fetched(job: str, folder: str) -> str:
    """A copy of the job file in a folder of this machine."""
    copy = Path(folder, "job.toml")
    copy.write_bytes(files.read_bytes(job))
    return str(copy)


def check_places(job: Job) -> None:
    """Raise NightError where the job's root or a table of its logs lies on this machine's disk."""
    places = {f"logs.{name}": getattr(job.logs, name) for name in TABLES} | {"storage.root": job.storage.root}
    places["privacy.forget"] = job.privacy.forget
    for name, place in places.items():
        if place and not place.startswith("bigquery:") and files.is_local(place):
            raise NightError(f"{name} = {place!r} is on this machine's disk, which workers do not reach: give gs://...")
