"""How a night ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a night ended."""

    run: str
    date: str
    code: int  # the exit code
    message: str
    seconds: float
