"""The base of the parts of JSON files that are validated when they are read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class JsonModel(BaseModel):
    """A part of a JSON file. Unknown fields are errors: another version wrote them, or they are misspelt."""

    model_config = ConfigDict(extra="forbid", frozen=True)
