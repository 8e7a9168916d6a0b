"""Messages of pydantic's validation errors in one line."""

from __future__ import annotations

from pydantic import ValidationError

MOST_FAULTS = 3  # named in one message


def invalid_fields(error: ValidationError) -> str:
    """Return the fields that a model rejects and the reason of each, in one line."""
    faults = [(".".join(str(part) for part in fault["loc"]), fault["msg"]) for fault in error.errors()]
    shown = [
        f"{field}: {message[:1].lower()}{message[1:]}" if field else message for field, message in faults[:MOST_FAULTS]
    ]
    return "; ".join([*shown, *([f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else [])])
