"""`watchnext doctor JOB.toml`: is there all that a night needs, and what to do where it is not.

    watchnext doctor JOB.toml [--date DATE] [--deep] [--json] [--price-per-core-hour PRICE] [--runner-config FILE]
                              [Beam options]

Each check is a function in a module of its own kind, loaded when its turn comes: whatever is broken, the other checks
are made. Nothing is written but a probe file on a remote root, and nothing is run but a job of ten elements.
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

from pipelines.base import console
from pipelines.checks import findings
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, problem


@dataclass(frozen=True, kw_only=True)
class Check:
    """A function of `Asked` that gives findings."""

    name: str
    module: str
    function: str
    of_job: bool = True  # makes no sense without a job that can be read
    of_root: bool = False  # makes no sense without a root that can be used
    waits: bool = False  # for a process of its own: started first, told in its turn


CHECKS = (
    Check(name="python", module="installation", function="python", of_job=False),
    Check(name="packages", module="installation", function="packages", of_job=False),
    Check(name="job", module="root", function="job", of_job=False),
    Check(name="root", module="root", function="root"),
    Check(name="lock", module="root", function="lock", of_root=True),
    Check(name="published", module="root", function="published", of_root=True),
    Check(name="logs", module="logs", function="logs"),
    Check(name="times", module="times", function="times"),
    Check(name="units", module="units", function="units"),
    Check(name="sinks", module="root", function="sinks"),
    Check(name="memory", module="sizes", function="memory"),
    Check(name="disk", module="sizes", function="disk"),
    Check(name="time", module="sizes", function="time"),
    Check(name="tensorflow", module="installation", function="tensorflow", of_job=False, waits=True),
    Check(name="scann", module="installation", function="scann", of_job=False, waits=True),
    Check(name="runner", module="runner", function="runner", waits=True),
)

DEEP = Check(name="files", module="deep", function="files", of_root=True)


def diagnose(request: DoctorRequest, checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """The findings of all checks, in their order, as they come. A check that fails by itself is a problem found."""
    job = next((check for check in checks if check.name == "job"), None)
    of_job = run_check(job, request) if job else []  # first: without a job there is nothing else to ask of it
    usable = not findings.exit_code(of_job)
    wanted = [check for check in checks if usable or not check.of_job]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        begun = {check.name: pool.submit(run_check, check, request) for check in wanted if check.waits}
        for check in wanted:
            if check is job:
                yield from of_job
            elif not (check.of_root and request.root_problem):
                yield from begun[check.name].result() if check.waits else run_check(check, request)


def run_check(check: Check, request: DoctorRequest) -> list[Finding]:
    """The findings of one check, whatever happens in it."""
    try:
        return list(getattr(importlib.import_module(f"pipelines.checks.{check.module}"), check.function)(request))
    except ImportError as error:
        fix = "make setup, or install what is missing: see packages"
        return [problem(check.name, f"could not be looked at: {error}", fix)]
    except Exception as error:
        if os.environ.get("WATCHNEXT_TRACEBACK"):
            traceback.print_exc()
        fix = "the message says what failed; WATCHNEXT_TRACEBACK=1 shows where"
        return [problem(check.name, f"could not be looked at: {type(error).__name__}: {error}", fix)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found. 0: no problem; 1: at least one; 2: a wrong argument."""
    args, flags = _parser().parse_known_args(argv)
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


def _parser() -> console.Parser:
    parser = console.Parser("doctor", "Is there all that a night needs, and what to do where it is not.")
    parser.add_argument("job", metavar="JOB.toml")
    parser.add_argument("--date", type=console.parse_date, help="the night, YYYY-MM-DD (default: today)")
    parser.add_argument("--runner-config", metavar="FILE", help="Beam options as TOML: a file, or a built-in name")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    deep = "read every file of the store and of all nights, and compare its digest"
    parser.add_argument("--deep", action="store_true", help=deep)
    parser.add_argument(
        "--runner-timeout", type=float, default=120.0, metavar="SECONDS", help="for the runner's job (default: 120)"
    )
    parser.add_argument(
        "--price-per-core-hour", type=float, metavar="PRICE", help="of a worker, for an estimate of what Beam will cost"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
