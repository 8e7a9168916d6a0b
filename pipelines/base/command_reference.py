"""Generate docs/commands.md from the parsers of all commands: python -m pipelines.base.command_reference

The page goes to the standard output. Pages that explain a command at length are linked in `_PAGES`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pipelines.base import command_lines
from pipelines.base.console import Parser

HEAD = """\
# Commands

All commands with their arguments. `make docs` generates this page from the parsers in
`pipelines/base/command_lines.py`. `watchnext COMMAND --help` shows the same.

`watchnext --version` prints the version. Commands that pass unknown options to Beam are marked; these options also
configure its file systems (`--s3_endpoint_url`, credentials).
"""
COMPLETION = """\
## Shell completion

`watchnext completion SHELL` prints a script that completes commands, options, values and files.

| shell | once, for this shell | for every shell |
|---|---|---|
| bash | `source <(watchnext completion bash)` | the same line in `~/.bashrc` |
| zsh | `source <(watchnext completion zsh)` | the same line in `~/.zshrc`, after `compinit` |
| fish | `watchnext completion fish \\| source` | save it as `~/.config/fish/completions/watchnext.fish` |
"""
_PAGES = {
    "init": "[logs.md](logs.md#a-first-job-file)",
    "simulate": "",
    "doctor": "[operations.md](operations.md#checking-a-job-doctor)",
    "nightly": "[operations.md](operations.md#running-nights)",
    "backfill": "[operations.md](operations.md#missed-nights)",
    "status": "[operations.md](operations.md#status)",
    "compare": "[operations.md](operations.md#comparing-nights)",
    "export": "[serving.md](serving.md#export)",
}


def reference() -> str:
    """Return the page, with the commands in the order of the help."""
    parts = [HEAD, *("\n".join(_command(name, make())) for name, make in command_lines.parsers().items()), COMPLETION]
    return "\n".join(parts)


def _command(name: str, parser: Parser) -> Iterator[str]:
    beam = " [Beam options]" if name in command_lines.WITH_BEAM_OPTIONS else ""
    arguments = command_lines.options(parser)
    places = " ".join(_place(action) for action in arguments if not action.option_strings)
    required = " ".join(_option(action) for action in arguments if action.option_strings and action.required)
    words = " ".join(filter(None, ["watchnext", name, places, required]))
    options = " [options]" if any(action.option_strings and not action.required for action in arguments) else ""
    yield from (f"## {name}", "", f"    {words}{options}{beam}", "", parser.description or "", "")
    if page := _PAGES.get(name):
        yield from (f"More in {page}.", "")
    yield from ("| argument | meaning |", "|---|---|")
    for action in arguments:
        shown = _option(action) if action.option_strings else _place(action)
        yield f"| `{_cell(shown)}` | {_cell(_help(action))} |"
    yield ""
    if parser.epilog:
        yield from (_sentence(parser.epilog), "")


def _place(action: argparse.Action) -> str:
    return f"{action.metavar or action.dest}{' ...' if action.nargs == '+' else ''}"


def _option(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    return f"{names} {action.metavar or ('|'.join(map(str, action.choices or ())) or action.dest.upper())}"


def _help(action: argparse.Action) -> str:
    if not action.help:
        return ""
    return action.help.replace("%%", "%")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(text: str) -> str:
    plain = " ".join(text.split())
    return f"{plain[:1].upper()}{plain[1:]}."


if __name__ == "__main__":
    print(reference(), end="")
