"""Errors for the person who runs a night: one message and an exit code, wherever they were raised.

Runners hand on what a worker raised in different ways: as the error itself, chained below one of their own, or, from
another thread or machine, as the text of its traceback.
"""

from __future__ import annotations

import builtins
import os
import re
import sys
from collections.abc import Callable, Iterator

import grpc

from pipelines.jobs import JobError
from pipelines.lock import LockError
from pipelines.manifest import ManifestError
from pipelines.options import OptionError
from pipelines.signals import Stopped
from trainer.errors import TrainingError
from transforms.candidates import NoCandidatesError
from transforms.errors import SinkError
from transforms.logs import LogError, LogSettingError

EXIT_CODES = """\
exit codes: 0 done, or nothing to do; 1 a stage failed, or another run is at work on this root; 2 a wrong setting or
argument; 3 a gate failed: yesterday's lists stay served; 128 + n stopped by signal n (143: SIGTERM, 130: Ctrl-C)"""


class StageError(RuntimeError):
    """A stage that cannot go on, for a reason its message explains to whoever runs the night."""


class GateError(StageError):
    """A night that is not good enough to be published: which gate, the value, the bound, what to look at."""


# Errors whose message says all there is to say: a person sees that, and no traceback.
TOLD_ERRORS = (
    StageError,
    GateError,
    JobError,
    OptionError,
    ManifestError,
    LogError,
    LogSettingError,
    NoCandidatesError,
    TrainingError,
    SinkError,
    LockError,
    OSError,
)

_BY_CODE: dict[int, tuple[type[Exception], ...]] = {2: (JobError, OptionError, LogSettingError), 3: (GateError,)}
_AGAIN = "nothing half done counts: see that the runner is well, and run the same command again"
_ENDED = re.compile(r"Pipeline \S+ failed in state (?P<state>\w+): (?P<said>.*)", re.DOTALL)  # as Beam words it
# Of Java, the last is the first cause; a job server may give that alone.
_CAUSE = re.compile(r"(?:\A\s*|^Caused by: )(?:[\w$]+\.)*(?=\S)(.+)$", re.MULTILINE)
_STEP = re.compile(r" \[while running '[^\n]*'\]$")  # which Beam adds to an error's message
_LAST_LINE = re.compile(r"^(?:[\w.]+\.)?(\w+): (.*?)(?: \[while running '[^\n]*'\])?$", re.MULTILINE)


def guarded(work: Callable[[], int], say: Callable[[str], object] | None = None) -> int:
    """Run a command; mistakes of the user, failures of the machine and signals become one message and an exit code.

    `say` tells the message; without it, it goes to the standard error.
    """
    say = say or (lambda message: print(f"watchnext: {message}", file=sys.stderr))
    try:
        return work()
    except Stopped as stopped:
        say(str(stopped))
        return stopped.code
    except Exception as error:
        message = told(error)
        if message is None or wants_traceback(error):
            raise
        say(message)
        return exit_code(error)


def wants_traceback(error: Exception) -> bool:
    """Whether the environment asks for the whole story of a failure; of a wrong setting there is none."""
    return bool(os.environ.get("WATCHNEXT_TRACEBACK")) and exit_code(error) == 1


def exit_code(error: Exception) -> int:
    """The exit code of a command that an error ended."""
    return next((code for code, kinds in _BY_CODE.items() if isinstance(error, kinds)), 1)


def of_exit_code(code: int) -> type[Exception]:
    """The error to raise where a process of ours ended with a code."""
    return _BY_CODE.get(code, (StageError,))[0]


def told(error: BaseException) -> str | None:
    """What to say of an error that a runner may have wrapped or written down; None of one nobody foresaw."""
    for seen in causes(error):
        if isinstance(seen, OSError):
            return f"{type(seen).__name__}: {_STEP.sub('', str(seen))}"
        if isinstance(seen, TOLD_ERRORS):
            return _STEP.sub("", str(seen))
    return _told_in(str(error)) or _told_of_runner(error)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it, and so on; each once, also if an error is among its own causes."""
    seen: BaseException | None = error
    passed = set[int]()
    while seen is not None and id(seen) not in passed:
        passed.add(id(seen))
        yield seen
        seen = seen.__cause__ or seen.__context__


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


def _told_of_runner(error: BaseException) -> str | None:
    """What to say where the runner itself failed, not our work on it: a server that is gone, a job it gave up."""
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"the runner's job server does not answer ({error.code().name}: {error.details()}); {_AGAIN}"
    ended = _ENDED.match(str(error)) if isinstance(error, RuntimeError) else None
    if ended is None:
        return None
    causes = _CAUSE.findall(ended["said"]) or [""]
    return f"the runner ended the job in state {ended['state']}: {causes[-1].rstrip('. ')}; {_AGAIN}"


def _is_os_error(name: str) -> bool:
    kind = getattr(builtins, name, None)
    return isinstance(kind, type) and issubclass(kind, OSError)
