"""Progress of a stage, reported by its workers to the process that started it on the same machine.

If the environment variable `VARIABLE` names a file, workers append a line for the parts they expect and for each part
they finish. Appending is atomic, so any number of threads and processes may report. If the variable is not set, as on
the workers of a cluster, nothing is reported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "WATCHNEXT_PROGRESS"


@dataclass(frozen=True)
class Progress:
    """The numbers of finished and expected parts of a stage's work."""

    done: int
    expected: int


def expect(parts: int) -> None:
    """Report that a number of parts (files, buckets) have to be processed."""
    _append(f"+{parts}\n")


def advance() -> None:
    """Report that one part is finished."""
    _append("-\n")


def read(path: str) -> Progress:
    """Return the progress reported so far in a file."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return Progress(done=lines.count("-"), expected=sum(int(line) for line in lines if line.startswith("+")))


def _append(line: str) -> None:
    if path := os.environ.get(VARIABLE):
        with open(path, "a", encoding="ascii") as file:
            file.write(line)
