"""The commands that a person types, run in this process: stages too, which a night otherwise starts as processes.

done = watchnext("nightly", job, "--date", "2026-11-21")
done.code, done.message
"""

from __future__ import annotations

import contextlib
import importlib
import io
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pipelines import cli
from pipelines.night import errors
from pipelines.night.stage import stage_main
from pipelines.runs import processes

TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code and all that it printed."""

    code: int
    message: str

    @property
    def has_traceback(self) -> bool:
        return TRACEBACK in self.message


def watchnext(*arguments: object) -> Done:
    """Run `watchnext ARGUMENTS`. What an error nobody expected would print is in the message, as on a terminal."""
    return _run(lambda: cli.main([str(argument) for argument in arguments]))


def run_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the same with its two outputs apart, as of a process."""
    output = io.StringIO()
    argv = [str(argument) for argument in arguments]
    done = _run(lambda: cli.main(argv), output)
    return subprocess.CompletedProcess(argv, done.code, output.getvalue(), done.message)


def _run(command: Any, output: io.StringIO | None = None) -> Done:
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(output or printed):
        try:
            code = command()
        except SystemExit as exited:
            code = exited.code if isinstance(exited.code, int) else 1
        except Exception:
            traceback.print_exc(file=printed)
            code = 1
    return Done(int(code or 0), printed.getvalue())


def _run_stage(command: list[str], **_screen: Any) -> None:
    module = importlib.import_module(command[2])
    done = _run(lambda: stage_main(module, command[3:]))
    if done.code:
        raise errors.error_for_exit_code(done.code)(processes._failure_message(command[2], done.code, done.message))


@contextlib.contextmanager
def stages_in_process() -> Iterator[None]:
    """Nights run their stages in this process for as long as the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "run_stage", _run_stage)
        yield
