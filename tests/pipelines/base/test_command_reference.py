"""docs/commands.md says what the parsers say."""

from __future__ import annotations

from nights import REPOSITORY

from pipelines.base import command_lines
from pipelines.base.command_reference import reference


def test_the_page_is_up_to_date() -> None:
    page = REPOSITORY / "docs" / "commands.md"
    assert page.read_text(encoding="utf-8") == reference(), "docs/commands.md is stale: make docs"


def test_every_command_and_option_is_on_the_page() -> None:
    sections = reference().split("\n## ")
    for name, make in command_lines.parsers().items():
        section = next(text for text in sections if text.startswith(f"{name}\n"))
        for action in command_lines.options(make()):
            assert all(f"`{option}" in section for option in action.option_strings)
            assert action.option_strings or f"`{action.metavar}" in section
