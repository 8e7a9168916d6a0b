"""Errors for the user: one message and an exit code, wherever they were raised.

Runners pass on the error of a worker in different ways: as the error itself, wrapped in another error, or, from another
thread or machine, as the text of its traceback.
"""

from __future__ import annotations

import builtins
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise

from pipelines.base import console
from pipelines.base.lock import LockError
from pipelines.base.manifest import ManifestError
from pipelines.base.process_signals import Stopped
from pipelines.base.published_lists import PublishedListsError
from pipelines.config.jobs import JobError, OptionError
from trainer.errors import TrainingError
from transforms.core.files import DamagedFileError
from transforms.logs.readers import LogError, LogSettingError
from transforms.search.candidates import NoCandidatesError
from transforms.sinks import SinkError


class StageError(RuntimeError):
    """A stage cannot continue; the message explains the reason to the user."""


class GateError(StageError):
    """A gate failed; the message names the gate, the value, the bound, and what to check."""


# Errors that are printed as their message, without a traceback.
EXPECTED_ERRORS = (
    StageError,
    GateError,
    JobError,
    OptionError,
    ManifestError,
    PublishedListsError,
    LogError,
    LogSettingError,
    NoCandidatesError,
    TrainingError,
    SinkError,
    DamagedFileError,
    LockError,
    OSError,
)

_BY_CODE: dict[int, tuple[type[Exception], ...]] = {2: (JobError, OptionError, LogSettingError), 3: (GateError,)}
_KINDS: dict[str, type[BaseException]] = {kind.__name__: kind for kind in EXPECTED_ERRORS if kind is not OSError}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_RERUN = "no partial results were kept; check the runner, then rerun the command"
_ENDED = re.compile(r"Pipeline \S+ failed in state (?P<state>\w+): (?P<reason>.*)", re.DOTALL)  # as Beam words it
# In Java traces the last 'Caused by' is the root cause. A job server may report only the root cause.
_CAUSE = re.compile(r"(?:\A\s*|^Caused by: )(?:[\w$]+\.)*(?=\S)(.+)$", re.MULTILINE)
_STEP = re.compile(r" \[while running '[^\n]*'\]$")  # which Beam adds to an error's message
_TRACEBACK = "Traceback (most recent call last):\n"
_CAUSED = "The above exception was the direct cause of the following exception:"
# In the text of a traceback, the error follows the lines of the calls, which are indented. Its message ends where Beam
# adds the step, where another traceback or one of Java follows, or at the end of the text.
_ERROR = re.compile(
    r"^(?:[\w.]+\.)?(?P<name>\w+): (?P<message>.*?)"
    r"(?:(?P<step> \[while running '[^\n]*'\])(?=\n|\Z)|(?=\n\n(?:During|The above) |\n\s*\tat |\nCaused by: |\s*\Z))",
    re.MULTILINE | re.DOTALL,
)


def run_command(work: Callable[[], int], say: Callable[[str], object] | None = None) -> int:
    """Run a command. Turn user errors, system failures and signals into one message and an exit code.

    `say` prints the message; without it, it goes to the standard error. Output whose reader has gone ends the command
    with `console.PIPE_CLOSED` and no message.
    """
    say = say or (lambda message: print(f"watchnext: {console.printable(message)}", file=sys.stderr))
    return console.print_to_reader(lambda: _reported(work, say))


def _reported(work: Callable[[], int], say: Callable[[str], object]) -> int:
    try:
        return work()
    except Stopped as stopped:
        say(str(stopped))
        return stopped.code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and console.closed_outputs():
            raise
        message = user_message(error)
        if message is None or wants_traceback(error):
            raise
        say(message)
        return exit_code(error)


def wants_traceback(error: Exception) -> bool:
    """Return whether the environment requests the traceback of a failure. Wrong settings have none."""
    return bool(os.environ.get("WATCHNEXT_TRACEBACK")) and exit_code(error) == 1


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command for an error, which a runner may have wrapped or passed on as text."""
    found = _expected(error)
    return next((code for code, kinds in _BY_CODE.items() if found and issubclass(found[0], kinds)), 1)


def error_for_exit_code(code: int) -> type[Exception]:
    """Return the error to raise if a child process ends with an exit code."""
    return _BY_CODE.get(code, (StageError,))[0]


def user_message(error: BaseException) -> str | None:
    """Return the message for the user of an error, which a runner may have wrapped or passed on as text. None if the
    error is unexpected (a bug); show its traceback."""
    found = _expected(error)
    return found[1] if found else _runner_failure_message(error)


def causes(error: BaseException, *, with_context: bool = False) -> Iterator[BaseException]:
    """Yield the error, then its cause, and so on. Each is yielded once, even in a cycle.

    The cause is the error that it was raised from. An error that was being handled when it was raised is not its cause,
    unless Beam raised a copy of that error with the step in its message. Otherwise an I/O error would mask a bug in its
    handler. With `with_context`, both are yielded.
    """
    seen: BaseException | None = error
    passed = set[int]()
    while seen is not None and id(seen) not in passed:
        passed.add(id(seen))
        yield seen
        seen = seen.__cause__ or (seen.__context__ if with_context or _STEP.search(str(seen)) else None)


def is_disk_full(error: BaseException) -> bool:
    """Return whether the disk is full or a quota exhausted, according to an error or its causes.

    TensorFlow, Arrow and runners pass on the text of the system error. The type is not enough: TensorFlow also raises
    ResourceExhaustedError for exhausted memory.
    """
    return any(isinstance(seen, OSError) and seen.errno in _DISK_FULL for seen in causes(error)) or any(
        os.strerror(code) in str(seen) for seen in causes(error) for code in _DISK_FULL
    )


def _expected(error: BaseException) -> tuple[type[BaseException], str] | None:
    """Return type and message of the expected error that an error is, or that caused it."""
    for seen in causes(error):
        if isinstance(seen, EXPECTED_ERRORS):
            return type(seen), _message(type(seen).__name__, str(seen), is_os_error=isinstance(seen, OSError))
        if found := _expected_in_text(str(seen)):
            return found
    return None


def _message(name: str, message: str, *, is_os_error: bool) -> str:
    text = _STEP.sub("", message)
    return f"{name}: {text}" if is_os_error else text


def _expected_in_text(text: str) -> tuple[type[BaseException], str] | None:
    """Return type and message of the expected error in the text of a traceback, or of its cause."""
    for before, traceback in reversed(list(pairwise(text.split(_TRACEBACK)))):
        raised = _ERROR.search(traceback)
        if raised is None:
            return None
        name, message = raised["name"], raised["message"]
        if kind := _KINDS.get(name):
            return kind, message
        if os_error := _os_error(name):
            return os_error, _message(name, message, is_os_error=True)
        if not raised["step"] and not before.rstrip().endswith(_CAUSED):
            return None
    return None


def _runner_failure_message(error: BaseException) -> str | None:
    """Return a message if the runner itself failed, for example its job server; None otherwise."""
    import grpc  # takes a tenth of a second

    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"the runner's job server does not answer ({error.code().name}: {error.details()}); {_RERUN}"
    ended = _ENDED.match(str(error)) if isinstance(error, RuntimeError) else None
    if ended is None:
        return None
    root_causes = _CAUSE.findall(ended["reason"]) or [""]
    return f"the runner ended the job in state {ended['state']}: {root_causes[-1].rstrip('. ')}; {_RERUN}"


def _os_error(name: str) -> type[OSError] | None:
    """Return the class of the system error that a traceback names."""
    if name == "BeamIOError":
        from apache_beam.io.filesystem import BeamIOError

        return BeamIOError
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, OSError) else None
