"""Make text from logs, file names and configuration safe to print."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """Replace each non-printable character, including line ends, with an escape such as `\\x1b`."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def safe_variable_name(variable: str) -> str:
    """Return the name of an environment variable, quoted for a message.

    A value that does not look like such a name may be the secret itself, entered in the wrong place. It is not shown.
    """
    return repr(variable) if re.fullmatch(r"[A-Z][A-Z0-9_]*", variable) else "(not shown: it may be the secret itself)"
