"""The wire formats of the databases that serve published lists."""

from __future__ import annotations


class SinkError(RuntimeError):
    """A database cannot be reached, refuses a request, or has lost data. The message says what to do."""
