"""The console of a command: under which name it was called, and text that is safe to print.

Imports the standard library alone, so that a command can print its mistakes whatever else is broken.
"""

from __future__ import annotations

import argparse
import datetime as dt
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
_FIRST, _LAST = dt.date(1970, 1, 1), dt.date(2999, 12, 31)  # of nights
_INVISIBLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, lone surrogates, line separators
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Parser(argparse.ArgumentParser):
    """The arguments of a command. `usage:` and error messages name the command as it was called."""

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
    """The words that called a command: `watchnext nightly`, or `python -m pipelines.nightly` where a module was run."""
    called = Path(sys.argv[0])
    is_module = called.suffix == ".py" and called.parent.name == "pipelines" and called.stem != "cli"
    return f"python -m pipelines.{called.stem}" if is_module else f"watchnext {command}"


def parse_date(text: str) -> dt.date:
    """A date of an argument. Raises ArgumentTypeError for what is none, and for one that no log has times of."""
    try:
        found = dt.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-11-21") from error
    if not _FIRST <= found <= _LAST:
        raise argparse.ArgumentTypeError(f"{text!r} is no date from {_FIRST} to {_LAST}: is the year right?")
    return found


def print_to_reader(work: Callable[[], int]) -> int:
    """Do work that prints, and return its exit code: PIPE_CLOSED if the reader closed the output before its end.

    `watchnext doctor JOB.toml | head -1` ends so. The rest of the output is dropped, and nothing fails when the
    interpreter ends.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale may have no bytes for a title
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not (closed := _closed_outputs()):
            raise
        for output in closed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        return PIPE_CLOSED


def silence_stderr() -> None:
    """Write nothing more on the standard error."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def reader_has_gone() -> bool:
    """Whether the standard output or the standard error is a pipe that nobody reads any more."""
    return bool(_closed_outputs())


def _closed_outputs() -> list[int]:
    """Numbers of the files of the standard output and the standard error that are pipes without a reader."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # a stream that is no file of the system, or none at all
            poll.register(stream.fileno(), select.POLLERR)
    return [number for number, event in poll.poll(0) if event & select.POLLERR]


def printable(text: str) -> str:
    """Text for a terminal: control characters of ids, paths and values are written as escapes, line ends stay."""
    return text if text.isascii() and text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    hidden = unicodedata.category(character) in _INVISIBLE or character in _DIRECTIONS
    if not hidden or character in "\n\t":
        return character
    return character.encode("unicode_escape").decode("ascii")


def printable_json(text: str, stream: TextIO) -> str:
    """A JSON text for a stream: control characters, and those that the stream's encoding has no bytes for, are written
    as escapes of JSON. JSON itself escapes the control characters of ASCII alone."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return "".join(_json_escape(one) if _printable(one) != one or not _has(encoding, one) else one for one in text)


def _has(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
