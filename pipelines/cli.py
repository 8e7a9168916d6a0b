"""The `watchnext` command: which module answers which sub-command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

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
    """Run a sub-command; its arguments are its own."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in COMMANDS:
        return int(importlib.import_module(f"pipelines.{given[0]}").main(given[1:]))
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    print("\n".join(["usage: watchnext COMMAND ... (COMMAND --help for its own)", "", *lines]), file=sys.stderr)
    return 0 if given in (["-h"], ["--help"]) else 2


if __name__ == "__main__":
    raise SystemExit(main())
