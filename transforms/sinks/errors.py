"""Errors of the places lists are served from, whatever holds them."""

from __future__ import annotations


class SinkError(RuntimeError):
    """A place lists are served from that cannot be reached, refuses what it is given, or lost some of it."""
