from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nights import REPOSITORY, environment, wait_for

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


def test_what_libraries_write_is_kept_back_while_all_is_well(
    at: Path, display: processes.ConsoleDisplay, capfd: pytest.CaptureFixture[str]
) -> None:
    command = stage(at, "import os; os.write(2, b'noise of a library'); print('to the standard output')")
    processes.run_stage(command, display=display, shows_progress=True)
    assert capfd.readouterr() == ("to the standard output\n", "")


def test_a_failed_stage_s_own_message_is_told_and_the_noise_is_not(at: Path, display: processes.ConsoleDisplay) -> None:
    script = "import sys\nprint('noise', file=sys.stderr)\nsys.exit(print('watchnext: no', file=sys.stderr) or 1)"
    with pytest.raises(StageError, match=r"^stage probe ended with exit code 1; nothing was published. no$"):
        processes.run_stage(stage(at, script), display=display, shows_progress=False)


def test_a_full_disk_is_one_line(at: Path, display: processes.ConsoleDisplay) -> None:
    script = "import sys\nprint('noise\\nwatchnext: stage probe: no space\\nmore noise', file=sys.stderr)\nsys.exit(1)"
    with pytest.raises(StageError, match=r"^stage probe: no space$"):
        processes.run_stage(stage(at, script), display=display, shows_progress=False)


def test_all_lines_of_a_message_of_a_stage_are_kept(at: Path, display: processes.ConsoleDisplay) -> None:
    script = "import sys\nprint('noise\\nwatchnext: two mistakes:\\n  one\\n\\n  two', file=sys.stderr)\nsys.exit(2)"
    with pytest.raises(JobError) as caught:
        processes.run_stage(stage(at, script), display=display, shows_progress=False)
    assert str(caught.value) == (
        "stage probe ended with exit code 2; nothing was published. two mistakes:\n  one\n\n  two"
    )


def test_a_stage_that_fails_without_a_message_leaves_the_end_of_what_it_wrote(
    at: Path, display: processes.ConsoleDisplay
) -> None:
    script = "import sys\nprint('x' * 100_000, file=sys.stderr)\nraise KeyError('a defect')"
    with pytest.raises(StageError, match="KeyError: 'a defect'") as caught:
        processes.run_stage(stage(at, script), display=display, shows_progress=False)
    assert len(str(caught.value)) < 25_000


@pytest.mark.parametrize(("code", "kind"), [(1, StageError), (2, JobError), (3, GateError), (4, StageError)])
def test_an_exit_code_of_a_stage_is_that_of_the_night(
    at: Path, display: processes.ConsoleDisplay, code: int, kind: type[Exception]
) -> None:
    command = stage(at, f"import sys; print('watchnext: no', file=sys.stderr); sys.exit({code})")
    with pytest.raises(
        Exception, match=f"stage probe ended with exit code {code}; nothing was published. no"
    ) as caught:
        processes.run_stage(command, display=display, shows_progress=False)
    assert type(caught.value) is kind and exit_code(caught.value) == (code if code in (2, 3) else 1)


def test_a_killed_stage_says_by_which_signal(at: Path, display: processes.ConsoleDisplay) -> None:
    with pytest.raises(StageError, match="stage probe was killed by signal 9; nothing was published"):
        processes.run_stage(stage(at, "import os; os.kill(os.getpid(), 9)"), display=display, shows_progress=False)


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
    told = at / "probe.py.pid"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=REPOSITORY,
        env=environment() | {"PYTHONPATH": os.environ["PYTHONPATH"]},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(told.exists, parent)
    probe = int(told.read_text())
    parent.send_signal(how)
    parent.communicate(timeout=60)
    try:
        wait_for(lambda: gone(probe))
    finally:
        if not gone(probe):
            os.kill(probe, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for counts."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
