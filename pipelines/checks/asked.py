"""What `watchnext doctor` was asked to look at. Imports the standard library alone until a property is read."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.checks.inspected_logs import InspectedLogs
    from pipelines.night.stage import Night


@dataclass(frozen=True, kw_only=True)
class DoctorRequest:
    """What doctor was asked to look at. The properties need the project's packages, and raise where they are broken."""

    job: str  # path
    date: dt.date | None = None  # today, if not given
    runner_config: str | None = None
    flags: tuple[str, ...] = ()  # Beam's own
    runner_seconds: float = 120.0  # that the runner's job may take
    price_per_core_hour: float | None = None

    @cached_property
    def night(self) -> Night:
        """The night it would be. Raises JobError, OptionError."""
        from zoneinfo import ZoneInfo

        from pipelines.config.beam_options import pipeline_options
        from pipelines.config.jobs import load_job
        from pipelines.night.stage import Night

        job = load_job(self.job)
        pipeline_options(self.runner_config, self.flags)
        date = self.date or dt.datetime.now(ZoneInfo(job.logs.time_zone)).date()
        return Night(job, date, self.runner_config, self.flags)

    @cached_property
    def root_trouble(self) -> str:
        """Why the root cannot be used; empty where it can. What is not there is not asked again."""
        from pipelines.checks.root_access import trouble

        return trouble(self.night.job.storage.root)

    @cached_property
    def logs(self) -> InspectedLogs:
        """The job's logs, looked at once for all checks."""
        from pipelines.checks.inspected_logs import InspectedLogs

        return InspectedLogs.at(self.night, with_store=not self.root_trouble)
