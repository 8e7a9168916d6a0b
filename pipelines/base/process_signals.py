"""A run that is told to end cleans up: its stage is ended, its lock is given back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """A signal told this process to end. No Exception: nothing that carries on after errors may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; nothing was published")
        self.code = 128 + number  # as a shell reports it


@contextmanager
def raised() -> Iterator[None]:
    """Let SIGTERM, SIGINT and SIGHUP raise Stopped in the main thread. Those that are ignored, as under nohup, stay so.

    Only the main thread may set handlers: in another one nothing changes.
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
