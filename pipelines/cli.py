"""The `watchnext` command: which module answers which sub-command."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

from pipelines.base import console

COMMANDS = {
    "simulate": "write logs to try it on, with what is true of them",
    "nightly": "run a night: from raw logs to published lists",
    "backfill": "run the nights of a range of dates",
    "rollback": "publish an earlier night again, and take back those after it",
    "lookup": "what a user gets, from what is published",
    "doctor": "is there all that a night needs, and what to do where it is not",
    "rebucket": "write the store anew for another number of user buckets",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command, which has arguments of its own. The exit code is 2 without a command, or with an unknown
    one."""
    given = list(sys.argv[1:] if argv is None else argv)
    name = given[0] if given else ""
    if name in COMMANDS:
        return int(importlib.import_module(f"pipelines.{name}").main(given[1:]))
    if name == "help" and given[1:] and given[1] in COMMANDS:
        return main([given[1], "--help"])
    if name == "--version":
        return console.print_to_reader(lambda: print(f"watchnext {_version()}") or 0)
    asked = name in ("-h", "--help", "help")
    if name and not asked:
        nearest = difflib.get_close_matches(name, COMMANDS, 1, cutoff=0)[0]
        mistake = f"there is no command {name!r}; did you mean {nearest}?"
        print(f"watchnext: {console.printable(mistake)}", file=sys.stderr)
    lines = [f"  {command:<10} {what}" for command, what in COMMANDS.items()]
    usage = "usage: watchnext COMMAND ... (watchnext COMMAND --help, or watchnext help COMMAND, for its arguments)"
    print("\n".join([usage, "", *lines]), file=sys.stderr)
    return 0 if asked else 2


def _version() -> str:
    try:
        return metadata.version("watchnext")
    except metadata.PackageNotFoundError:
        return "of a source tree that is not installed"


if __name__ == "__main__":
    raise SystemExit(main())
