"""Every command has a parser of the same form, in one module that imports only the standard library."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from nights import REPOSITORY

from pipelines import cli
from pipelines.base import command_lines
from pipelines.base.console import Parser
from pipelines.config import settings
from pipelines.night import errors, stage

COMMANDS = list(command_lines.parsers())


def test_the_commands_are_those_of_the_command_line() -> None:
    assert {*COMMANDS} == {*cli.COMMANDS}
    assert {*command_lines.WITH_BEAM_OPTIONS, *command_lines.IMPORTING_BEAM} < {*COMMANDS}
    assert {*command_lines.LOG_TABLES} == {*settings.TABLES}
    assert stage.STAGES is command_lines.STAGES and errors.GateError.__name__ == "GateError"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_parser_that_describes_each_argument(name: str) -> None:
    module = importlib.import_module(f"pipelines.{command_lines.MODULES.get(name, name)}")
    parser = module.parser()
    assert isinstance(parser, Parser) and parser.prog == f"watchnext {name}"
    assert parser.description and parser.description.endswith(".")
    assert all(action.help for action in command_lines.options(parser))
    assert module.parser is command_lines.parsers()[name]


def test_help_completion_and_their_parsers_import_only_the_standard_library() -> None:
    script = (
        "import sys\nfrom pipelines import cli\nfrom pipelines.base import command_reference, completion_scripts\n"
        "completion_scripts.bash(), command_reference.reference(), cli.main(['--help'])\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - {*sys.stdlib_module_names}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = done.stdout.strip()
    assert not {"numpy", "polars", "apache_beam", "tensorflow", "pydantic", "rich"} & {
        *loaded.strip("[]'").split("', '")
    }
    assert "pipelines" in loaded


@pytest.mark.parametrize("name", ["status", "report"])
def test_commands_that_read_a_few_small_files_import_neither_beam_nor_tensorflow(name: str) -> None:
    script = (
        f"import sys, pipelines.{name}\n"
        "print(sorted(sys.modules.keys() & {'apache_beam', 'tensorflow', 'scann', 'grpc', 'pandas', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
