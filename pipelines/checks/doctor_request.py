"""What `watchnext doctor` is asked to check. Imports only the standard library until a property is read."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.checks.timeouts import with_timeout

if TYPE_CHECKING:
    from pipelines.checks.inspected_logs import InspectedLogs
    from pipelines.night.night import Night

ANSWER_SECONDS = 30.0  # for a remote root


@dataclass(frozen=True, kw_only=True)
class DoctorRequest:
    """The arguments of `watchnext doctor`. The properties import the project, and raise if it is broken."""

    job: str  # path
    date: dt.date | None = None  # None: today
    runner_config: str | None = None
    flags: tuple[str, ...] = ()  # Beam's own
    runner_seconds: float = 120.0  # time limit of the runner's job
    price_per_core_hour: float | None = None

    @cached_property
    def night(self) -> Night:
        """Return the night that would run. Raises JobError, OptionError."""
        from zoneinfo import ZoneInfo

        from pipelines.config.beam_options import pipeline_options
        from pipelines.config.jobs import load_job
        from pipelines.night.night import Night

        job = load_job(self.job)
        pipeline_options(self.runner_config, self.flags)
        date = self.date or dt.datetime.now(ZoneInfo(job.logs.time_zone)).date()
        return Night(job, date, self.runner_config, self.flags)

    @cached_property
    def root_problem(self) -> str:
        """Return why the root cannot be used; empty if it can. Probed once, because a probe may time out."""
        return write_problem(self.night.job.storage.root)

    @cached_property
    def logs(self) -> InspectedLogs:
        """Return the job's logs, inspected once for all checks."""
        from pipelines.checks.inspected_logs import InspectedLogs

        return InspectedLogs.inspect(self.night, with_store=not self.root_problem)


def write_problem(path: str) -> str:
    """Return why a root cannot be written to; empty if it can.

    Checks the permissions of a local folder; writes and removes a small file on any other file system.
    """
    from transforms.core import files

    def probe() -> None:
        name = files.join(path, f"doctor-{os.getpid()}")
        files.replace_file(name, b"a probe of watchnext doctor; may be removed")
        files.remove_files([name])

    try:
        if not files.is_local(path):
            with_timeout(ANSWER_SECONDS, probe)
            return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    folder = Path(path)
    while not folder.exists():
        folder = folder.parent
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return ""
    return f"this user may not write to {folder}" if folder.is_dir() else f"{folder} is a file"
