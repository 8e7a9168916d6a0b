"""Run the nights of a range of dates in order, each as `nightly` would: what is complete is skipped.

    watchnext backfill JOB.toml --from DATE --to DATE [--keep-going] [--runner-config FILE] [Beam options]

A night older than the published one is made whole and left unpublished: what is served never moves backwards. The lock
is held night by night, so that a scheduled run may come between.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pipelines import nightly
from pipelines.base import console, process_signals
from pipelines.night.errors import run_command
from pipelines.night.stage import STAGES, arguments, night_from_args
from pipelines.runs import night_series, run_log


def parser() -> console.Parser:
    """The command's arguments; further ones go to Beam."""
    found = arguments("backfill", "Run the nights of a range of dates in order.", of_one_night=False)
    found.add_argument(
        "--from", dest="first", type=console.parse_date, required=True, metavar="DATE", help="the first night"
    )
    found.add_argument(
        "--to", dest="last", type=console.parse_date, required=True, metavar="DATE", help="the last night"
    )
    found.add_argument("--keep-going", action="store_true", help="go on after a night that failed")
    run_log.add_arguments(found)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the nights; the exit code is that of the first night that failed."""
    given = parser()
    args, flags = given.parse_known_args(argv)
    if args.first > args.last:
        given.error(f"--from {args.first} lies after --to {args.last}")

    def work(log: run_log.RunLog) -> int:
        night, dates = night_from_args(args, flags), night_series.dates_between(args.first, args.last)
        one = partial(nightly.run_with_reporting, job=args.job, stages=STAGES, log=log)
        codes = night_series.run(night, dates, one, log, keep_going=args.keep_going)
        return next((code for code in codes if code), 0)

    with process_signals.raise_stopped(), run_log.open_log(args.log_format) as log:
        return run_command(lambda: work(log), log.fail)


if __name__ == "__main__":
    raise SystemExit(main())
