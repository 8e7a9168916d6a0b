"""The parts that all stages share: the night, the plan, the commit, and the command line.

A stage module has `plan(night)`, which says what it depends on without doing anything, and `run(night)`, which does the
work unless a manifest with the plan's fingerprint says that it was done.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zoneinfo import ZoneInfo

import apache_beam as beam
import polars as pl

from pipelines.base import console, lock, machine, manifest, paths, process_signals, snapshot_store
from pipelines.base.manifest import Manifest, Outputs, OutputsT
from pipelines.config.beam_options import EMBEDDED, pipeline_options, runner_name
from pipelines.config.jobs import Job, JobError, load_job
from pipelines.night import publication_file
from pipelines.night.errors import EXIT_CODES, StageError, is_disk_full, run_command
from pipelines.night.outputs import OF_STAGE, IngestOutputs
from transforms.core import days, files, progress
from transforms.core.files import FileEntry
from transforms.logs.event_window import BucketFiles, Holdout, Window

MOST_THREADS = 4  # each holds a bucket in memory
RUN_VARIABLE = "WATCHNEXT_RUN"  # tells a stage the id of the run it belongs to
STAGES = ("ingest", "vocabulary", "examples", "train", "index", "neighbours", "ranking", "evaluation", "publish")


@dataclass(frozen=True)
class Night:
    """One date of one job: its times and its paths."""

    job: Job
    date: dt.date
    runner_config: str | None = None
    flags: tuple[str, ...] = ()  # Beam's own
    reingest: tuple[dt.date, ...] = ()  # days whose events are to be replaced
    reread: bool = False  # whether all raw logs are to be read again
    keep_old_readings: bool = False  # whether rows in the store stay that were read under other settings
    force_publish: str = ""  # the reason to publish it whatever gates say
    force: tuple[str, ...] = ()  # stages to run again even if they are complete
    verify: str = ""  # the stage whose files are read whole to tell whether it is complete

    @property
    def root(self) -> paths.Root:
        return paths.Root(self.job.storage.root)

    @cached_property
    def end(self) -> dt.datetime:
        """00:00 of DATE: the end of the window (exclusive)."""
        return self._midnight(self.date)

    @cached_property
    def start(self) -> dt.datetime:
        """The start of the window (inclusive)."""
        return self._midnight(self.date - dt.timedelta(days=self.job.examples.window_days))

    @cached_property
    def holdout_start(self) -> dt.datetime:
        """The start of the held-out days: models do not learn from later events of held-out users."""
        return self._midnight(self.date - dt.timedelta(days=self.job.examples.holdout_days))

    @cached_property
    def future(self) -> dt.datetime:
        """Events from here on are refused: DATE itself may have begun when the logs were read, the day after has
        not."""
        return self._midnight(self.date + dt.timedelta(days=1))

    def span(self, day: dt.date) -> tuple[dt.datetime, dt.datetime]:
        """Return the start (inclusive) and the end (exclusive) of a day."""
        return days.day_bounds(day, self.job.logs.time_zone)

    def _midnight(self, day: dt.date) -> dt.datetime:
        return days.midnight(day, self.job.logs.time_zone)

    @property
    def window(self) -> Window:
        return Window(
            start=self.start,
            end=self.end,
            time_zone=self.job.logs.time_zone,
            max_events_per_day=self.job.examples.max_events_per_day,
        )

    @property
    def holdout(self) -> Holdout:
        settings = self.job.examples
        return Holdout(start=self.holdout_start, share=settings.holdout_users, seed=settings.seed)

    @cached_property
    def snapshot(self) -> snapshot_store.Snapshot:
        """The snapshot of the store that this night's ingest committed."""
        return snapshot_store.load(snapshot_store.path_of(self.root.snapshots, self.outputs(IngestOutputs).snapshot))

    def window_digest(self, tables: Sequence[str] = ("watches", "searches")) -> str:
        """Return a digest of the window's events in some tables, of the users and of the bucket count."""
        digests = [f.file.digest for f in self.snapshot.files_between(self.start, self.end) if f.table in tables]
        users = [f.digest for f in self.require("ingest").named("users/")]
        return manifest.fingerprint(self.snapshot.buckets, sorted(digests), users)

    def buckets(self, start: dt.datetime | None = None) -> list[BucketFiles]:
        """Return, for each user bucket, its files of the window, or of the part of the window from `start` on."""
        users, hidden = self._by_bucket("users/"), self._by_bucket("hidden/")
        events: dict[tuple[str, int], list[str]] = {}
        for file in self.snapshot.files_between(start or self.start, self.end):
            events.setdefault((file.table, file.bucket), []).append(snapshot_store.path_to_read(self.root.store, file))
        return [
            BucketFiles(
                bucket=bucket,
                watches=tuple(events.get(("watches", bucket), ())),
                searches=tuple(events.get(("searches", bucket), ())),
                users=tuple(users.get(bucket, ())),
                hidden=tuple(hidden.get(bucket, ())),
                impressions=tuple(events.get(("impressions", bucket), ())),
            )
            for bucket in range(self.snapshot.buckets)
        ]

    def _by_bucket(self, folder: str) -> dict[int, list[str]]:
        """Return the paths, by bucket, of the files that ingest wrote to one of its folders."""
        found: dict[int, list[str]] = {}
        for path in manifest.entry_paths(self.require("ingest").named(folder), self.folder("ingest")):
            found.setdefault(paths.shard_index(path), []).append(path)
        return found

    def create(self, parts: Sequence[Any]) -> beam.PTransform:
        """Return a collection of the parts of a stage's work. Workers report the progress part by part."""
        progress.expect(len(parts))
        return beam.Create(parts)

    def catalogue(self) -> str | None:
        """Return the path of the night's catalogue, or None if the logs have none."""
        listed = manifest.entry_paths(self.require("ingest").named("videos-"), self.folder("ingest"))
        return listed[0] if listed else None

    def titles(self, video_ids: Iterable[str]) -> dict[str, str]:
        """Return video_id -> title of the videos that have a title in the night's catalogue."""
        path = self.catalogue()
        if path is None:
            return {}
        wanted = pl.DataFrame({"video_id": list(video_ids)}, schema={"video_id": pl.String})
        found = files.read_parquet(path, ["video_id", "title"]).join(wanted, on="video_id", how="semi").drop_nulls()
        return dict(found.iter_rows())

    def folder(self, stage: str) -> str:
        return self.root.stage(self.date, stage)

    def require(self, stage: str) -> Manifest:
        return manifest.require(self.folder(stage), stage)

    def outputs(self, kind: type[OutputsT]) -> OutputsT:
        """Return what a stage left for later stages. Raises ManifestError if the stage is not complete, or if its
        manifest has a missing or unknown field."""
        return self.require(kind.stage).read(kind)

    @property
    def runner(self) -> str:
        """The name of the configured runner."""
        return runner_name(self.runner_config, self.flags)

    @property
    def threads(self) -> int:
        """How many user buckets a worker should work on at once: those of other runners come in numbers of their
        own."""
        return min(len(os.sched_getaffinity(0)), MOST_THREADS) if self.runner == EMBEDDED else 1

    def pipeline(self, stage: str) -> beam.Pipeline:
        """Return a Beam pipeline on the configured runner, with the options of the stage."""
        name = f"watchnext-{stage}-{self.date}-{manifest.new_attempt()}"
        return beam.Pipeline(options=pipeline_options(self.runner_config, self.flags, stage, name))

    def pipeline_here(self) -> beam.Pipeline:
        """Return a Beam pipeline that runs in this process, whichever runner is configured."""
        return beam.Pipeline(EMBEDDED, pipeline_options(self.runner_config, self.flags))


@dataclass(frozen=True)
class Plan:
    """The inputs of a stage: earlier stages and settings. Equal plans give equal results."""

    stage: str
    inputs: dict[str, str]  # what -> digest
    settings: dict[str, Any]  # by table of the job file, and `date` where the result depends on it
    due: str = ""  # what there is to do whatever was done before

    @property
    def fingerprint(self) -> str:
        return manifest.fingerprint(self.stage, manifest.FORMAT_VERSION, self.inputs, self.settings)

    def is_done(self, night: Night) -> bool:
        """Return whether the stage is complete with these inputs and settings, and its files are not damaged."""
        found = manifest.load_readable(night.folder(self.stage))
        return found is not None and self.is_met_by(found) and not self.again(night, found)

    def again(self, night: Night, found: Manifest) -> str:
        """Return why the stage runs again although a manifest has the plan's fingerprint; empty if it does not."""
        if self.stage in night.force:
            return "it is forced"
        return next(manifest.find_damage(night.folder(self.stage), found, deep=night.verify == self.stage), "")

    def is_met_by(self, found: Manifest | None) -> bool:
        return not self.due and found is not None and found.fingerprint == self.fingerprint


@dataclass(frozen=True)
class StageResult:
    """The result of a stage: files (names relative to its folder), outputs for later stages, and counts for people."""

    files: list[FileEntry]
    outputs: Outputs
    counts: dict[str, Any] = field(default_factory=dict)
    timed: list[str] = field(default_factory=list)  # files that tell how long things took, which differs each time


def complete(night: Night, plan: Plan, work: Callable[[str, str], StageResult], *, keep: str = "") -> Manifest:
    """Run a stage's `work(folder, attempt)` and commit it. Return the existing manifest if the plan is complete.

    Files in the folder that no manifest lists are removed first, except those whose path below it begins with `keep`.
    """
    publication_file.adopt(night.root)
    folder, beside = night.folder(plan.stage), paths.EXTRA_FOLDERS.get(plan.stage, ())
    found = manifest.load_readable(folder)
    if found is not None and plan.is_met_by(found) and not plan.again(night, found):
        manifest.sweep(folder, found, beside)
        return found
    if found is not None and found.has_fixed_names:
        manifest.revoke(folder)  # this attempt writes over files it lists: from here on they may be of either
        found = None
    manifest.sweep(folder, found, beside, keep=keep)
    began, before, attempt = time.monotonic(), machine.resource_use(), manifest.new_attempt()
    result = work(folder, attempt)
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
        attempt=attempt,
        inputs=plan.inputs,
        settings=json.loads(json.dumps(plan.settings, default=str)),
        run=os.environ.get(RUN_VARIABLE, ""),
        timed=result.timed,
    )
    manifest.commit(folder, done)
    return done


def arguments(command: str, description: str = "", *, of_one_night: bool = True) -> console.Parser:
    """Return a parser of the arguments that all commands on nights have. Unknown arguments are options of Beam."""
    parser = console.Parser(command, description, epilog=EXIT_CODES)
    parser.add_argument("job", metavar="JOB.toml")
    if of_one_night:
        parser.add_argument(
            "--date", type=console.parse_date, default=None, help="the night, YYYY-MM-DD (default: today)"
        )
    parser.add_argument("--runner-config", metavar="FILE", help="Beam options as TOML: a file, or a built-in name")
    return parser


def night_from_args(args: argparse.Namespace, flags: Sequence[str]) -> Night:
    job = load_job(args.job)
    date = getattr(args, "date", None) or dt.datetime.now(ZoneInfo(job.logs.time_zone)).date()
    pipeline_options(args.runner_config, flags)  # a mistyped option fails here, before anything starts
    force = tuple(getattr(args, "force", None) or ())
    verify = getattr(args, "only", None) or getattr(args, "first", None) or ""
    reingest = tuple(sorted(set(getattr(args, "reingest", None) or ())))
    if reingest and reingest[-1] > date:
        raise JobError(f"--reingest {reingest[-1]} lies after the night of {date}: give a day up to it")
    forced = getattr(args, "force_publish", None) or ""
    return Night(
        job,
        date,
        args.runner_config,
        tuple(flags),
        reingest=reingest,
        reread=getattr(args, "reread", False),
        keep_old_readings=getattr(args, "keep_old_readings", False),
        force_publish=forced,
        force=force,
        verify=verify,
    )


def discard_damaged(night: Night) -> list[str]:
    """Remove the night's damaged manifests, so that their stages run again. Return a message for each."""
    found = [stage for stage in STAGES if manifest.discard_damaged(night.folder(stage), OF_STAGE[stage])]
    return [f"the manifest of stage {stage} was damaged and is removed: the stage is not complete" for stage in found]


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
    parser = arguments(_name_of(stage), str(stage.__doc__).splitlines()[0])
    again = "run the stage even if it is complete"
    parser.add_argument("--force", action="store_const", const=STAGES, default=(), help=again)
    if isinstance(stage, StageWithArguments):
        stage.add_arguments(parser)
    return parser


@contextlib.contextmanager
def _reporting_a_full_disk(night: Night, stage: str) -> Iterator[None]:
    """Raise StageError instead of an error that was caused by a full disk, from any library."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise StageError(
            f"stage {stage}: no space left on device below {machine.fullest_folder(night.root.path)}: free some space, "
            "then run the same command again"
        ) from error


def stage_main(stage: Stage, argv: Sequence[str] | None = None) -> int:
    """Run one stage: `python -m pipelines.STAGE JOB.toml [--date DATE] [Beam options]`. Return the exit code."""
    args, flags = stage_parser(stage).parse_known_args(argv)
    process_signals.exit_with_parent()

    def work() -> int:
        night = night_from_args(args, flags)
        with _reporting_a_full_disk(night, _name_of(stage)), lock.hold(night.root.lock):
            for line in () if process_signals.is_stage() else discard_damaged(night):  # the nightly has just done so
                print(f"watchnext: {line}", file=sys.stderr)
            stage.run(night)
        return 0

    with process_signals.raise_stopped():
        code = run_command(work)
    if code and process_signals.is_stage():
        console.silence_stderr()  # what libraries write while the process ends is no part of the message
    if code > 128:  # stopped: threads of Beam, which know nothing of it, would be waited for
        sys.stderr.flush()
        os._exit(code)
    return code
