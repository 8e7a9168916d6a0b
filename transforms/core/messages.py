"""Text of messages: content of logs, file names and configuration in a form that is safe to print."""

from __future__ import annotations

import re

from pydantic import ValidationError

MOST_FAULTS = 3  # named in one message


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


def invalid_fields(error: ValidationError) -> str:
    """Return the fields that a model rejects and the reason of each, in one line."""
    faults = [(".".join(str(part) for part in fault["loc"]), fault["msg"]) for fault in error.errors()]
    shown = [
        f"{field}: {message[:1].lower()}{message[1:]}" if field else message for field, message in faults[:MOST_FAULTS]
    ]
    return "; ".join([*shown, *([f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else [])])
