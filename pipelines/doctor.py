"""`watchnext doctor JOB.toml`: check that everything a night needs is in place, and how to fix what is missing.

    watchnext doctor JOB.toml [--date DATE] [--deep] [--json] [--price-per-core-hour PRICE] [--runner-config FILE]
                              [Beam options]

Each check is a function in a module of `pipelines.checks`, which is imported only for this check, so that an error in
one check does not affect the others. Doctor writes nothing except a probe file on a remote root, and runs only a job
with ten elements.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from pipelines.base import command_lines, console
from pipelines.checks import findings
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, problem


@dataclass(frozen=True, kw_only=True)
class Check:
    """A function of a `DoctorRequest` that yields findings."""

    name: str
    module: str
    function: str
    needs_job: bool = True  # requires a job that can be read
    needs_root: bool = False  # requires a root that can be used
    in_background: bool = False  # waits for a separate process: started first, reported in order


CHECKS = (
    Check(name="python", module="installation", function="python", needs_job=False),
    Check(name="packages", module="installation", function="packages", needs_job=False),
    Check(name="job", module="root", function="job", needs_job=False),
    Check(name="root", module="root", function="root"),
    Check(name="lock", module="root", function="lock", needs_root=True),
    Check(name="published", module="root", function="published", needs_root=True),
    Check(name="logs", module="logs", function="logs"),
    Check(name="times", module="times", function="times"),
    Check(name="units", module="units", function="units"),
    Check(name="sinks", module="root", function="sinks"),
    Check(name="memory", module="sizes", function="memory"),
    Check(name="disk", module="sizes", function="disk"),
    Check(name="time", module="sizes", function="time"),
    Check(name="auto", module="sizes", function="auto"),
    Check(name="tensorflow", module="installation", function="tensorflow", needs_job=False, in_background=True),
    Check(name="scann", module="installation", function="scann", needs_job=False, in_background=True),
    Check(name="runner", module="runner", function="runner", in_background=True),
)

DEEP = Check(name="files", module="deep", function="files", needs_root=True)


parser = command_lines.doctor


def diagnose(request: DoctorRequest, checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """Yield the findings of all checks in order. A check that raises an error yields a problem."""
    job = next((check for check in checks if check.name == "job"), None)
    job_findings = run_check(job, request) if job else []  # first, because most checks need a valid job
    has_job = not findings.exit_code(job_findings)
    wanted = [check for check in checks if has_job or not check.needs_job]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        started = {check.name: pool.submit(run_check, check, request) for check in wanted if check.in_background}
        for check in wanted:
            if check is job:
                yield from job_findings
            elif not (check.needs_root and request.root_problem):
                yield from started[check.name].result() if check.in_background else run_check(check, request)


def run_check(check: Check, request: DoctorRequest) -> list[Finding]:
    """Return the findings of one check, or a problem if it raises an error."""
    try:
        return list(getattr(importlib.import_module(f"pipelines.checks.{check.module}"), check.function)(request))
    except ImportError as error:
        fix = "make setup, or install the missing packages: see the check packages"
        return [problem(check.name, f"could not be checked: {error}", fix)]
    except Exception as error:
        if os.environ.get("WATCHNEXT_TRACEBACK"):
            traceback.print_exc()
        fix = "see the message; WATCHNEXT_TRACEBACK=1 shows the traceback"
        return [problem(check.name, f"could not be checked: {type(error).__name__}: {error}", fix)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings. Return 0 without a problem, 1 with at least one, 2 for a wrong argument."""
    args, flags = parser().parse_known_args(argv)
    request = DoctorRequest(
        job=args.job,
        date=args.date,
        runner_config=args.runner_config,
        flags=tuple(flags),
        runner_seconds=args.runner_timeout,
        price_per_core_hour=args.price_per_core_hour,
    )
    checks = (*CHECKS, DEEP) if args.deep else CHECKS
    return console.print_to_reader(lambda: _print(request, checks, as_json=args.json))


def _print(request: DoctorRequest, checks: Sequence[Check], *, as_json: bool) -> int:
    colours, width = findings.terminal()
    found = []
    for finding in diagnose(request, checks):
        found.append(finding)
        if not as_json:
            print(findings.to_text(finding, colours=colours, width=width), flush=True)
    if as_json:
        text = json.dumps([asdict(finding) for finding in found], ensure_ascii=False, indent=1)
        print(console.printable_json(text, sys.stdout))
    else:
        print(findings.summary_line(found))
    return findings.exit_code(found)


if __name__ == "__main__":
    sys.exit(main())
