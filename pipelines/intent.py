"""A publication under way: `publishing.json`, written before any sink is touched and removed when all is settled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines import lock
from pipelines.errors import StageError
from pipelines.paths import Root
from transforms import files

FORMAT_VERSION = 1  # of `published.json` and of this


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What is to be published, and how far that is."""

    entry: dict[str, Any]  # what `published.json` is to be
    loaded: bool = False  # in every sink
    withdrawn: list[str] = field(default_factory=list)  # dates of nights that this takes back
    format_version: int = FORMAT_VERSION

    @classmethod
    def pending(cls, root: Root) -> Intent | None:
        """The one that came to no end, if any. Raises StageError where it cannot be read."""
        if not files.exists(root.publishing):
            return None
        try:
            return cls(**json.loads(files.read_bytes(root.publishing)))
        except (ValueError, TypeError) as error:
            raise StageError(
                f"{root.publishing} cannot be read ({error}): remove it and run the night again"
            ) from error

    def declare(self, root: Root) -> None:
        """Write down how far the publication is. Raises LockError if this run lost its lock."""
        lock.require()
        files.replace_file(root.publishing, to_json(asdict(self)))


def to_json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()
