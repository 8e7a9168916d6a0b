"""Completion scripts, run in the shells that are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.base import command_lines, completion_scripts

BASH = """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]}-1))
_watchnext
printf '%s\\n' "${COMPREPLY[@]}"
"""
CASES = [
    (["ro"], ["rollback"]),
    (["nightly", "--force"], ["--force", "--force-publish"]),
    (["nightly", "--only", "e"], ["examples", "evaluation"]),
    (["completion", ""], ["bash", "zsh", "fish"]),
    (["export", "a.toml", "b.csv", "--table", ""], ["lists", "vectors", "videos"]),
    (["doctor", "jo"], ["job.toml"]),
    (["backfill", "job.toml", "--from", "2"], []),
    (["help", "st"], ["status"]),
]


def completed(script: Path, words: list[str], folder: Path) -> list[str]:
    command = ["bash", "-c", BASH, "bash", str(script), "watchnext", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(("words", "expected"), CASES, ids=lambda case: " ".join(case))
def test_bash_completes(words: list[str], expected: list[str], tmp_path: Path) -> None:
    script = tmp_path / "watchnext.bash"
    script.write_text(completion_scripts.bash())
    (tmp_path / "job.toml").touch()
    assert completed(script, words, tmp_path) == expected


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(("words", "expected"), CASES[:6], ids=lambda case: " ".join(case))
def test_fish_completes(words: list[str], expected: list[str], tmp_path: Path) -> None:
    script = tmp_path / "watchnext.fish"
    script.write_text(completion_scripts.fish())
    (tmp_path / "job.toml").touch()
    question = f"source {script}; complete -C 'watchnext {' '.join(words)}'"
    done = subprocess.run(["fish", "-c", question], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert {*expected} <= {*found} and (words[0] == "export" or len(found) == len(expected))


@pytest.mark.parametrize("shell", command_lines.SHELLS)
def test_every_script_is_valid_and_names_every_option(shell: str, tmp_path: Path) -> None:
    text = completion_scripts.SCRIPTS[shell]()
    for name, (_, arguments) in completion_scripts.commands().items():
        assert name in text
        assert all(option.removeprefix("--") in text for argument in arguments for option in argument.names)
    if not shutil.which(shell):
        return
    script = tmp_path / "script"
    script.write_text(text)
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_quotes_and_brackets_in_a_help_text_do_not_end_it() -> None:
    argument = completion_scripts.Argument(
        names=("--a",), help="it's [one]: two", takes_value=True, choices=("x", "y"), is_path=False
    )
    assert list(completion_scripts._zsh_specs(argument)) == ["*--a[it's (one)\\: two]:value:(x y)"]
    assert completion_scripts._fish(argument.help) == "'it\\'s [one]: two'"
