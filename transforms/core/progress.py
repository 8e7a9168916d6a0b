"""How far a stage is, told by its workers to whoever started it on the same machine.

Where the environment names a file, parts expected and parts done are appended to it, a line each: appending is atomic,
so any number of threads and processes may tell. Elsewhere, as on a cluster's workers, nothing happens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "WATCHNEXT_PROGRESS"


@dataclass(frozen=True)
class Progress:
    """Parts of a stage's work."""

    done: int
    expected: int


def expect(parts: int) -> None:
    """Say that so many parts of work (files, buckets) lie ahead."""
    _append(f"+{parts}\n")


def advance() -> None:
    """Say that one of them is done."""
    _append("-\n")


def read(path: str) -> Progress:
    """What was told so far."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return Progress(done=lines.count("-"), expected=sum(int(line) for line in lines if line.startswith("+")))


def _append(line: str) -> None:
    if path := os.environ.get(VARIABLE):
        with open(path, "a", encoding="ascii") as told:
            told.write(line)
