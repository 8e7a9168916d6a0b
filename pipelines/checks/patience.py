"""A limit to how long one waits: clients of remote file systems try again and again for minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def with_timeout(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """What `ask` gives or raises. TimeoutError where it takes longer: it is then left alone and ends with the
    process."""
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]
