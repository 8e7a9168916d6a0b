"""Run the nights of a range of dates in order, each as `nightly` does. Complete stages are skipped.

    watchnext backfill JOB.toml --from DATE --to DATE [--keep-going] [--runner-config FILE] [Beam options]

A night older than the published one is completed but not published: the served night never moves backwards. The lock is
held for one night at a time, so that a scheduled run can start in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pipelines import nightly
from pipelines.base import command_lines, process_signals
from pipelines.night.errors import run_command
from pipelines.night.stage import STAGES, night_from_args
from pipelines.runs import night_series, run_log

parser = command_lines.backfill


def main(argv: Sequence[str] | None = None) -> int:
    """Run the nights. Return the exit code of the first night that failed, or 0."""
    given = parser()
    args, flags = given.parse_known_args(argv)
    if args.first > args.last:
        given.error(f"--from {args.first} is after --to {args.last}")

    def work(log: run_log.RunLog) -> int:
        night, dates = night_from_args(args, flags), night_series.dates_between(args.first, args.last)
        one = partial(nightly.run_with_reporting, job=args.job, stages=STAGES, log=log)
        codes = night_series.run(night, dates, one, log, keep_going=args.keep_going)
        return next((code for code in codes if code), 0)

    with process_signals.raise_stopped(), run_log.open_log(args.log_format) as log:
        return run_command(lambda: work(log), log.fail)


if __name__ == "__main__":
    raise SystemExit(main())
