"""Doctor's check of the runner: whether its addresses answer, and whether a job with ten elements succeeds.

The job runs in a separate process with a time limit.
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
SHOWN = 300  # characters of an error message


def runner(request: DoctorRequest) -> Iterator[Finding]:
    """Check each address, then run the job."""
    from pipelines.config.beam_options import endpoints

    silent = list(_silent(endpoints(request.runner_config, request.flags)))
    yield from silent
    if silent:
        return
    name, began = request.night.beam.runner, time.monotonic()
    given = json.dumps({"config": request.runner_config, "flags": request.flags})
    script = "from pipelines.checks.runner import main; main()"
    code, output = _run([sys.executable, "-c", script, given], request.runner_seconds)
    seconds = time.monotonic() - began
    if code is None:
        what = f"{name}: a job of {ELEMENTS} elements did not end within {request.runner_seconds:.0f} s"
        fix = "check the runner's web page for the job, which may still be running; --runner-timeout raises the limit"
        yield problem("runner", what, fix)
    elif code:
        last = (output.strip().splitlines() or [f"exit code {code}"])[-1][:SHOWN]
        fix = "check the options, whether workers have watchnext installed, and the runner's log"
        yield problem("runner", f"{name}: a job of {ELEMENTS} elements failed: {last}", fix)
    else:
        yield ok("runner", f"{name}: a job of {ELEMENTS} elements took {seconds:.1f} s, including its start")


def ten_elements(config: str | None, flags: Sequence[str]) -> None:
    """Run a job with ten elements in the same way as the stages. Raises the errors of the runner, and ValueError if an
    element is lost or duplicated."""
    import apache_beam as beam

    from pipelines.config.beam_options import pipeline_options

    with beam.Pipeline(options=pipeline_options(config, flags)) as pipeline:
        numbers = pipeline | beam.Create(range(ELEMENTS)) | beam.Map(_squared)
        numbers | beam.combiners.Count.Globally() | beam.Map(check_count)


def main() -> None:
    """Run the job in the process of the check, with the options in its argument."""
    given = json.loads(sys.argv[1])
    ten_elements(given["config"], given["flags"])


def _squared(number: int) -> int:
    return number * number


def check_count(count: int) -> None:
    """Raise ValueError if elements were lost or duplicated."""
    if count != ELEMENTS:
        raise ValueError(f"{count} elements arrived, but {ELEMENTS} were sent")


def _silent(addresses: dict[str, str]) -> Iterator[Finding]:
    """Yield a problem for each address that does not answer."""
    for option, address in addresses.items():
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except OSError as error:
            fix = "start the server, or correct the address"
            yield problem("runner", f"{option} = {address}: no answer ({error})", fix)


def _run(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run a command in a new session. Return (exit code, standard error); the code is None if it did not end in time.
    Its child processes are killed with it."""
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
        output = process.communicate(timeout=seconds)[1]
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
