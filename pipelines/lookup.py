"""Show the published list of a user, read as a server does, and the user's last watches.

watchnext lookup JOB.toml USER [--k 10] [--watches 5] [--country SE] [--from redis | --date DATE] [--why] [--json]
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.cells import cell_len, set_cell_size

from pipelines.base import command_lines, console
from pipelines.config.beam_options import pipeline_options
from pipelines.config.jobs import Job, JobError, load_job
from pipelines.night.errors import run_command
from pipelines.serving.explain import FeatureEffect
from pipelines.serving.served import Served
from pipelines.serving.user_lookup import Item, Lookup, look_up

# Of a ranked list; at most NARROWEST columns wide.
ORDER = "by expected seconds (of the length) and the neighbours' order"
NARROWEST, WIDEST = 60, 100  # limits of the line width, in columns
_DASHED = re.compile(r"-(?!h$)[^-]")
_WITH_VALUES = ("--k", "--watches", "--country", "--from", "--date")


def lookup(
    job: Job,
    user_id: str,
    k: int,
    *,
    watches: int = 0,
    country: str | None = None,
    source: str = "files",
    why: bool = False,
    date: dt.date | None = None,
) -> Lookup:
    """Return the first k videos of a user's published list, and the user's last `watches` watches.

    source: one of `LIST_SOURCES`; why: also return the features with the largest effects on the expected watch time;
    date: look up this night instead of the served one: the list it was last published with, or else its current list.
    Raises StageError if nothing is published, or if `why` is not possible.
    """
    return look_up(Served.open(job, source, date), user_id, k, watches=watches, country=country, why=why)


def to_text(found: Lookup, width: int = WIDEST) -> str:
    """Format a lookup as text in lines of at most `width` columns, unless the ids are too long."""
    lines = [_heading(found)]
    if found.items:
        ranked = any(item.seconds is not None for item in found.items)
        shown = _seconds if ranked else _score
        rows = [(f"{n}", shown(item), item.video_id, item.title) for n, item in enumerate(found.items, 1)]
        lines += [*([ORDER] if ranked else []), "", *_aligned(rows, ">><", width)]
    effects = [(f"{n}", item.video_id, _effects(item.why), None) for n, item in enumerate(found.items, 1) if item.why]
    if effects:
        heading = "why: factors on the odds of the expected seconds, relative to the mean value of each feature"
        lines += ["", heading, *_aligned(effects, "><<", width)]
    if found.watches:
        watches = [
            (f"{watch.time:%Y-%m-%d %H:%M}", "completed" if watch.completed else "in part", watch.video_id, watch.title)
            for watch in found.watches
        ]
        lines += ["", f"last watches, times in {found.watches[0].time.tzname()}", *_aligned(watches, "<<<", width)]
    return "\n".join(lines)


def _heading(found: Lookup) -> str:
    shown = f"the first {len(found.items)} of {found.length}"
    if found.known:
        night = {"served": f"published {found.date}", "published": f"published {found.date}, not served now"}
        state = night.get(found.state, f"night {found.date}, {found.state}")
        return f"user {_printable(found.user_id)}, {state}: {shown if found.items else 'an empty list'}"
    unknown = (
        f"user {_printable(repr(found.user_id))} has no list: no watches or searches in the window of {found.date}"
    )
    if not found.items:
        return f"{unknown}, and the night has no default lists"
    country = _printable(found.country or "all countries")
    return f"{unknown}\na server shows the default list of {country} instead, {shown}:"


def _seconds(item: Item) -> str:
    """Return the expected seconds, and the length of the video; empty for a video that was not ranked."""
    if item.seconds is None:
        return ""
    return f"{item.seconds:.0f} s" + (f" of {item.video_seconds:.0f} s" if item.video_seconds else "")


def _score(item: Item) -> str:
    return "" if item.score is None else f"{item.score:.4f}"


def _effects(why: Sequence[FeatureEffect]) -> str:
    return ", ".join(f"{effect.feature.replace('_', ' ')} x{effect.times:.2f}" for effect in why)


def _aligned(rows: Sequence[tuple[str, str, str, str | None]], sides: str, width: int) -> Iterator[str]:
    """Yield lines of three columns, each as wide as its widest cell, and a title truncated to the remaining width."""
    texts = [[_printable(cell or "") for cell in row] for row in rows]
    widest = [max(cell_len(row[at]) for row in texts) for at in range(3)]
    left = max(20, width - sum(widest) - 2 * (len(widest) + 1))
    for row in texts:
        cells = [_fill(cell, size, side) for cell, size, side in zip(row, widest, sides, strict=False)]
        yield "  ".join(["", *cells, _cut(row[3], left)]).rstrip()


def _fill(text: str, size: int, side: str) -> str:
    return " " * (size - cell_len(text)) + text if side == ">" else set_cell_size(text, size)


def _cut(text: str, size: int) -> str:
    return text if cell_len(text) <= size else set_cell_size(text, size - 1).rstrip() + "…"


def _printable(text: str) -> str:
    """Return text as one line without control characters, because titles may contain any text."""
    return "".join(one if one.isprintable() else " " for one in text)


parser = command_lines.lookup


def main(argv: Sequence[str] | None = None) -> int:
    """Print the list of a user. Return 1 for a user without a list."""
    words = with_dashed_user(sys.argv[1:] if argv is None else argv)
    given = parser()
    args, flags = given.parse_known_args(words)  # unknown arguments configure Beam's file systems
    if args.k < 1:
        given.error(f"--k must be positive, but is {args.k}")
    if args.watches < 0:
        given.error(f"--watches must be 0 or more, but is {args.watches}")
    if args.date and args.source != "files":
        given.error(f"--date reads the files of a night and cannot be used with --from {args.source}")

    def work() -> int:
        pipeline_options(None, flags)
        options = {name: getattr(args, name) for name in ("watches", "country", "source", "why", "date")}
        found = lookup(load_job(args.job), utf8_argument(args.user), args.k, **options)
        columns = shutil.get_terminal_size((WIDEST, 24)).columns
        print(_to_json(found) if args.json else to_text(found, max(NARROWEST, min(columns, WIDEST))))
        return 0 if found.known else 1

    return run_command(work)


def with_dashed_user(argv: Sequence[str]) -> list[str]:
    """Return the arguments with a user id that begins with one dash moved behind `--`, as argparse requires.

    All options except -h have two dashes, so a word such as -abc must be an id, or the value of the option before it.
    """
    options = argv[: argv.index("--")] if "--" in argv else argv
    dashed = [
        position
        for position, (before, word) in enumerate(zip(["", *options], options, strict=False))
        if _DASHED.match(word) and before not in _WITH_VALUES
    ]
    if len(dashed) != 1 or len(options) < len(argv):
        return list(argv)
    return [*argv[: dashed[0]], *argv[dashed[0] + 1 :], "--", argv[dashed[0]]]


def utf8_argument(text: str) -> str:
    """Decode an argument as UTF-8, independent of the locale. Raises JobError if it is not UTF-8, as all ids are."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError as error:
        raise JobError(f"USER = {text!r} is not UTF-8, but all ids in logs are") from error


def _to_json(found: Lookup) -> str:
    text = json.dumps(asdict(found), ensure_ascii=False, default=lambda time: time.isoformat())
    return console.printable_json(text, sys.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
