"""Command lines and console output: an argument parser, and text that is safe to print.

Imports only the standard library, so that a command can report errors even if other packages are broken.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import select
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

PIPE_CLOSED = 128 + 13  # SIGPIPE, as a shell reports it
_FIRST_DATE, _LAST_DATE = dt.date(1970, 1, 1), dt.date(2999, 12, 31)
_INVISIBLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, lone surrogates, line separators
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Parser(argparse.ArgumentParser):
    """Argument parser of a command. Usage and error messages name the command as it was called."""

    def __init__(self, command: str, description: str, *, epilog: str = "", abbreviations: bool = False) -> None:
        program = called_as(command)
        super().__init__(prog=program, description=description, allow_abbrev=abbreviations, epilog=epilog)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        def work() -> int:
            super(Parser, self)._print_message(printable(message), file)
            return 0

        if code := print_to_reader(work):
            self.exit(code)


def called_as(command: str) -> str:
    """Return how a command was called: `watchnext nightly`, or `python -m pipelines.nightly` if a module was run."""
    called = Path(sys.argv[0])
    is_module = called.suffix == ".py" and called.parent.name == "pipelines" and called.stem != "cli"
    return f"python -m pipelines.{called.stem}" if is_module else f"watchnext {command}"


def parse_date(text: str) -> dt.date:
    """Parse a date argument. Raises ArgumentTypeError if the text is not an ISO date or the year is out of range."""
    try:
        date = dt.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2026-11-21") from error
    if not _FIRST_DATE <= date <= _LAST_DATE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a date from {_FIRST_DATE} to {_LAST_DATE}: is the year right?"
        )
    return date


def print_to_reader(work: Callable[[], int]) -> int:
    """Call `work`, which prints, and return its exit code, or PIPE_CLOSED if the reader closed the output early.

    This happens in `watchnext doctor JOB.toml | head -1`. The rest of the output is dropped without an error, also
    when the interpreter flushes its buffers at exit.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # the locale may not be able to encode a title
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not (closed := closed_outputs()):
            raise
        for output in closed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        return PIPE_CLOSED


def silence_stderr() -> None:
    """Discard everything that is written to the standard error from now on."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def closed_outputs() -> list[int]:
    """Return the file descriptors of the standard output and error that are pipes without a reader."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # the stream is not a system file, or is None
            poll.register(stream.fileno(), select.POLLERR)
    return [number for number, event in poll.poll(0) if event & select.POLLERR]


def printable(text: str) -> str:
    """Return text for a terminal: escape control characters in ids, paths and values; keep line breaks and tabs."""
    return text if text.isascii() and text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    hidden = unicodedata.category(character) in _INVISIBLE or character in _BIDI_CONTROLS
    if not hidden or character in "\n\t":
        return character
    return character.encode("unicode_escape").decode("ascii")


def printable_json(text: str, stream: TextIO) -> str:
    """Return JSON text for a stream, with control characters and characters that the stream cannot encode as JSON
    escapes. `json.dumps` by itself escapes only the control characters of ASCII."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return "".join(c if _printable(c) == c and c.encode(encoding, "ignore") else json.dumps(c)[1:-1] for c in text)
