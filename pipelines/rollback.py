"""An earlier night is served again, and those after it are taken back: no model goes on from them, no gate compares
with them, until one of them is published by a new run.

    watchnext rollback JOB.toml [--to DATE] [--runner-config FILE] [Beam options]

Served are the lists that the night was last published with, whatever its stages left since; of a night that was never
published, those that passed its gates. What a sink no longer holds of them is loaded again from the files. With the
date that is served already, that is all that happens: the way back for a sink that lost its content.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from dataclasses import replace

from pipelines.base import console, lock, process_signals
from pipelines.night import night_list, publication_file, warm_start_base
from pipelines.night.errors import StageError, run_command
from pipelines.night.stage import Night, arguments, night_from_args
from pipelines.reports import nights_page
from pipelines.runs import openmetrics
from pipelines.serving import publication


def main(argv: Sequence[str] | None = None) -> int:
    """Publish an earlier night again; the exit codes are those of `errors.EXIT_CODES`."""
    parser = arguments("rollback", "Publish an earlier night again, and take back those after it.", of_one_night=False)
    parser.add_argument(
        "--to", type=console.parse_date, default=None, metavar="DATE", help="the night (default: the one before)"
    )
    args, flags = parser.parse_known_args(argv)

    def work() -> int:
        night = night_from_args(args, flags)
        with lock.hold(night.root.lock):
            print(console.printable(rollback(night, args.to)), file=sys.stderr)
        return 0

    with process_signals.raise_stopped():
        return run_command(work)


def rollback(night: Night, to: dt.date | None) -> str:
    """Serve the night `to` (none: the newest one before what is served); what was done, in a line.

    Raises StageError where there is no such night or it was never good enough to be published.
    """
    publication.finish(night)
    before = publication_file.served_date(night.root)
    if before is None:
        raise StageError(f"nothing is published in {night.root.path}: there is nothing to take back")
    of = replace(night, date=_chosen(night, before) if to is None else to)
    if not _was_published(of):
        others = ", ".join(date.isoformat() for date in _dates(night))
        raise StageError(f"the night of {of.date} is not there, or never came to stage publish; there are {others}")
    taken_back = [date.isoformat() for date in night_list.nights(night.root) if date > of.date and date <= before]
    publication.serve(of, withdrawn=taken_back)
    for trouble in (*nights_page.refresh(of), openmetrics.refresh(of)):
        if trouble:
            print(console.printable(f"watchnext: warning: {trouble}"), file=sys.stderr)
    told = f"taken back: {', '.join(taken_back)}" if taken_back else "none taken back"
    return f"the night of {of.date} is served again; {told}"


def _chosen(night: Night, before: dt.date) -> dt.date:
    """The newest night before one that could be served."""
    found = [date for date in _dates(night) if date < before]
    if not found:
        raise StageError(f"no night before {before} is left to go back to: run an earlier one, or name it with --to")
    return found[-1]


def _dates(night: Night) -> list[dt.date]:
    """The nights that could be served, in order."""
    out = warm_start_base.withdrawn(night.root)
    dates = (date for date in night_list.nights(night.root) if date.isoformat() not in out)
    return [date for date in dates if _was_published(replace(night, date=date))]


def _was_published(night: Night) -> bool:
    return publication_file.accepted(night.root, night.date) is not None


if __name__ == "__main__":
    raise SystemExit(main())
