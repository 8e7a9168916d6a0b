"""Run stages as processes, and display their progress: a bar on a terminal, otherwise one line per stage.

`run_log` has a display for programs, which writes one JSON object per line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import IO, Any

from tqdm import tqdm

from pipelines.base import console, process_signals
from pipelines.night import errors
from transforms.core import progress
from transforms.core.progress import Progress

_REFRESH_SECONDS = 0.5
_SHOWN_BYTES = 20_000  # of the output of a failed stage
_GRACE_SECONDS = 10.0  # that a stage has to exit after SIGTERM before it is killed


class ConsoleDisplay:
    """Displays the progress of a night on the standard error."""

    def __init__(self, stages: int) -> None:
        self._stages, self._ended = stages, 0
        form = "{desc} {bar:20} {n}/{total} stages {elapsed}{postfix}"
        self._bar = tqdm(total=stages, bar_format=form, leave=False, disable=None)  # only on a terminal

    def __enter__(self) -> ConsoleDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.close()

    def begin_stage(self, stage: str) -> None:
        """Show that a stage runs."""
        self._bar.set_description_str(f"{stage:<10}")

    def update_stage(self, seconds: float, done: Progress) -> None:
        """Show the progress of the running stage, which began `seconds` ago."""
        parts = f"{done.done}/{done.expected} parts, " if done.expected else ""
        self._bar.set_postfix_str(f"this stage {parts}{seconds:.0f} s")

    def end_stage(self, stage: str, result: str, **_fields: Any) -> None:
        """Print one line about a stage that has ended. `JsonDisplay` also writes the fields."""
        self._ended += 1
        self.print_line(f"[{self._ended}/{self._stages}] {stage:<10} {result}")
        self._bar.update()

    def print_line(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.write(console.printable(text), file=sys.stderr)


def run_stage(command: list[str], *, display: ConsoleDisplay, shows_progress: bool) -> None:
    """Run the process of a stage until it ends. If it fails, raises StageError, GateError or JobError, depending on its
    exit code, with the output of the process.

    The standard error of a stage is shown only on failure, unless the stage `shows_progress` on a terminal.
    """
    to_terminal = shows_progress and sys.stderr.isatty()
    with (
        tempfile.TemporaryFile() as output,
        tempfile.NamedTemporaryFile() as progress_file,
        process_signals.open_parent_pipe() as pipe,
    ):
        environment = os.environ | {"TQDM_POSITION": "1", "TQDM_LEAVE": "0", progress.VARIABLE: progress_file.name}
        environment[process_signals.PARENT_PIPE_VARIABLE] = str(pipe)
        process = subprocess.Popen(command, stderr=None if to_terminal else output, env=environment, pass_fds=(pipe,))
        try:
            _wait(process, display, progress_file.name)
        finally:
            if process.poll() is None:  # interrupted: the stage ends with the night
                _end(process)
        if process.returncode:
            error = errors.error_for_exit_code(process.returncode)
            raise error(_failure_message(command[2], process.returncode, _last_output(output)))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:  # in native code, Python handles no signals
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], display: ConsoleDisplay, progress_file: str) -> None:
    began = time.monotonic()
    while True:
        try:
            process.wait(_REFRESH_SECONDS)
            return
        except subprocess.TimeoutExpired:
            display.update_stage(time.monotonic() - began, progress.read(progress_file))


def _last_output(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _SHOWN_BYTES))
    return output.read().decode(errors="replace")


def _failure_message(module: str, code: int, output: str) -> str:
    """Return the message of a failed stage: its own error message, or else the end of its output."""
    stage = module.rsplit(".", 1)[-1]
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    _, _, own = f"\n{output}".partition("\nwatchnext: ")
    message = own.replace("\nwatchnext: ", "\n") or output
    if message.startswith(f"stage {stage}: "):  # a complete sentence; libraries may write more at exit
        return message.splitlines()[0]
    return f"stage {stage} {how}; nothing was published. {message.strip()}".rstrip()
