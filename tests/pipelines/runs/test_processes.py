from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path

import pytest
from nights import REPOSITORY, has_ended, start_python, wait_for

from pipelines.config.jobs import JobError
from pipelines.night.errors import GateError, StageError, exit_code
from pipelines.runs import processes


@pytest.fixture
def display() -> processes.ConsoleDisplay:
    return processes.ConsoleDisplay(2)


def stage(folder: Path, script: str) -> list[str]:
    """The command of a stage named `probe` that runs a script."""
    (folder / "probe.py").write_text(script)
    return [sys.executable, "-m", "probe"]


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
    return tmp_path


def test_output_of_libraries(at: Path, display: processes.ConsoleDisplay, capfd: pytest.CaptureFixture[str]) -> None:
    command = stage(at, "import os; os.write(2, b'noise of a library'); print('to the standard output')")
    processes.run_stage(command, display=display, shows_progress=True)
    assert capfd.readouterr() == ("to the standard output\n", "")


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (
            "print('noise\\nwatchnext: stage probe: no space\\nx', file=sys.stderr)\nsys.exit(1)",
            StageError,
            ": no space",
        ),
        (
            "print('noise\\nwatchnext: two mistakes:\\n  one\\n\\n  two', file=sys.stderr)\nsys.exit(2)",
            JobError,
            " ended with exit code 2; nothing was published. two mistakes:\n  one\n\n  two",
        ),
        ("os.kill(os.getpid(), 9)", StageError, " was killed by signal 9; nothing was published."),
    ],
    ids=["full disk", "several lines", "killed"],
)
def test_the_message_of_a_failed_stage_is_kept_without_the_noise(
    at: Path, display: processes.ConsoleDisplay, script: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        processes.run_stage(stage(at, f"import os, sys\n{script}"), display=display, shows_progress=False)
    assert str(caught.value) == f"stage probe{message}"


def test_a_stage_without_a_message_leaves_the_end_of_its_output(at: Path, display: processes.ConsoleDisplay) -> None:
    script = "import sys\nprint('x' * 100_000, file=sys.stderr)\nraise KeyError('a defect')"
    with pytest.raises(StageError, match="KeyError: 'a defect'") as caught:
        processes.run_stage(stage(at, script), display=display, shows_progress=False)
    assert len(str(caught.value)) < 25_000


@pytest.mark.parametrize(("code", "kind"), [(1, StageError), (2, JobError), (3, GateError), (4, StageError)])
def test_errors_by_exit_code(at: Path, display: processes.ConsoleDisplay, code: int, kind: type[Exception]) -> None:
    command = stage(at, f"import sys; print('noise\\nwatchnext: no', file=sys.stderr); sys.exit({code})")
    with pytest.raises(Exception, match=rf"^stage probe ended with exit code {code}; [^.]+\. no$") as caught:
        processes.run_stage(command, display=display, shows_progress=False)
    assert type(caught.value) is kind and exit_code(caught.value) == (code if code in (2, 3) else 1)


def test_in_a_log_each_stage_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with processes.ConsoleDisplay(2) as display:
        display.begin_stage("ingest")
        display.end_stage("ingest", "3.4 s")
        display.begin_stage("train")
        display.end_stage("train", "already complete")
        display.print_line("done")
    assert written.getvalue() == "[1/2] ingest     3.4 s\n[2/2] train      already complete\ndone\n"


# Runs a stage that never ends by itself, and says its process id.
PARENT = """
import sys
from pipelines.runs import processes
processes.run_stage([sys.executable, "-m", "probe"], display=processes.ConsoleDisplay(1), shows_progress=False)
"""
ENDLESS = """
import os, sys, threading
from pipelines.base import process_signals
process_signals.exit_with_parent()
with open(sys.argv[0] + ".tmp", "w") as file: file.write(str(os.getpid()))
os.rename(sys.argv[0] + ".tmp", sys.argv[0] + ".pid")
threading.Event().wait()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_the_nightly_however_that_ends(at: Path, how: signal.Signals) -> None:
    stage(at, ENDLESS)
    message = at / "probe.py.pid"
    with start_python("-c", PARENT) as parent:
        wait_for(message.exists, parent)
        probe = int(message.read_text())
        parent.send_signal(how)
        parent.communicate(timeout=60)
    try:
        wait_for(lambda: has_ended(probe))
    finally:
        if not has_ended(probe):
            os.kill(probe, signal.SIGKILL)
