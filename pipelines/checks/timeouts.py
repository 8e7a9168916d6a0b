"""A time limit for calls that may block: clients of remote file systems retry for minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")


def with_timeout(seconds: float, call: Callable[[], Result]) -> Result:
    """Return what `call` returns, or raise what it raises.

    Raises TimeoutError if it takes longer; the call is then abandoned in a daemon thread.
    """
    future = Future[Result]()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()
