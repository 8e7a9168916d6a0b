"""Print a script that completes the commands, options and files of `watchnext` in a shell.

watchnext completion bash|zsh|fish
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.base import command_lines, completion_scripts, console

parser = command_lines.completion


def main(argv: Sequence[str] | None = None) -> int:
    """Print the script of a shell."""
    args = parser().parse_args(argv)
    return console.print_to_reader(lambda: print(completion_scripts.SCRIPTS[args.shell](), end="") or 0)


if __name__ == "__main__":
    raise SystemExit(main())
