"""Print the path of a night's report, one HTML file that opens offline, and open it in a browser.

watchnext report JOB.toml [--date DATE] [--open] [Beam options]
"""

from __future__ import annotations

import datetime as dt
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from pipelines.base import command_lines, console, paths
from pipelines.base.paths import Root
from pipelines.config.job_reader import open_job
from pipelines.night.errors import StageError, run_command
from transforms.core import files

parser = command_lines.report


def report_path(root: Root, date: dt.date | None) -> str:
    """Return the path of the report of a night; without a date, of the newest night that has one.

    Raises StageError if there is none; the message names the nights that have one.
    """
    with_report = [one for one in paths.nights(root) if files.exists(root.report(one))]
    if date is None and with_report:
        return root.report(with_report[-1])
    if date in with_report:
        return root.report(date)
    what = f"there is no report of the night of {date}" if date else "there is no report"
    others = f"nights with a report: {', '.join(map(str, with_report))}" if with_report else "run a night first"
    raise StageError(f"{what} in {root.path}; {others}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the path. Return 1 if there is no report, or if no browser could be started."""
    args, flags = parser().parse_known_args(argv)

    def work() -> int:
        path = report_path(Root(open_job(args.job, flags).storage.root), args.date)
        print(console.printable(path), flush=True)
        if args.open:
            _open_in_browser(path)
        return 0

    return run_command(work)


def _open_in_browser(path: str) -> None:
    """Open a report. Raises StageError if no browser could be started, or for a report on a remote file system."""
    if not files.is_local(path):
        raise StageError(f"--open: {path} is not on this machine: copy it to a local folder, and open the copy")
    if not webbrowser.open(Path(path).resolve().as_uri()):
        raise StageError("--open: no browser could be started on this machine: open the file yourself")


if __name__ == "__main__":
    raise SystemExit(main())
