"""A publication under way: `publishing.json`, written before any sink is touched and removed when all is settled."""

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

FORMAT_VERSION = 1  # of `published.json` and of this


class IntentError(StageError):
    """`publishing.json` is damaged."""


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What is to be published, and how far that is."""

    entry: dict[str, Any]  # what `published.json` is to be
    loaded: bool = False  # in every sink
    withdrawn: list[str] = field(default_factory=list)  # dates of nights that this takes back
    format_version: int = FORMAT_VERSION

    @classmethod
    def pending(cls, root: Root) -> Intent | None:
        """The one that came to no end, if any. Raises IntentError if it cannot be read."""
        if not files.exists(root.publishing):
            return None
        try:
            found = cls(**json.loads(files.read_bytes(root.publishing)))
            dt.date.fromisoformat(found.entry["date"])
            sinks = found.entry.get("sinks", {})
            if not all(isinstance(served["serves"], str) for served in sinks.values()):
                raise TypeError("a sink has no version")
            return found
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IntentError(f"{root.publishing} cannot be read ({error!r})") from error

    def declare(self, root: Root) -> None:
        """Write down how far the publication is. Raises LockError if this run lost its lock."""
        lock.require()
        files.replace_file(root.publishing, publication_file.to_json(asdict(self)))
