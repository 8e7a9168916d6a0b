"""The parts that all stages share: the night, the plan, the commit, and the command line.

A stage module has `plan(night)`, which says what it depends on without doing anything, and `run(night)`, which does the
work unless a manifest with the plan's fingerprint says that it was done.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zoneinfo import ZoneInfo

from pipelines.base import command_lines, console, lock, machine, manifest, paths, process_signals
from pipelines.base.command_lines import STAGES
from pipelines.base.manifest import Manifest, Outputs
from pipelines.config.beam_options import pipeline_options
from pipelines.config.jobs import JobError, load_job
from pipelines.night import publication_file
from pipelines.night.errors import StageError, is_disk_full, run_command
from pipelines.night.night import Night
from pipelines.night.outputs import OF_STAGE
from transforms.core.files import FileEntry

RUN_VARIABLE = "WATCHNEXT_RUN"  # tells a stage the id of the run it belongs to


@dataclass(frozen=True)
class Plan:
    """The inputs of a stage: earlier stages and settings. Equal plans give equal results."""

    stage: str
    inputs: dict[str, str]  # what -> digest
    settings: dict[str, Any]  # by table of the job file, and `date` if the result depends on it
    due: str = ""  # why the stage must run regardless of its manifest

    @property
    def fingerprint(self) -> str:
        return manifest.fingerprint(self.stage, manifest.FORMAT_VERSION, self.inputs, self.settings)

    def is_done(self, night: Night) -> bool:
        """Return whether the stage is complete with these inputs and settings, and its files are not damaged."""
        committed = manifest.load_readable(night.folder(self.stage))
        return committed is not None and self.matches(committed) and not self.rerun_reason(night, committed)

    def rerun_reason(self, night: Night, committed: Manifest) -> str:
        """Return why the stage must rerun although a manifest has the plan's fingerprint; empty if it does not."""
        if self.stage in night.force:
            return "it is forced"
        return next(manifest.find_damage(night.folder(self.stage), committed, deep=night.verify == self.stage), "")

    def matches(self, committed: Manifest | None) -> bool:
        return not self.due and committed is not None and committed.fingerprint == self.fingerprint


@dataclass(frozen=True)
class StageResult:
    """The result of a stage: files (names relative to its folder), outputs for later stages, and counts for people."""

    files: list[FileEntry]
    outputs: Outputs
    counts: dict[str, Any] = field(default_factory=dict)
    timed: list[str] = field(default_factory=list)  # files with durations, which differ each time


Work = Callable[[Night, str, str], StageResult]


def complete(night: Night, plan: Plan, work: Work, *, keep: str = "") -> Manifest:
    """Run a stage's `work(night, folder, attempt)` and commit it. Return the existing manifest if the plan is complete.

    Files in the folder that no manifest lists are removed first, except those whose path below it begins with `keep`.
    """
    publication_file.adopt(night.root)
    folder, extra_folders = night.folder(plan.stage), paths.EXTRA_FOLDERS.get(plan.stage, ())
    committed = manifest.load_readable(folder)
    if committed is not None and plan.matches(committed) and not plan.rerun_reason(night, committed):
        manifest.sweep(folder, committed, extra_folders)
        return committed
    if committed is not None and committed.has_fixed_names:
        manifest.revoke(folder)  # this attempt overwrites listed files: from here they may come from either attempt
        committed = None
    manifest.sweep(folder, committed, extra_folders, keep=keep)
    began, before, attempt = time.monotonic(), machine.resource_use(), manifest.new_attempt()
    result = work(night, folder, attempt)
    after = machine.resource_use()
    done = Manifest(
        stage=plan.stage,
        date=night.date.isoformat(),
        fingerprint=plan.fingerprint,
        files=sorted(result.files, key=lambda entry: entry.name),
        outputs=result.outputs.model_dump(mode="json"),
        counts=result.counts,
        seconds=round(time.monotonic() - began, 3),
        processor_seconds=round(after.processor_seconds - before.processor_seconds, 3),
        peak_bytes=after.peak_bytes,
        read_bytes=after.read_bytes - before.read_bytes,
        written_bytes=after.written_bytes - before.written_bytes,
        attempt=attempt,
        inputs=plan.inputs,
        settings=json.loads(json.dumps(plan.settings, default=str)),
        run=os.environ.get(RUN_VARIABLE, ""),
        timed=result.timed,
    )
    manifest.commit(folder, done)
    return done


def night_from_args(args: argparse.Namespace, flags: Sequence[str]) -> Night:
    job = load_job(args.job)
    date = getattr(args, "date", None) or dt.datetime.now(ZoneInfo(job.logs.time_zone)).date()
    pipeline_options(args.runner_config, flags)  # a mistyped option fails here, before anything starts
    reingest = tuple(sorted(set(getattr(args, "reingest", None) or ())))
    if reingest and reingest[-1] > date:
        raise JobError(f"--reingest {reingest[-1]} lies after the night of {date}: give a day up to it")
    return Night(
        job,
        date,
        args.runner_config,
        tuple(flags),
        reingest=reingest,
        reread=getattr(args, "reread", False),
        keep_old_readings=getattr(args, "keep_old_readings", False),
        force_publish=getattr(args, "force_publish", None) or "",
        force=tuple(getattr(args, "force", None) or ()),
        verify=getattr(args, "only", None) or getattr(args, "first", None) or "",
    )


def discard_damaged(night: Night) -> list[str]:
    """Remove the night's damaged manifests, so that their stages run again. Return a message for each."""
    damaged = [stage for stage in STAGES if manifest.discard_damaged(night.folder(stage), OF_STAGE[stage])]
    return [f"the manifest of stage {stage} was damaged and is removed: the stage is not complete" for stage in damaged]


class Stage(Protocol):
    """The module of a stage. The first line of its docstring describes its command."""

    def plan(self, night: Night) -> Plan:
        """Return what the stage's result depends on. Change nothing."""

    def run(self, night: Night) -> None:
        """Run the stage and commit its result, unless a manifest with the plan's fingerprint exists."""


@runtime_checkable
class StageWithArguments(Stage, Protocol):
    """The module of a stage whose command has further arguments."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments to the parser of the command."""


def load_stage(name: str) -> Stage:
    """Import the module of a stage, one of `STAGES`."""
    return importlib.import_module(f"pipelines.{name}")


def _name_of(stage: Stage) -> str:
    """Return the name of a stage's module, also if it was started as a command and is `__main__`."""
    return Path(getattr(stage, "__file__", "stage")).stem


def stage_parser(stage: Stage) -> console.Parser:
    """Return the parser of a stage's command. Arguments that it does not know are options of Beam."""
    parser = command_lines.of_nights(_name_of(stage), str(stage.__doc__).splitlines()[0])
    again = "run the stage even if it is complete"
    parser.add_argument("--force", action="store_const", const=STAGES, default=(), help=again)
    if isinstance(stage, StageWithArguments):
        stage.add_arguments(parser)
    return parser


def stage_main(stage: Stage, argv: Sequence[str] | None = None) -> int:
    """Run one stage and return the exit code.

    Usage: `python -m pipelines.STAGE JOB.toml [--date DATE] [--force] [--runner-config FILE] [Beam options]`.
    """
    args, flags = stage_parser(stage).parse_known_args(argv)
    process_signals.exit_with_parent()

    def work() -> int:
        night = night_from_args(args, flags)
        try:
            with lock.hold(night.root.lock):
                # in a nightly, the nightly has already removed them
                for line in () if process_signals.is_stage() else discard_damaged(night):
                    print(f"watchnext: {line}", file=sys.stderr)
                stage.run(night)
        except Exception as error:
            if not is_disk_full(error):
                raise
            fullest = machine.fullest_folder(night.root.path)
            raise StageError(
                f"stage {_name_of(stage)}: no space left on device below {fullest}: free some space, then run the same "
                "command again"
            ) from error
        return 0

    with process_signals.raise_stopped():
        code = run_command(work)
    if code and process_signals.is_stage():
        console.silence_stderr()  # output of libraries at exit must not follow the message
    if code > 128:  # stopped by a signal: exit without waiting for Beam's threads
        sys.stderr.flush()
        os._exit(code)
    return code
