"""The journal of a publication in progress, `publishing.json`: written before any sink changes, removed at the end."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.base import lock
from pipelines.base.paths import Root
from pipelines.night import publication_file
from pipelines.night.errors import StageError
from transforms.core import files

FORMAT_VERSION = 1  # of `published.json` and `publishing.json`


class IntentError(StageError):
    """`publishing.json` is damaged."""


@dataclass(frozen=True, kw_only=True)
class Intent:
    """A publication that is planned, and its state."""

    entry: dict[str, Any]  # the new content of `published.json`
    loaded: bool = False  # whether all sinks are loaded
    withdrawn: list[str] = field(default_factory=list)  # dates of nights that the publication takes back
    format_version: int = FORMAT_VERSION

    @classmethod
    def pending(cls, root: Root) -> Intent | None:
        """Return the intent of an interrupted publication, or None. Raises IntentError if it cannot be read."""
        if not files.exists(root.publishing):
            return None
        try:
            intent = cls(**json.loads(files.read_bytes(root.publishing)))
            dt.date.fromisoformat(intent.entry["date"])
            sinks = intent.entry.get("sinks", {})
            if not all(isinstance(served["serves"], str) for served in sinks.values()):
                raise TypeError("a sink has no version")
            return intent
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IntentError(f"{root.publishing} cannot be read ({error!r})") from error

    def declare(self, root: Root) -> None:
        """Write the intent and its state. Raises LockError if this run lost its lock."""
        lock.require()
        files.replace_file(root.publishing, publication_file.to_json(asdict(self)))
