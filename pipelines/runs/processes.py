"""Stages as processes, and what a person sees of them: a bar on a terminal, one line a stage in a log.

`run_log` has the same screen for programs: one JSON object a line.
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
_SHOWN_BYTES = 20_000  # of a failed stage's messages
_GRACE_SECONDS = 10.0  # for a stage to end by itself when the night is stopped


class ConsoleDisplay:
    """The progress of a night on the standard error."""

    def __init__(self, stages: int) -> None:
        self._stages, self._at = stages, 0
        form = "{desc} {bar:20} {n}/{total} stages {elapsed}{postfix}"
        self._bar = tqdm(total=stages, bar_format=form, leave=False) if sys.stderr.isatty() else None

    def __enter__(self) -> ConsoleDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, stage: str) -> None:
        if self._bar is not None:
            self._bar.set_description_str(f"{stage:<10}")

    def tick(self, seconds: float, at: Progress) -> None:
        if self._bar is not None:
            parts = f"{at.done}/{at.expected} parts, " if at.expected else ""
            self._bar.set_postfix_str(f"this stage {parts}{seconds:.0f} s")

    def say(self, stage: str, what: str, **_fields: Any) -> None:
        """One line about a stage that is over; `fields` are for programs."""
        self._at += 1
        self.line(f"[{self._at}/{self._stages}] {stage:<10} {what}")
        if self._bar is not None:
            self._bar.update()

    def line(self, text: str) -> None:
        text = console.printable(text)
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)


def run_stage(command: list[str], *, screen: ConsoleDisplay, shows_progress: bool) -> None:
    """Run a stage's process to its end. Raises StageError with what it wrote where it fails; GateError and JobError
    where its exit code says so.

    Libraries write notes to the standard error that are nobody's business while all is well: it is kept back, but for
    a stage that `shows_progress` of its own on a terminal.
    """
    on_screen = shows_progress and sys.stderr.isatty()
    with (
        tempfile.TemporaryFile() as kept,
        tempfile.NamedTemporaryFile() as told,
        process_signals.open_parent_pipe() as line,
    ):
        environment = os.environ | {"TQDM_POSITION": "1", "TQDM_LEAVE": "0", progress.VARIABLE: told.name}
        environment[process_signals.PARENT_PIPE_VARIABLE] = str(line)
        process = subprocess.Popen(command, stderr=None if on_screen else kept, env=environment, pass_fds=(line,))
        try:
            _wait(process, screen, told.name)
        finally:
            if process.poll() is None:  # interrupted: the stage goes with the night
                _end(process)
        if process.returncode:
            error = errors.of_exit_code(process.returncode)
            raise error(_explain(command[2], process.returncode, _end_of(kept)))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:  # deep in native code, which no signal reaches
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], screen: ConsoleDisplay, told: str) -> None:
    began = time.monotonic()
    while True:
        try:
            process.wait(_REFRESH_SECONDS)
            return
        except subprocess.TimeoutExpired:
            screen.tick(time.monotonic() - began, progress.read(told))


def _end_of(kept: IO[bytes]) -> str:
    size = kept.seek(0, os.SEEK_END)
    kept.seek(max(0, size - _SHOWN_BYTES))
    return kept.read().decode(errors="replace")


def _explain(module: str, code: int, written: str) -> str:
    """What a failed stage says: its own message, from its first line on, or else the end of all that it wrote."""
    stage = module.rsplit(".", 1)[-1]
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    _, _, own = f"\n{written}".partition("\nwatchnext: ")
    message = own.replace("\nwatchnext: ", "\n") or written
    if message.startswith(f"stage {stage}: "):  # a whole sentence; libraries may write more while the process ends
        return message.splitlines()[0]
    return f"stage {stage} {how}; nothing was published. {message.strip()}".rstrip()
