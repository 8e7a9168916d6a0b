"""Texts from logs and file names, made safe for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with an escape such as `\\x1b` in place of each character that is not printable, line ends included."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)
