"""One date of one job: the value that every stage and command works on.

night.dates.window            the moments that it learns from
night.ingested.buckets()      what stage ingest left of the logs
night.beam.pipeline("index")  Beam on the selected runner
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pipelines.base import manifest, paths
from pipelines.base.manifest import Manifest, OutputsT
from pipelines.config.jobs import Job
from pipelines.night.dates import NightDates
from pipelines.night.ingested import Ingested
from pipelines.night.outputs import VocabularyOutputs
from trainer.config import AUTO
from transforms.logs.event_window import Holdout

if TYPE_CHECKING:
    from pipelines.night.beam_jobs import BeamJobs


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a night ended."""

    run: str
    date: str
    code: int  # the exit code
    message: str
    seconds: float


@dataclass(frozen=True)
class Night:
    """One date of one job, and the options of the command that runs it."""

    job: Job
    date: dt.date
    runner_config: str | None = None
    flags: tuple[str, ...] = ()  # Beam options
    reingest: tuple[dt.date, ...] = ()  # days whose events are replaced
    reread: bool = False  # read all raw logs again
    keep_old_readings: bool = False  # keep stored rows that were read under other settings
    force_publish: str = ""  # the reason to publish in spite of failed gates
    force: tuple[str, ...] = ()  # stages that run even if they are complete
    verify: str = ""  # the stage whose files are read whole to decide whether it is complete

    @property
    def holdout(self) -> Holdout:
        """Which users are held out, and from which moment.

        Raises ManifestError before stage vocabulary is complete if `examples.holdout_users` is "auto".
        """
        share = self.job.examples.holdout_users
        if share == AUTO:
            share = self.outputs(VocabularyOutputs).holdout_share
        return self.holdout_of(share)

    def holdout_of(self, share: float) -> Holdout:
        """Return the holdout of a share of users."""
        return Holdout(start=self.dates.holdout_start, share=share, seed=self.job.examples.seed)

    @property
    def root(self) -> paths.Root:
        """Where the job keeps its store and nights."""
        return paths.Root(self.job.storage.root)

    @cached_property
    def dates(self) -> NightDates:
        """The moments of the night."""
        return NightDates(self.date, self.job.logs.time_zone, self.job.examples)

    @cached_property
    def beam(self) -> BeamJobs:
        """The Beam jobs of the night."""
        from pipelines.night.beam_jobs import BeamJobs  # imports Beam, which takes a second

        return BeamJobs(self.date, self.runner_config, self.flags)

    @cached_property
    def ingested(self) -> Ingested:
        """What stage ingest left. Raises ManifestError when it is read before ingest is complete."""
        return Ingested(self.root, self.date, self.dates)

    def folder(self, stage: str) -> str:
        """Return the folder of a stage."""
        return self.root.stage(self.date, stage)

    def require(self, stage: str) -> Manifest:
        """Return the manifest of a stage. Raises ManifestError if the stage is not complete."""
        return manifest.require(self.folder(stage), stage)

    def outputs(self, kind: type[OutputsT]) -> OutputsT:
        """Return what a stage left for later stages.

        Raises ManifestError if the stage is not complete, or if its manifest has a missing or unknown field.
        """
        return self.require(kind.stage).read(kind)
