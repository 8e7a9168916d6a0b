"""Serve an earlier night again, and withdraw the nights after it: they are no longer used for warm starts or gate
comparisons, until a new run publishes one of them.

    watchnext rollback JOB.toml [--to DATE] [--runner-config FILE] [Beam options]

The night's last published lists are served, even if its stages ran again later; for a night that was never published,
the lists that passed its gates. A sink that no longer contains them is loaded again from the files. With the date of
the served night, this is the only effect, which restores a sink that lost its content.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from dataclasses import replace

from pipelines.base import command_lines, console, lock, paths, process_signals
from pipelines.night import publication_file
from pipelines.night.errors import StageError, run_command
from pipelines.night.night import Night
from pipelines.night.stage import night_from_args
from pipelines.reports import nights_page
from pipelines.runs import openmetrics
from pipelines.serving import publication

parser = command_lines.rollback


def main(argv: Sequence[str] | None = None) -> int:
    """Publish an earlier night again. Return one of the exit codes of `command_lines.EXIT_CODES`."""
    args, flags = parser().parse_known_args(argv)

    def work() -> int:
        night = night_from_args(args, flags)
        with lock.hold(night.root.lock):
            print(console.printable(rollback(night, args.to)), file=sys.stderr)
        return 0

    with process_signals.raise_stopped():
        return run_command(work)


def rollback(night: Night, to: dt.date | None) -> str:
    """Serve the night `to`, or if it is None, the newest night before the served one. Return a message.

    Raises StageError if there is no such night, or if it never passed its gates.
    """
    publication.finish(night)
    before = publication_file.served_date(night.root)
    if before is None:
        raise StageError(f"nothing is published in {night.root.path}: there is nothing to withdraw")
    target = replace(night, date=_previous(night, before) if to is None else to)
    if publication_file.accepted(night.root, target.date) is None:
        others = ", ".join(date.isoformat() for date in _dates(night))
        raise StageError(
            f"the night of {target.date} does not exist, or never reached stage publish; nights to serve: {others}"
        )
    withdrawn = [date.isoformat() for date in paths.nights(night.root) if target.date < date <= before]
    publication.serve(target, withdrawn=withdrawn)
    for problem in (*nights_page.refresh(target), openmetrics.write(target)):
        if problem:
            print(console.printable(f"watchnext: warning: {problem}"), file=sys.stderr)
    others = f"withdrawn: {', '.join(withdrawn)}" if withdrawn else "none withdrawn"
    return f"the night of {target.date} is served again; {others}"


def _previous(night: Night, before: dt.date) -> dt.date:
    """Return the newest night before a date that could be served. Raises StageError if there is none."""
    dates = [date for date in _dates(night) if date < before]
    if not dates:
        raise StageError(f"there is no night before {before} to go back to: run an earlier one, or name it with --to")
    return dates[-1]


def _dates(night: Night) -> list[dt.date]:
    """Return the nights that could be served, in order."""
    withdrawn = publication_file.withdrawn(night.root)
    dates = (date for date in paths.nights(night.root) if date.isoformat() not in withdrawn)
    return [date for date in dates if publication_file.accepted(night.root, date) is not None]


if __name__ == "__main__":
    raise SystemExit(main())
