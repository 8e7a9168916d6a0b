"""`watchnext import NAME PATH OUT`: write the log tables of a public data set, and a job file for a night on them.

    OUT/watches/2022-04-08.parquet   user_id, video_id, time, completed; watch_seconds and video_seconds if published
    OUT/videos.parquet, users.parquet   if the data set describes them
    OUT/truth.parquet                with --split: user_id, video_id, the watches that lists are scored on
    OUT/truth_validation.parquet     with some splits: those to choose settings on
    OUT/job.toml

PATH is the folder of the unpacked files. docs/data-sets.md lists the data sets.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from zoneinfo import available_timezones

from tqdm import tqdm

from pipelines.base import command_lines, console, process_signals
from pipelines.datasets.data_set import DataSet, EventColumns, Request
from pipelines.datasets.importing import Result, import_data_set
from pipelines.datasets.registry import DATA_SETS
from pipelines.datasets.splits import Split, parse_split
from pipelines.datasets.tables import DataSetError
from pipelines.night.errors import run_command

_EVENT_OPTIONS = ("user", "video", "time", "rating", "completed", "watch_seconds", "video_seconds", "time_unit")


parser = command_lines.import_logs


def main(argv: Sequence[str] | None = None) -> int:
    """Import a data set and print the command that runs a night on it. Return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        args = parser().parse_args(arguments)
        if args.name not in DATA_SETS:
            raise DataSetError(f"there is no data set {args.name!r}; the data sets are {', '.join(DATA_SETS)}")
        try:
            _run(DATA_SETS[args.name], args)
        except FileExistsError as error:
            raise DataSetError(str(error)) from error
        except process_signals.Stopped as stopped:
            print("watchnext: stopped by a signal; nothing was written", file=sys.stderr)
            return stopped.code
        return 0

    with process_signals.raise_stopped():
        return run_command(work)


def _run(data_set: DataSet, args: argparse.Namespace) -> None:
    request, split = _request(data_set, args)
    with tqdm(desc="import", unit=" rows", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        result = import_data_set(
            data_set, args.path, args.out, request=request, split=split, report=lambda rows: bar.update(rows - bar.n)
        )
    print(console.printable(_summary(result, args.out)))


def _request(data_set: DataSet, args: argparse.Namespace) -> tuple[Request, Split]:
    given = {name: value for name in _EVENT_OPTIONS if (value := getattr(args, name)) is not None}
    if args.time_zone is not None:
        given["time_zone"] = args.time_zone
    if given and not data_set.takes_columns:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise DataSetError(f"{options}: only the data set 'events' has this option")
    if args.completed_from is not None and data_set.measure is None:
        raise DataSetError(f"--completed-from has no meaning for {data_set.name}: {data_set.completed}")
    if args.time_zone is not None and args.time_zone not in available_timezones():
        raise DataSetError(f"--time-zone {args.time_zone!r} is not an IANA time zone such as Europe/Berlin")
    columns = EventColumns(**given)
    split = parse_split(
        args.split,
        completed_only=args.completed_only,
        time_zone=data_set.zone(columns),
        is_split=data_set.is_split,
    )
    completed_from = data_set.completed_from if args.completed_from is None else args.completed_from
    return Request(completed_from=completed_from, held_out=split.held_out, columns=columns), split


def _summary(result: Result, out: Path) -> str:
    imported = result.imported
    days = f"{min(imported.days)} to {max(imported.days)}"
    lines = [f"{out}: {result.watches:,} watches of {days}"]
    lines += [f"left out: {rows:,} rows with {reason}" for reason, rows in sorted(result.left_out.items()) if rows]
    lines += [f"{name}.parquet: {rows:,} pairs" for name, rows in result.truths.items()]
    lines += [f"next: watchnext nightly {shlex.quote(str(out / 'job.toml'))} --date {imported.date}"]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
