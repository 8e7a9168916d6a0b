"""How the processes of a run end: a signal raises `Stopped`, so that a process cleans up, and a stage exits together
with the nightly that started it.

A nightly that is killed outright cannot end its stage, and an orphaned stage would write alongside the run that takes
over the lock. The nightly therefore holds one end of a pipe that the stage reads: the system closes it with the
process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PARENT_PIPE_VARIABLE = "WATCHNEXT_LIFELINE"  # file descriptor of the pipe that is closed when the nightly ends
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked this process to end. It is not an Exception, so that no error handler swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; nothing was published")
        self.code = 128 + number  # as a shell reports it


@contextmanager
def raise_stopped() -> Iterator[None]:
    """Let SIGTERM, SIGINT and SIGHUP raise Stopped in the main thread. Ignored signals stay ignored, as under nohup.

    Does nothing in any other thread, because only the main thread may set signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _HANDLED}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


@contextmanager
def open_parent_pipe() -> Iterator[int]:
    """Yield the file descriptor that a stage inherits; its number goes into the stage's `PARENT_PIPE_VARIABLE`."""
    read_end, write_end = os.pipe()
    try:
        yield read_end
    finally:
        os.close(read_end)
        os.close(write_end)


def is_stage() -> bool:
    """Return whether a nightly started this process and shows its output."""
    return PARENT_PIPE_VARIABLE in os.environ


def exit_with_parent() -> None:
    """End this process as soon as the nightly that started it is gone. Does nothing outside a nightly."""
    if number := os.environ.get(PARENT_PIPE_VARIABLE):
        threading.Thread(target=_exit_when_closed, args=(int(number),), daemon=True).start()


def _exit_when_closed(read_end: int) -> None:
    os.read(read_end, 1)  # the nightly never writes: this returns when the other end is closed
    os._exit(1)
