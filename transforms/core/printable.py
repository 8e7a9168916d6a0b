"""Texts from logs and file names, made safe for a terminal."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """The text with an escape such as `\\x1b` in place of each character that is not printable, line ends included."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def shown_name(variable: str) -> str:
    """The name of an environment variable for a message. One that is not written as such names are may be the secret
    itself, in the wrong place: it is not shown."""
    return repr(variable) if re.fullmatch(r"[A-Z][A-Z0-9_]*", variable) else "(not shown: it may be the secret itself)"
