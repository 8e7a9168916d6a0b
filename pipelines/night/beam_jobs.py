"""The Beam jobs of a night: on which runner they run, and under which names."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import apache_beam as beam

from pipelines.base import manifest
from pipelines.config.beam_options import EMBEDDED, pipeline_options, runner_name
from transforms.core import progress

MAX_THREADS = 4  # each holds a bucket in memory
Element = TypeVar("Element")


@dataclass(frozen=True)
class BeamJobs:
    """Create the Beam pipelines of a night's stages."""

    date: dt.date
    runner_config: str | None
    flags: tuple[str, ...]

    @property
    def runner(self) -> str:
        """The name of the runner that the options select."""
        return runner_name(self.runner_config, self.flags)

    @property
    def threads(self) -> int:
        """The number of user buckets that a worker processes at once. Runners other than the embedded one start
        several workers themselves."""
        return min(len(os.sched_getaffinity(0)), MAX_THREADS) if self.runner == EMBEDDED else 1

    def pipeline(self, stage: str) -> beam.Pipeline:
        """Return a Beam pipeline on the selected runner, with the options of a stage."""
        name = f"watchnext-{stage}-{self.date}-{manifest.new_attempt()}"
        return beam.Pipeline(options=pipeline_options(self.runner_config, self.flags, stage, name))

    def local_pipeline(self) -> beam.Pipeline:
        """Return a Beam pipeline that runs in this process, whatever runner the options select."""
        return beam.Pipeline(EMBEDDED, pipeline_options(self.runner_config, self.flags))

    def create(self, parts: Sequence[Element]) -> beam.PTransform:
        """Return a `beam.Create` of the parts of a stage's work. Workers report each part when it is done."""
        progress.expect(len(parts))
        return beam.Create(parts)
