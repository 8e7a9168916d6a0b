"""The journal of a publication in progress, `publishing.json`: written before any sink changes, removed at the end."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.base import lock
from pipelines.base.paths import Root
from pipelines.night import publication_file
from pipelines.night.errors import StageError
from pipelines.night.publication_file import Published
from transforms.core import files
from transforms.core.messages import invalid_fields

FORMAT_VERSION = 1


class IntentError(StageError):
    """`publishing.json` is damaged."""


class Intent(BaseModel):
    """A publication that is planned, and its state: the content of `publishing.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    entry: Published  # the new content of `published.json`
    loaded: bool = False  # whether all sinks are loaded
    withdrawn: list[str] = Field(default_factory=list)  # dates of nights that the publication withdraws
    format_version: int = FORMAT_VERSION

    @model_validator(mode="after")
    def _has_versions(self) -> Intent:
        if any(versions.serves is None for versions in self.entry.sinks.values()):
            raise ValueError("a sink has no version")
        return self

    @classmethod
    def pending(cls, root: Root) -> Intent | None:
        """Return the intent of an interrupted publication, or None. Raises IntentError if it cannot be read."""
        if not files.exists(root.publishing):
            return None
        try:
            return cls.model_validate(json.loads(files.read_bytes(root.publishing)))
        except (ValueError, TypeError) as error:
            fault = invalid_fields(error) if isinstance(error, ValidationError) else repr(error)
            raise IntentError(f"{root.publishing} cannot be read ({fault})") from error

    def declare(self, root: Root) -> None:
        """Write the intent and its state. Raises LockError if this run lost its lock."""
        lock.require()
        content = self.model_dump(mode="json") | {"entry": self.entry.content()}
        files.replace_file(root.publishing, publication_file.to_json(content))
