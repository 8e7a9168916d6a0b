"""The command lines of all commands: one function per command, which returns its parser.

    command_lines.nightly().parse_known_args(["job.toml", "--dry-run"])
    command_lines.parsers()["nightly"]()     # the same parser, by the command's name

Commands, their help, shell completion (`completion_scripts`) and docs/commands.md (`command_reference`) all use these
functions. Imports only the standard library, so that help and completion take no time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pipelines.base import console
from pipelines.base.console import Parser

STAGES = ("ingest", "vocabulary", "examples", "train", "index", "neighbours", "ranking", "evaluation", "publish")
LIST_SOURCES = ("files", "redis")  # of published lists
LOG_FORMATS = ("text", "json")
LOG_TABLES = ("watches", "searches", "videos", "users", "hidden", "impressions")
EXPORT_FORMATS = ("csv", "jsonl", "parquet")
EXPORT_TABLES = ("lists", "vectors", "videos")
HOST, PORT = "127.0.0.1", 8000  # of `serve`
DATA_SETS = (  # of `import`, see pipelines/datasets/registry.py
    *("movielens-100k", "movielens-1m", "movielens-10m", "movielens-20m", "movielens-25m", "movielens-32m"),
    *("movielens-latest", "movielens-latest-small", "movietweetings"),
    *("kuairand-pure", "kuairand-1k", "kuairand-27k", "kuairand-pure-processed", "kuairec", "mind"),
    *("amazon-2018", "amazon-2023", "lastfm-1k", "lastfm-360k", "yambda", "events", "sequences"),
)
UNITS = ("s", "ms", "us", "ns")  # of times in a table of events
EVENT_COLUMNS = {"user": "user_id", "video": "video_id", "time": "time"}  # default columns of a table of events
SHELLS = ("bash", "zsh", "fish")
# Metavars of arguments that are paths; the shells complete them as files.
JOB, FILE, OUT, FOLDER = "JOB.toml", "FILE", "OUT", "FOLDER"
PATHS = (JOB, FILE, OUT, FOLDER)

EXIT_CODES = """\
exit codes: 0 done, or nothing to do; 1 a stage failed, or another run is at work on this root; 2 a wrong setting or
argument; 3 a gate failed: the previously published lists stay served; 128 + n stopped by signal n (143: SIGTERM, 130:
Ctrl-C)"""
DOCTOR_CODES = "exit codes: 0 no problem; 1 at least one problem; 2 a wrong argument"
STATUS_CODES = """\
exit codes: 0 a night is served, and the newest run ended well; 1 nothing is served, the newest run failed, or a file
that is read is damaged; 2 a wrong setting or argument; 3 a gate stopped the newest night: the lists before it stay
served"""
READING_CODES = "exit codes: 0 done; 1 the night does not exist or cannot be read; 2 a wrong setting or argument"
INIT_CODES = """\
exit codes: 0 the job file is written; 1 it is written, but a night would fail, or the logs cannot be read; 2 a wrong
argument, or a question that only an option can answer, because there is no terminal; 130 stopped by Ctrl-C"""


def of_nights(command: str, description: str, *, of_one_night: bool = True, epilog: str = EXIT_CODES) -> Parser:
    """Return a parser of the arguments that all commands on nights have. Unknown arguments are options of Beam."""
    parser = Parser(command, description, epilog=epilog)
    parser.add_argument("job", metavar=JOB, help="the job file")
    if of_one_night:
        parser.add_argument("--date", type=console.parse_date, help="the night, YYYY-MM-DD (default: today)")
    parser.add_argument("--runner-config", metavar=FILE, help="Beam options as TOML: a file, or a built-in name")
    return parser


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the format of the run log."""
    parser.add_argument(
        "--log-format", choices=LOG_FORMATS, default="text", help="text, or one JSON object per line (default: text)"
    )


def add_ingest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of stage ingest."""
    parser.add_argument(
        "--reingest",
        metavar="DAY",
        action="append",
        type=console.parse_date,
        help="replace the events of this day by those in the current raw files; may be given several times",
    )
    parser.add_argument(
        "--reread",
        action="store_true",
        help="replace all stored events by those in the current raw files, read with the current settings",
    )
    parser.add_argument(
        "--keep-old-readings",
        action="store_true",
        help="keep stored events that were read with other settings; with --reread, those of days without raw files",
    )


def add_publish_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of stage publish."""
    text = "publish the night even if gates fail, and record the reason"
    parser.add_argument("--force-publish", type=_reason, metavar="REASON", help=text)


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("a reason is needed: it is written to published.json and shown in the report")
    return text.strip()


class _InitParser(Parser):
    def error(self, message: str) -> NoReturn:
        if FOLDER in message:
            message += f"; name the folder that contains the logs: {self.prog} logs"
        super().error(message)


def init() -> Parser:
    parser = _InitParser("init", "Write a job file for a folder of logs, after a look at the logs.", epilog=INIT_CODES)
    parser.add_argument("folder", metavar=FOLDER, help="the folder that contains the logs, at any depth")
    parser.add_argument("--out", metavar=FILE, default=JOB.lower(), help="the job file to write (default: job.toml)")
    for table in LOG_TABLES:
        what = f"the files of {table}: a file, a folder or a glob, from the current folder; or none"
        parser.add_argument(f"--{table}", metavar="PATH", help=what)
    parser.add_argument(
        "--column",
        metavar="TABLE.OURS=YOURS",
        action="append",
        default=[],
        help="the name of a column, as in watches.user_id=uid; may be given several times",
    )
    parser.add_argument("--time-zone", metavar="ZONE", help="time zone of times without an offset, and of days")
    parser.add_argument("--root", metavar="PATH", help="the folder of the store and the nights (default: runs)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing job file")
    parser.add_argument("--no-questions", action="store_true", help="never ask, not even on a terminal")
    return parser


def import_logs() -> Parser:
    """Return the parser of `watchnext import`."""
    description = "Write the log tables of a public data set that you downloaded, and a job file for a night on them."
    parser = Parser(
        "import", description, epilog=f"data sets: {', '.join(DATA_SETS)}. docs/data-sets.md describes them."
    )
    parser.add_argument("name", metavar="NAME", help="data set, such as movielens-32m")
    parser.add_argument("path", type=Path, metavar=FOLDER, help="folder of its unpacked files, or its only file")
    parser.add_argument("out", type=Path, metavar=OUT, help="folder to write, new or empty")
    parser.add_argument(
        "--split",
        metavar="SPLIT",
        help="keep the truth apart: last, last-but-one, time=DATE, time=DATE,DATE, or published",
    )
    parser.add_argument("--completed-only", action="store_true", help="with --split last: only completed watches")
    parser.add_argument(
        "--completed-from",
        type=float,
        metavar="VALUE",
        help="least rating, share of the length or number of plays that counts as a completed watch",
    )
    events = parser.add_argument_group("columns of your table, for the data set 'events'")
    for name, default in EVENT_COLUMNS.items():
        events.add_argument(f"--{name}", metavar="COLUMN", help=f"column of the {name} (default: {default})")
    for name in ("rating", "completed", "watch-seconds", "video-seconds"):
        events.add_argument(f"--{name}", metavar="COLUMN", help=f"column of {name.replace('-', ' ')}, if there is one")
    events.add_argument("--time-unit", choices=UNITS, help="default: s or ms, by the size of the numbers, or ISO 8601")
    events.add_argument("--time-zone", metavar="ZONE", help="IANA zone of times without an offset, and of days")
    return parser


class _SimulateParser(Parser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)  # printed in one line, like other errors in arguments


def simulate() -> Parser:
    description = "Write simulated logs for a trial, their ground truth, and a job file."
    parser = _SimulateParser("simulate", description, abbreviations=True)
    parser.add_argument("out", type=Path, metavar=OUT, help="folder to write")
    parser.add_argument("--users", type=int, default=2000, help="number of users (default: 2000)")
    parser.add_argument("--videos", type=int, default=1000, help="number of videos (default: 1000)")
    parser.add_argument("--days", type=int, default=21, help="number of days (default: 21)")
    parser.add_argument("--seed", type=int, default=7, help="random seed (default: 7)")
    parser.add_argument("--last-day", type=console.parse_date, metavar="YYYY-MM-DD", help="default: yesterday (UTC)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing logs in OUT")
    return parser


def nightly() -> Parser:
    parser = of_nights("nightly", "Run a night: from raw logs to published lists.")
    selection = parser.add_mutually_exclusive_group()
    selection.add_argument("--only", choices=STAGES, metavar="STAGE", help=f"one stage: {', '.join(STAGES)}")
    selection.add_argument(
        "--from", dest="first", choices=STAGES, metavar="STAGE", help="this stage and those after it"
    )
    selection.add_argument("--catch-up", action="store_true", help="run the nights since the published one first")
    parser.add_argument("--dry-run", action="store_true", help="show what would run and why, without changing anything")
    force = "run this stage even if it is complete; may be given several times"
    parser.add_argument("--force", choices=STAGES, metavar="STAGE", action="append", help=force)
    add_ingest_arguments(parser)
    add_publish_arguments(parser)
    add_log_format(parser)
    return parser


def backfill() -> Parser:
    parser = of_nights("backfill", "Run the nights of a range of dates in order.", of_one_night=False)
    parser.add_argument(
        "--from", dest="first", type=console.parse_date, required=True, metavar="DATE", help="the first night"
    )
    parser.add_argument(
        "--to", dest="last", type=console.parse_date, required=True, metavar="DATE", help="the last night"
    )
    parser.add_argument("--keep-going", action="store_true", help="continue after a failed night")
    add_log_format(parser)
    return parser


def rollback() -> Parser:
    description = "Publish an earlier night again, and withdraw the nights after it."
    parser = of_nights("rollback", description, of_one_night=False)
    parser.add_argument(
        "--to", type=console.parse_date, metavar="DATE", help="the night to publish (default: the previous one)"
    )
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the source of published lists."""
    parser.add_argument(
        "--from", dest="source", choices=LIST_SOURCES, default="files", help="source of the lists (default: files)"
    )


class _LookupParser(Parser):
    def error(self, message: str) -> NoReturn:
        if "USER" in message:
            message += f"; put -- before an id that begins with -: {self.prog} JOB.toml -- -ID"
        super().error(message)


def lookup() -> Parser:
    codes = "exit codes: 0 done; 1 the user has no list, or nothing is published; 2 a wrong setting or argument"
    parser = _LookupParser("lookup", "Show the published list of a user.", abbreviations=True, epilog=codes)
    parser.add_argument("job", metavar=JOB, help="the job file")
    parser.add_argument("user", metavar="USER", help="the user's id, as in the logs")
    parser.add_argument("--k", type=int, default=10, help="number of videos (default: 10)")
    parser.add_argument("--watches", type=int, default=5, help="number of the user's last watches (default: 5)")
    parser.add_argument("--country", help="country of the default list for unknown users (default: all countries)")
    _add_source(parser)
    parser.add_argument(
        "--date",
        type=console.parse_date,
        help="another night: the list it was last published with (default: the served night)",
    )
    parser.add_argument("--why", action="store_true", help="show the features with the largest effects on each video")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def status() -> Parser:
    description = "Show which night is served, how good it is, what failed last, and what to do next."
    parser = Parser("status", description, epilog=STATUS_CODES)
    parser.add_argument("job", metavar=JOB, help="the job file")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def report() -> Parser:
    parser = Parser("report", "Print the path of a night's report.", epilog=READING_CODES)
    parser.add_argument("job", metavar=JOB, help="the job file")
    parser.add_argument(
        "--date", type=console.parse_date, help="the night (default: the newest night that has a report)"
    )
    parser.add_argument("--open", action="store_true", help="open the report in a browser")
    return parser


def serve() -> Parser:
    description = "Show what is published on a local web page, for people who judge lists."
    parser = Parser("serve", description)
    parser.add_argument("job", metavar=JOB, help="the job file")
    parser.add_argument("--port", type=int, default=PORT, help=f"0: any free port (default: {PORT})")
    parser.add_argument(
        "--host",
        default=HOST,
        help="address to listen on; any but that of this machine lets others read the page, which has no login "
        f"(default: {HOST})",
    )
    _add_source(parser)
    return parser


def compare() -> Parser:
    description = "Compare two nights: their lists, figures, settings and counts."
    parser = Parser("compare", description, epilog=READING_CODES)
    what = "two nights, each as JOB.toml (its served night) or JOB.toml DATE; a second DATE is of the same job"
    parser.add_argument("words", metavar="NIGHT", nargs="+", help=what)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


def export() -> Parser:
    parser = Parser("export", "Write the published lists, user vectors or videos to one file.", epilog=READING_CODES)
    parser.add_argument("job", metavar=JOB, help="the job file")
    parser.add_argument("out", metavar=OUT, help="the file to write; it appears only when it is complete")
    parser.add_argument("--format", choices=EXPORT_FORMATS, help="format of OUT (default: by its ending)")
    parser.add_argument(
        "--table",
        choices=EXPORT_TABLES,
        default="lists",
        help="lists of users; vectors of users; or videos, with their vectors and titles (default: lists)",
    )
    parser.add_argument("--long", action="store_true", help="lists: one row for each user and video, with its position")
    parser.add_argument("--date", type=console.parse_date, help="another night (default: the served night)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def doctor() -> Parser:
    description = "Check that everything a night needs is in place, and show how to fix what is missing."
    parser = Parser("doctor", description, epilog=DOCTOR_CODES)
    parser.add_argument("job", metavar=JOB, help="the job file")
    parser.add_argument("--date", type=console.parse_date, help="the night, YYYY-MM-DD (default: today)")
    parser.add_argument("--runner-config", metavar=FILE, help="Beam options as TOML: a file, or a built-in name")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    deep = "read every file of the store and of all nights, and compare its digest"
    parser.add_argument("--deep", action="store_true", help=deep)
    parser.add_argument(
        "--runner-timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="time limit of the runner's job (default: 120)",
    )
    parser.add_argument(
        "--price-per-core-hour",
        type=float,
        metavar="PRICE",
        help="price of a worker, to estimate the cost of the Beam stages",
    )
    return parser


def rebucket() -> Parser:
    parser = of_nights("rebucket", "Rewrite the store with another number of user buckets.")
    parser.add_argument("buckets", metavar="BUCKETS", type=int, help="a power of two from 8 to 4096")
    return parser


def completion() -> Parser:
    parser = Parser("completion", "Print a script that completes commands and options in a shell.")
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    return parser


_PARSERS: tuple[Callable[[], Parser], ...] = (
    *(init, import_logs, simulate, doctor, nightly, backfill, rollback),
    *(status, report, lookup, serve, compare, export, rebucket, completion),
)
MODULES = {"import": "import_logs"}  # of commands whose name is a keyword; others have the name of their module
# Commands that pass arguments that they do not know to Beam.
WITH_BEAM_OPTIONS = (
    *(
        "doctor",
        "nightly",
        "backfill",
        "rollback",
        "status",
        "report",
        "lookup",
        "serve",
        "compare",
        "export",
        "rebucket",
    ),
)
# Commands that need Beam whatever they are asked for.
IMPORTING_BEAM = (
    "init",
    "import",
    "doctor",
    "nightly",
    "backfill",
    "rollback",
    "lookup",
    "serve",
    "compare",
    "export",
    "rebucket",
)


def parsers() -> dict[str, Callable[[], Parser]]:
    """Return the function of each command, in the order of the help."""
    names = {module: name for name, module in MODULES.items()}
    return {names.get(function.__name__, function.__name__): function for function in _PARSERS}


def options(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    """Return the options and positional arguments of a parser, in order, without --help."""
    return [action for action in parser._actions if action.dest != "help"]
