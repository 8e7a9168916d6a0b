"""Errors for the person who runs a night: one message and an exit code, wherever they were raised.

Runners hand on what a worker raised in different ways: as the error itself, chained below one of their own, or, from
another thread or machine, as the text of its traceback.
"""

from __future__ import annotations

import builtins
import os
import re
import sys
from collections.abc import Callable

from pipelines.jobs import JobError
from pipelines.lock import LockError
from pipelines.manifest import ManifestError
from pipelines.options import OptionError
from trainer.errors import TrainingError
from transforms.indexing import NoCandidatesError
from transforms.logs import LogError


class StageError(RuntimeError):
    """A stage that cannot go on, for a reason its message explains to whoever runs the night."""


# Errors whose message says all there is to say: a person sees that, and no traceback.
TOLD_ERRORS = (
    StageError,
    JobError,
    OptionError,
    ManifestError,
    LogError,
    NoCandidatesError,
    TrainingError,
    LockError,
    OSError,
)

_LAST_LINE = re.compile(r"^(?:[\w.]+\.)?(\w+): (.*?)(?: \[while running '[^\n]*'\])?$", re.MULTILINE)


def guarded(work: Callable[[], int]) -> int:
    """Run a command; mistakes of the user and failures of the machine become one message and an exit code."""
    try:
        return work()
    except (JobError, OptionError) as error:
        return _fail(str(error), 2)
    except Exception as error:
        message = told(error)
        if message is not None and not os.environ.get("WATCHNEXT_TRACEBACK"):
            return _fail(message, 1)
        raise


def told(error: BaseException) -> str | None:
    """What to say of an error that a runner may have wrapped or written down; None of one nobody foresaw."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return f"{type(seen).__name__}: {seen}"
        if isinstance(seen, TOLD_ERRORS):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    return _told_in(str(error))


def _told_in(traceback: str) -> str | None:
    """The message of the last error in the text of a traceback, where it is one of those."""
    if "Traceback (most recent call last)" not in traceback:
        return None
    for name, message in reversed(_LAST_LINE.findall(traceback)):
        if any(name == kind.__name__ for kind in TOLD_ERRORS[:-1]):
            return message
        if _is_os_error(name):
            return f"{name}: {message}"
    return None


def _is_os_error(name: str) -> bool:
    kind = getattr(builtins, name, None)
    return isinstance(kind, type) and issubclass(kind, OSError)


def _fail(message: str, code: int) -> int:
    print(f"watchnext: {message}", file=sys.stderr)
    return code
