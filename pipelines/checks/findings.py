"""What `watchnext doctor` finds, and how it is told. Imports the standard library alone: it has to work where nothing
else does."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

NARROWEST, WIDEST = 80, 100  # columns of a terminal that are made use of
State = Literal["ok", "warning", "problem"]
_COLOURS: dict[State, str] = {"ok": "32", "warning": "33", "problem": "31"}
_INDENT = " " * 9


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    what: str
    fix: str = ""  # what to do about it; empty where it is ok
    details: tuple[str, ...] = ()  # lines to read as they are


def ok(check: str, what: str, *details: str) -> Finding:
    return Finding(check=check, state="ok", what=what, details=details)


def warning(check: str, what: str, fix: str, *details: str) -> Finding:
    """A night will run, but perhaps not as it is meant to."""
    return Finding(check=check, state="warning", what=what, fix=fix, details=details)


def problem(check: str, what: str, fix: str, *details: str) -> Finding:
    """A night will fail."""
    return Finding(check=check, state="problem", what=what, fix=fix, details=details)


def exit_code(found: Iterable[Finding]) -> int:
    """0 without a problem, else 1."""
    return int(any(finding.state == "problem" for finding in found))


def to_text(finding: Finding, *, colours: bool, width: int) -> str:
    """A finding as people read it, in lines of at most `width` columns; details are cut there."""
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
    """The last line: how many findings of which kind."""
    states = [finding.state for finding in found]
    problems, warnings = states.count("problem"), states.count("warning")
    counts = ", ".join(f"{n} {name}{'s' if n > 1 else ''}" for n, name in _some(problems, warnings))
    return f"{counts}: do what is said under fix, then ask again" if counts else "no problem was found"


def terminal() -> tuple[bool, int]:
    """(whether colours are wanted, how many columns to use) on the standard output."""
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return colours, max(NARROWEST, min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST))


def printable(text: str) -> str:
    """One line without control characters: logs hold whatever somebody wrote."""
    return "".join(one if one.isprintable() else " " for one in text)


def _some(problems: int, warnings: int) -> Iterator[tuple[int, str]]:
    if problems:
        yield problems, "problem"
    if warnings:
        yield warnings, "warning"


def _wrapped(text: str, width: int) -> list[str]:
    clean = printable(text)
    return textwrap.wrap(clean, width, initial_indent=_INDENT, subsequent_indent=f"{_INDENT}  ", break_on_hyphens=False)
