"""The `watchnext` command and its sub-commands."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

import pipelines
from pipelines.base import command_lines, console

COMMANDS = {
    "init": "write a job file for a folder of logs, after a look at the logs",
    "simulate": "write simulated logs for a trial, with their ground truth",
    "import": "write the log tables of a public data set, or of a table of events",
    "doctor": "check that everything a night needs is in place, and show how to fix what is missing",
    "nightly": "run a night, from raw logs to published lists",
    "backfill": "run the nights of a range of dates",
    "rollback": "publish an earlier night again, and withdraw the nights after it",
    "status": "show which night is served, how good it is, what failed last, and what to do next",
    "report": "print the path of a night's report, or open it in a browser",
    "lookup": "show the published list of a user",
    "serve": "show what is published on a local web page",
    "compare": "compare two nights: their lists, figures, settings and counts",
    "export": "write the published lists, user vectors or videos to one file",
    "rebucket": "rewrite the store with another number of user buckets",
    "completion": "print a script that completes commands and options in a shell",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command with its arguments. The exit code is 2 without a command, or for an unknown one."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        return _run(name, arguments[1:])
    if name == "help" and arguments[1:] and arguments[1] in COMMANDS:
        return main([arguments[1], "--help"])
    if name == "--version":
        return console.print_to_reader(lambda: print(f"watchnext {_version()}") or 0)
    is_help = name in ("-h", "--help", "help")
    if name and not is_help:
        nearest = difflib.get_close_matches(name, COMMANDS, 1, cutoff=0)[0]
        mistake = f"there is no command {name!r}; did you mean {nearest}?"
        print(f"watchnext: {console.printable(mistake)}", file=sys.stderr)
    lines = [f"  {command:<10} {description}" for command, description in COMMANDS.items()]
    usage = "usage: watchnext COMMAND ... (watchnext COMMAND --help, or watchnext help COMMAND, shows its arguments)"
    print("\n".join([usage, "", *lines]), file=sys.stderr)
    return 0 if is_help else 2


def _run(name: str, arguments: list[str]) -> int:
    """Run one command. Help needs only its parser; a command's module may import Beam and TensorFlow."""
    if arguments in (["--help"], ["-h"]):
        command_lines.parsers()[name]().parse_args(arguments)
    if name in command_lines.IMPORTING_BEAM:
        pipelines.import_beam()
    return int(importlib.import_module(f"pipelines.{command_lines.MODULES.get(name, name)}").main(arguments))


def _version() -> str:
    try:
        return metadata.version("watchnext")
    except metadata.PackageNotFoundError:
        return "(source tree, not installed)"


if __name__ == "__main__":
    raise SystemExit(main())
