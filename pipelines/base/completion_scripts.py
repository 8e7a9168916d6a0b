"""Completion scripts for bash, zsh and fish, generated from the parsers of all commands.

    source <(watchnext completion bash)

Completed are commands, options, the values of arguments that have a choice of values, and files. Imports only the
standard library, so that a shell starts without delay.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.base import command_lines

NAME = "watchnext"


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One option, or one positional argument (without names), of a command."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]
    is_path: bool

    @classmethod
    def from_action(cls, action: argparse.Action) -> Argument:
        takes_value = action.nargs != 0
        metavars = {action.metavar} if isinstance(action.metavar, str) else set(action.metavar or ())
        # a NIGHT is a job file or a date, a table of logs has a PATH
        is_path = bool(metavars & {*command_lines.PATHS, "job.toml", "NIGHT", "PATH"})
        return cls(
            names=tuple(action.option_strings),
            help=(action.help or "").replace("%%", "%"),
            takes_value=takes_value,
            choices=tuple(map(str, action.choices or ())),
            is_path=is_path,
        )


def commands() -> dict[str, tuple[str, list[Argument]]]:
    """Return the description and the arguments of each command."""
    found = {}
    for name, make in command_lines.parsers().items():
        parser = make()
        found[name] = (parser.description or "", [Argument.from_action(a) for a in command_lines.options(parser)])
    return found


def bash() -> str:
    """Return the script for bash."""
    return "\n".join([*_bash_head(), *_bash_commands(), _BASH_TAIL])


def _bash_head() -> Iterator[str]:
    yield f"# bash completion of {NAME}: source <({NAME} completion bash)"
    yield f"_{NAME}() {{"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '    local options="" values="" files=""'
    yield "    COMPREPLY=()"
    yield "    if [[ $COMP_CWORD -eq 1 ]]; then"
    yield f'        COMPREPLY=($(compgen -W "{" ".join([*commands(), "help", "--version", "--help"])}" -- "$word"))'
    yield "        return"
    yield "    fi"


def _bash_commands() -> Iterator[str]:
    yield '    case "${COMP_WORDS[1]}" in'
    for name, (_, arguments) in commands().items():
        options = [word for argument in arguments for word in argument.names]
        places = [argument for argument in arguments if not argument.names]
        yield f"    {name})"
        yield f'        options="{" ".join([*options, "--help"])}"'
        if choices := [value for argument in places for value in argument.choices]:
            yield f'        values="{" ".join(choices)}"'
        yield f"        files={'yes' if any(argument.is_path for argument in places) else ''}"
        if cases := list(_bash_values(arguments)):
            yield '        case "$before" in'
            yield from cases
            yield "        esac"
        yield "        ;;"
    yield f'    help) values="{" ".join(commands())}" ;;'
    yield "    esac"


def _bash_values(arguments: list[Argument]) -> Iterator[str]:
    """Yield what completes the value of each option that takes one."""
    for argument in arguments:
        if argument.names and argument.takes_value:
            found = f'values="{" ".join(argument.choices)}"; files={"yes" if argument.is_path else ""}; options=""'
            yield f"        {'|'.join(argument.names)}) {found} ;;"


_BASH_TAIL = f"""\
    if [[ "$word" == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$word"))
        return
    fi
    COMPREPLY=($(compgen -W "$values" -- "$word"))
    if [[ -n "$files" ]]; then
        local IFS=$'\\n'
        COMPREPLY+=($(compgen -f -- "$word"))
        compopt -o filenames 2>/dev/null
    fi
}}
complete -F _{NAME} {NAME}
"""


def zsh() -> str:
    """Return the script for zsh."""
    return "\n".join(_zsh_lines()) + "\n"


def _zsh_lines() -> Iterator[str]:
    yield f"#compdef {NAME}"
    yield f"# zsh completion of {NAME}: source <({NAME} completion zsh), or save it as _{NAME} in a folder of $fpath"
    yield f"_{NAME}() {{"
    yield "    local -a commands"
    yield "    commands=("
    for name, (description, _) in commands().items():
        yield f"        {shlex.quote(f'{name}:{description}')}"
    yield "    )"
    yield "    if (( CURRENT == 2 )); then"
    yield "        _describe command commands"
    yield "        return"
    yield "    fi"
    yield "    local command=${words[2]}"
    yield "    shift words"
    yield "    (( CURRENT-- ))"
    yield "    case $command in"
    for name, (_, arguments) in commands().items():
        specs = [shlex.quote(spec) for argument in arguments for spec in _zsh_specs(argument)]
        yield f"    {name})"
        yield "        _arguments \\"
        yield from (f"            {spec} \\" for spec in specs)
        yield "            '--help[show the arguments]'"
        yield "        ;;"
    yield "    help) _describe command commands ;;"
    yield "    esac"
    yield "}"
    yield f"if [[ ${{funcstack[1]}} == _{NAME} ]]; then"
    yield f'    _{NAME} "$@"'
    yield "else"
    yield f"    compdef _{NAME} {NAME}"
    yield "fi"


def _zsh_specs(argument: Argument) -> Iterator[str]:
    """Yield the arguments of `_arguments` for one argument of a command."""
    text = argument.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    value = f"({' '.join(argument.choices)})" if argument.choices else "_files" if argument.is_path else ""
    if not argument.names:
        yield f"*:{text}:{value}"
    for name in argument.names:
        yield f"*{name}[{text}]" + (f":value:{value}" if argument.takes_value else "")


def fish() -> str:
    """Return the script for fish."""
    return "\n".join(_fish_lines()) + "\n"


def _fish_lines() -> Iterator[str]:
    first = "not __fish_seen_subcommand_from " + " ".join(commands())
    yield f"# fish completion of {NAME}: {NAME} completion fish | source"
    yield f"complete -c {NAME} -f"
    for name, (description, _) in commands().items():
        yield f"complete -c {NAME} -n {_fish(first)} -a {name} -d {_fish(description)}"
    for name, (_, arguments) in commands().items():
        condition = _fish(f"__fish_seen_subcommand_from {name}")
        for argument in arguments:
            places = [f"-l {option.removeprefix('--')}" for option in argument.names]
            # -F: files too; -x: a value, and no files; -r: a value, and files
            kind = ("-r -F" if argument.is_path else "-x") if argument.names and argument.takes_value else ""
            if not argument.names:
                if not (argument.choices or argument.is_path):
                    continue
                kind = "-F" if argument.is_path else ""
            values = f"-a {_fish(' '.join(argument.choices))}" if argument.choices else ""
            words = ["complete", f"-c {NAME}", f"-n {condition}", *places, kind, values, f"-d {_fish(argument.help)}"]
            yield " ".join(filter(None, words))


def _fish(text: str) -> str:
    """Quote text for fish, where a single quote and a backslash are escaped by a backslash."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS: dict[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
