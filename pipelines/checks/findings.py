"""The findings of `watchnext doctor`, and their output. Imports only the standard library: doctor must always work."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

NARROWEST, WIDEST = 80, 100  # limits of the line width, in columns
State = Literal["ok", "warning", "problem"]
_COLOURS: dict[State, str] = {"ok": "32", "warning": "33", "problem": "31"}
_INDENT = " " * 9


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result of a check."""

    check: str
    state: State
    what: str
    fix: str = ""  # how to fix it; empty if it is ok
    details: tuple[str, ...] = ()  # preformatted lines


def ok(check: str, what: str, *details: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check=check, state="ok", what=what, details=details)


def warning(check: str, what: str, fix: str, *details: str) -> Finding:
    """Return a finding with which a night will run, but perhaps not as intended."""
    return Finding(check=check, state="warning", what=what, fix=fix, details=details)


def problem(check: str, what: str, fix: str, *details: str) -> Finding:
    """Return a finding with which a night will fail."""
    return Finding(check=check, state="problem", what=what, fix=fix, details=details)


def exit_code(found: Iterable[Finding]) -> int:
    """Return 1 if there is a problem, else 0."""
    return int(any(finding.state == "problem" for finding in found))


def to_text(finding: Finding, *, colours: bool, width: int) -> str:
    """Format a finding in lines of at most `width` columns; details are truncated."""
    mark = f"{finding.state:<8}"
    if colours:
        mark = f"\033[{_COLOURS[finding.state]}m{mark}\033[0m"
    lines = _wrapped(f"{finding.check}: {finding.what}", width)
    lines = [f"{mark} {lines[0].lstrip()}", *lines[1:]]
    if finding.fix:
        lines += _wrapped(f"fix: {finding.fix}", width)
    lines += [f"{_INDENT}  {printable(line)}"[:width].rstrip() for line in finding.details]
    return "\n".join(lines)


def summary_line(found: Iterable[Finding]) -> str:
    """Return the last line of the output: the numbers of problems and warnings."""
    states = [finding.state for finding in found]
    counts = ", ".join(
        f"{number} {state}{'s' if number > 1 else ''}"
        for state in ("problem", "warning")
        if (number := states.count(state))
    )
    return f"{counts}: apply the fixes, then run doctor again" if counts else "no problem was found"


def terminal() -> tuple[bool, int]:
    """Return (whether to use colours, line width) for the standard output."""
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return colours, max(NARROWEST, min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST))


def printable(text: str) -> str:
    """Return text as one line, with control characters replaced by spaces, because logs may contain any text."""
    return "".join(one if one.isprintable() else " " for one in text)


def _wrapped(text: str, width: int) -> list[str]:
    clean = printable(text)
    return textwrap.wrap(clean, width, initial_indent=_INDENT, subsequent_indent=f"{_INDENT}  ", break_on_hyphens=False)
