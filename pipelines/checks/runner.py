"""Doctor's check of the runner: are the addresses there that the options name, and does a job of ten elements end well.

The job runs in a process of its own, which is ended when its time is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, problem

ELEMENTS = 10
ANSWER_SECONDS = 5.0  # for an address to answer
SHOWN = 300  # characters of an error


def runner(request: DoctorRequest) -> Iterator[Finding]:
    """Each address, and the job."""
    from pipelines.config.beam_options import endpoints

    silent = list(_silent(endpoints(request.runner_config, request.flags)))
    yield from silent
    if silent:
        return
    name, began = request.night.runner, time.monotonic()
    given = json.dumps({"config": request.runner_config, "flags": request.flags})
    script = "from pipelines.checks.runner import main; main()"
    code, said = _run([sys.executable, "-c", script, given], request.runner_seconds)
    seconds = time.monotonic() - began
    if code is None:
        what = f"{name}: a job of {ELEMENTS} elements did not end within {request.runner_seconds:.0f} s"
        fix = "look at the runner's own page for the job, which may still be there; --runner-timeout gives it longer"
        yield problem("runner", what, fix)
    elif code:
        last = (said.strip().splitlines() or [f"exit code {code}"])[-1][:SHOWN]
        fix = "check the options, that workers have watchnext installed, and what the runner's log says"
        yield problem("runner", f"{name}: a job of {ELEMENTS} elements failed: {last}", fix)
    else:
        yield ok("runner", f"{name}: a job of {ELEMENTS} elements took {seconds:.1f} s, start included")


def ten_elements(config: str | None, flags: Sequence[str]) -> None:
    """Run a job of ten elements, as the stages run theirs. Raises what the runner raises, or where one is lost."""
    import apache_beam as beam

    from pipelines.config.beam_options import pipeline_options

    with beam.Pipeline(options=pipeline_options(config, flags)) as pipeline:
        numbers = pipeline | beam.Create(range(ELEMENTS)) | beam.Map(_squared)
        numbers | beam.combiners.Count.Globally() | beam.Map(check_count)


def main() -> None:
    """What the process of the check runs: the job of the options in its one argument."""
    given = json.loads(sys.argv[1])
    ten_elements(given["config"], given["flags"])


def _squared(number: int) -> int:
    return number * number


def check_count(count: int) -> None:
    """Raise ValueError where an element was lost or doubled on its way."""
    if count != ELEMENTS:
        raise ValueError(f"of {ELEMENTS} elements {count} came through")


def _silent(addresses: dict[str, str]) -> Iterator[Finding]:
    """A problem for each address where nothing answers."""
    for option, address in addresses.items():
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except OSError as error:
            fix = "start what should listen there, or give its address"
            yield problem("runner", f"{option} = {address}: nothing answers ({error})", fix)


def _run(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """(exit code, None where it did not end in time; what it wrote to the standard error). Its children end with it."""
    repository = str(Path(__file__).parents[2])
    path = os.pathsep.join([repository, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    try:
        said = process.communicate(timeout=seconds)[1]
        return process.returncode, said
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
