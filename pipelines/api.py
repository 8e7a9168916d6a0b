"""watchnext from Python: run nights, and read what they publish as polars frames.

    from pipelines.api import open_job

    job = open_job("job.toml")
    job.run_night("2026-11-21")                  # what `watchnext nightly` does
    job.lists(long=True)                         # user_id, position, video_id, score
    job.vectors("videos")                        # video_id, label_count, title, ..., vector
    job.metrics()                                # system, metric, value, low, high, ...

`docs/notebook.py` is a notebook that uses all of it. Dates are `datetime.date` or ISO 8601. Without a date, the night
that is served is read. Errors are those of `pipelines.night.errors.EXPECTED_ERRORS`, with the message that the command
prints: `JobError` for a mistake in the job file, `StageError` for a night that cannot run or be read, and its subclass
`GateError` for a night that a gate stopped.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from pipelines import export, nightly
from pipelines.base import paths, process_signals, snapshot_store
from pipelines.config.job_reader import open_job as read_job
from pipelines.config.jobs import Job, JobError
from pipelines.night import night_results, privacy
from pipelines.night.errors import StageError, error_for_exit_code
from pipelines.night.night import Night, Outcome
from pipelines.night.stage import STAGES
from pipelines.reports import report_history
from pipelines.runs import run_log
from pipelines.serving.served_lists import FileLists
from transforms.core.bootstrap import PairedDifference
from transforms.evaluation.night_metrics import NightMetrics
from transforms.evaluation.user_metrics import MeasuredFigures

_METRICS = {
    "date": pl.Date,
    "system": pl.String,
    "slice": pl.String,
    "slice_value": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "served_minus_system": pl.Float64,
    "difference_low": pl.Float64,
    "difference_high": pl.Float64,
}


@dataclass(frozen=True, kw_only=True)
class OpenJob:
    """A job file that `open_job` has read and checked."""

    path: str
    settings: Job
    flags: tuple[str, ...] = ()  # Beam options of each night
    runner_config: str | None = None

    def run_night(self, date: dt.date | str) -> Outcome:
        """Run the night of a date, of events before 00:00 that day, and return how it ended.

        Complete stages are skipped, so a second call does nothing. Progress goes to the standard error. Raises
        GateError if a gate stopped the night, JobError for a setting that only a night can check, StageError if it
        failed otherwise, and KeyboardInterrupt if it was interrupted. The night that was served before then stays
        served.
        """
        night = Night(self.settings, _to_date(date), self.runner_config, self.flags)
        with process_signals.raise_stopped(), run_log.open_log("text") as log:
            end = nightly.run_with_reporting(night, job=self.path, stages=STAGES, log=log)
        if end.code > 128:
            raise KeyboardInterrupt(end.message)
        if end.code:
            raise error_for_exit_code(end.code)(end.message)
        return end

    def nights(self) -> list[dt.date]:
        """Return the dates of all nights with `metrics`, in order. Those beyond `storage.keep_nights` have no lists."""
        root = paths.Root(self.settings.storage.root)
        return [date for date in paths.nights(root) if report_history.metrics(Night(self.settings, date))]

    def lists(
        self, date: dt.date | str | None = None, *, users: Iterable[str] | None = None, long: bool = False
    ) -> pl.DataFrame:
        """Return the lists of all users, or of some: user_id, video_ids, scores (lists, best video first), and
        expected_seconds (list, null behind the ranked videos) if the lists are ranked.

        users: ids as in the logs; those without a list have no row. long: one row per user and video instead, with
        `position` from 1, `video_id` and `score`. Raises StageError if the night has no lists.
        """
        return self._table("lists", date, users, long=long)

    def vectors(
        self,
        of: Literal["users", "videos"] = "users",
        date: dt.date | str | None = None,
        *,
        users: Iterable[str] | None = None,
    ) -> pl.DataFrame:
        """Return vectors as lists of floats.

        Of users: user_id, vector; empty if none are served. Of videos, the most watched first: video_id, label_count,
        the columns of the catalogue, vector. The score of a video is the product of both. users: ids as in the logs.
        Raises StageError if the night has no lists, or if its video vectors were dropped.
        """
        if of not in ("users", "videos"):
            raise JobError(f"of = {of!r}: must be users or videos")
        if of == "videos" and users is not None:
            raise JobError("users: vectors of videos do not belong to users; leave it out")
        return self._table("vectors" if of == "users" else "videos", date, users, long=False)

    def metrics(self, date: dt.date | str | None = None) -> pl.DataFrame:
        """Return the figures of the night's held-out users, one row per system, slice and metric.

        date, system (`ranking` or `neighbours`: ours; the others: baselines), slice and slice_value (null: all users),
        metric, value, low and high (95 % interval, bootstrap over users), and served_minus_system with its paired
        interval difference_low and difference_high. Values that were not computed are null. Raises StageError if the
        night was not evaluated.
        """
        night = Night(self.settings, self._open(None).date if date is None else _to_date(date))
        found = night_results.metrics(night)
        if found is None:
            raise StageError(f"the night of {night.date} has no figures: run watchnext nightly --date {night.date}")
        return pl.DataFrame(list(_metric_rows(found)), schema=_METRICS, orient="row").with_columns(date=night.date)

    def _table(
        self, table: str, date: dt.date | str | None, users: Iterable[str] | None, *, long: bool
    ) -> pl.DataFrame:
        """Return the rows of a table of `watchnext export`, with the ids of `users` as they were given."""
        given = None if users is None else self._stored_ids(users)
        found = pl.concat(export.tables(self._open(date), self.settings, table, long=long, users=given))
        if given is None or "user_id" not in found.columns:
            return found
        return found.with_columns(pl.col("user_id").replace(given))

    def _open(self, date: dt.date | str | None) -> FileLists:
        return FileLists.open(self.settings) if date is None else FileLists.of_night(self.settings, _to_date(date))

    def _stored_ids(self, users: Iterable[str]) -> dict[str, str]:
        """Return user ids of the logs by the ids under which they are stored."""
        if isinstance(users, str):
            raise JobError(f"users = {users!r}: must be a list of ids")
        key_check = snapshot_store.newest_key_check(paths.Root(self.settings.storage.root).snapshots)
        return {privacy.stored_id(self.settings, user, key_check): user for user in users}


def open_job(path: str, *, flags: Sequence[str] = (), runner_config: str | None = None) -> OpenJob:
    """Read a job file. flags, runner_config: options for Beam, as those of `watchnext nightly`.

    Raises JobError, which names the setting, for a mistake in the file.
    """
    return OpenJob(path=path, settings=read_job(path, flags), flags=tuple(flags), runner_config=runner_config)


def _to_date(date: dt.date | str) -> dt.date:
    """Return a date. Raises JobError unless it is one."""
    try:
        return dt.date.fromisoformat(date) if isinstance(date, str) else date
    except ValueError:
        raise JobError(f"date = {date!r}: must have the form 2026-11-21") from None


def _metric_rows(metrics: NightMetrics) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `OpenJob.metrics`."""
    for system, measured in metrics.systems.items():
        yield from _rows_of(system, (None, None), measured, metrics.differences.get(system, {}))
    for kind, values in metrics.slices.items():
        for value, systems in values.items():
            for system, measured in systems.items():
                yield from _rows_of(system, (kind, value), measured, {})


def _rows_of(
    system: str,
    slice_and_value: tuple[str | None, str | None],
    measured: MeasuredFigures,
    differences: dict[str, PairedDifference | None],
) -> Iterator[tuple[Any, ...]]:
    for name, value in measured.figures.items():
        low, high = measured.intervals.get(name, (None, None))
        found = differences.get(name)
        difference = (found.value, found.low, found.high) if found else (None, None, None)
        yield None, system, *slice_and_value, name, value, low, high, *difference
