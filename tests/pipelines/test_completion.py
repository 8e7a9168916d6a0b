from __future__ import annotations

import pytest
from commands import run_here

from pipelines.base import command_lines, completion_scripts


@pytest.mark.parametrize("shell", command_lines.SHELLS)
def test_the_script_of_a_shell_is_printed(shell: str) -> None:
    done = run_here("completion", shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, completion_scripts.SCRIPTS[shell](), "")


def test_another_shell_is_a_mistake() -> None:
    done = run_here("completion", "tcsh")
    assert done.returncode == 2 and "invalid choice: 'tcsh'" in done.stderr
