"""A stage ends with the nightly that started it, however that ended.

Killed outright, a nightly cannot take its stage along, and a stage left over would write beside the run that takes over
the lock. So the nightly holds one end of a pipe that the stage waits on: the system closes it with the process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "WATCHNEXT_LIFELINE"  # number of the file that ends when the nightly does


@contextmanager
def open_pipe() -> Iterator[int]:
    """The end of a pipe to hand to a stage, as an open file and by its number in `VARIABLE`."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def is_stage() -> bool:
    """Whether a nightly started this process, and shows what it writes."""
    return VARIABLE in os.environ


def exit_with_parent() -> None:
    """In a stage that a nightly started: end this process as soon as the nightly is gone."""
    if number := os.environ.get(VARIABLE):
        threading.Thread(target=_wait, args=(int(number),), daemon=True).start()


def _wait(reading: int) -> None:
    os.read(reading, 1)  # nothing is ever written: this returns when the other end is closed
    os._exit(1)
