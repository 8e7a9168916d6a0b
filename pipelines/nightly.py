"""START HERE: a night, from raw logs to published lists. This file is the map of the whole run.

    ingest -> vocabulary -> examples -> train -> index -> neighbours -> evaluation -> publish

Each stage is a module beside this one, run in a process of its own: its memory returns, a kill is contained, and a
scheduler can run the same commands. What is complete with the same inputs and settings is skipped, so a night that was
killed goes on where it was, and a second run does nothing.

    watchnext nightly JOB.toml [--date DATE] [--only STAGE | --from STAGE] [--reingest DAY] [--runner-config FILE]
                               [Beam options]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence

from pipelines import ingest, lock, processes, publish
from pipelines.errors import guarded
from pipelines.stages import STAGES, Night, arguments, night_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run a night. 0: done, or nothing to do; 1: a stage failed, and nothing was published; 2: a wrong setting."""
    parser = arguments("Run a night: from raw logs to published lists.")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--only", choices=STAGES, metavar="STAGE", help=f"one stage: {', '.join(STAGES)}")
    some.add_argument("--from", dest="first", choices=STAGES, metavar="STAGE", help="this stage and those after it")
    ingest.add_arguments(parser)
    args, flags = parser.parse_known_args(argv)
    if args.reingest and "ingest" not in _chosen(args):
        parser.error("--reingest is for stage ingest, which --only or --from leaves out")

    def work() -> int:
        night = night_of(args, flags)
        with lock.held(night.root.lock):
            run(night, args.job, _chosen(args))
        return 0

    return guarded(work)


def run(night: Night, job: str, stages: Sequence[str] = STAGES) -> None:
    """Run the stages that are not complete, in order. Raises StageError where one fails."""
    ran = []
    with processes.Screen(len(stages)) as screen:
        for stage in stages:
            if is_done(night, stage):
                screen.say(stage, "already complete")
                continue
            began = time.monotonic()
            screen.begin(stage)
            processes.run_stage(_command(night, job, stage), shows_progress=stage == "train", screen=screen)
            screen.say(stage, f"{time.monotonic() - began:.1f} s")
            for note in night.require(stage).counts.get("notes", ()):
                screen.line(note)
            ran.append(stage)
        screen.line(_closing(night, ran))


def is_done(night: Night, stage: str) -> bool:
    """Whether a stage is complete with the inputs and settings it would have now."""
    return bool(importlib.import_module(f"pipelines.{stage}").plan(night).is_done(night))


def _chosen(args: argparse.Namespace) -> Sequence[str]:
    if args.only:
        return (args.only,)
    return STAGES[STAGES.index(args.first) :] if args.first else STAGES


def _command(night: Night, job: str, stage: str) -> list[str]:
    config = ["--runner-config", night.runner_config] if night.runner_config else []
    module = [sys.executable, "-m", f"pipelines.{stage}"]
    again = [f"--reingest={day}" for day in night.reingest] if stage == "ingest" else []
    return [*module, job, "--date", night.date.isoformat(), *config, *again, *night.flags]


def _closing(night: Night, ran: list[str]) -> str:
    if not ran:
        return f"night {night.date}: nothing to do, every stage is complete"
    served = publish.read(night.root)
    state = f"published: {served['date']}, {served['users']:,} users" if served else "nothing is published"
    return f"night {night.date}: ran {', '.join(ran)}; {state}; report: {night.folder('evaluation')}/report.html"


if __name__ == "__main__":
    raise SystemExit(main())
