"""The interface of sinks, the services that serve a published night in addition to its files.

Only `pipelines.serving.publication` loads and switches sinks; `doctor` calls `ready`. A publication loads the night
into each configured sink as a new version, then switches the sinks one after another. It never writes to a version that
is served, except to remove forgotten users. All steps are idempotent, because the next start repeats them after an
interruption.

    sink.ready() -> sink.load(files) -> [all others too] -> sink.switch(version) -> sink.settle({version, before})
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from pipelines.base import paths
from pipelines.base.published_lists import PublishedLists
from pipelines.config.jobs import Job
from pipelines.night import publication_file
from pipelines.night.night import Night


@dataclass(frozen=True, kw_only=True)
class NightFiles:
    """The files that a night serves. Their rows change only when users are forgotten."""

    date: str
    attempt: str  # changes with every new run of the stages that wrote the files
    lists: tuple[str, ...]  # one a bucket: user_id, video_ids, scores
    vectors: tuple[str, ...]  # one a bucket that has users: user_id, vector
    defaults: tuple[str, ...]  # country (null: everywhere), video_ids, scores
    users: int  # rows of all lists


class Sink(Protocol):
    """A sink. All methods raise SinkError or StageError with the name of the sink and how to fix the problem."""

    @property
    def name(self) -> str:
        """The name of the sink's table in `[storage]`."""

    def ready(self) -> None:
        """Check that the sink is reachable and configured correctly; raise an error otherwise."""

    def version(self, files: NightFiles) -> str:
        """Return the version of the files in this sink. Equal versions have equal content and settings."""

    def load(self, files: NightFiles) -> dict[str, Any]:
        """Load the files as their version, verify that it is complete, and return counts for display.

        Does nothing if the version is already complete. The version is not visible to readers before the switch.
        """

    def switch(self, version: str | None) -> None:
        """Switch all readers to this version in one step; None: to no version."""

    def drop(self, version: str) -> None:
        """Remove a version, unless readers use it."""

    def settle(self, keep: Set[str]) -> None:
        """Let all versions except these expire."""

    def forget(self, user_ids: pl.Series) -> None:
        """Remove the data of some users from all versions."""


def settings(job: Job) -> dict[str, Any]:
    """Return the settings of the configured sinks by name."""
    return {name: table for name, table in job.storage.model_dump().items() if isinstance(table, dict)}


def served_stage(night: Night) -> str:
    """Return the stage whose lists would be served: see `publication_file.served_stage`."""
    return publication_file.served_stage(night.root, night.date)


def night_files(root: paths.Root, lists: PublishedLists) -> NightFiles:
    """Return the files of a publication for the sinks to load."""
    return NightFiles(
        date=lists.date.isoformat(),
        attempt=lists.attempt,
        lists=lists.paths(root, "lists"),
        vectors=lists.paths(root, "user_vectors"),
        defaults=lists.paths(root, "defaults"),
        users=lists.users,
    )
