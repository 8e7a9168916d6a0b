"""The places a published night is served from beside its files: what each of them must be able to do.

Stage publish alone calls them. It loads every configured sink with the night, each under a version of its own, then
switches one after the other; a version that is served is never written to. Every step may be done again: a start that
finds a publication unfinished does so.

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
from pipelines.night.publication_file import NEIGHBOURS as NEIGHBOURS
from pipelines.night.publication_file import RANKING as RANKING
from pipelines.night.publication_file import own as own
from pipelines.night.stage import Night


@dataclass(frozen=True, kw_only=True)
class NightFiles:
    """What a night serves, as paths of Parquet files whose rows no one changes but to forget users."""

    date: str
    attempt: str  # changes with every new run of the stages that wrote the files
    lists: tuple[str, ...]  # one a bucket: user_id, video_ids, scores
    vectors: tuple[str, ...]  # one a bucket that has users: user_id, vector
    defaults: tuple[str, ...]  # country (null: everywhere), video_ids, scores
    users: int  # rows of all lists


class Sink(Protocol):
    """One place. Every method raises SinkError or StageError, which name the place and say what to do."""

    @property
    def name(self) -> str:
        """The name of its table in `[storage]`."""

    def ready(self) -> None:
        """Raise where it cannot be reached or must not be used as it is configured."""

    def version(self, files: NightFiles) -> str:
        """The name the files have in this sink with its settings: equal only where all that would be loaded is."""

    def load(self, files: NightFiles) -> dict[str, Any]:
        """Load the files under their version and see that all of them are there; counts for people.

        Nothing where the version is there, whole, already. Nobody reads it before the switch.
        """

    def switch(self, version: str | None) -> None:
        """Let all readers see this version, in one step; None: no version at all."""

    def drop(self, version: str) -> None:
        """Remove what there is of a version; nothing where it is the one that readers see."""

    def settle(self, keep: Set[str]) -> None:
        """Let all versions expire but these."""

    def forget(self, user_ids: pl.Series) -> None:
        """Remove what any version holds of some users."""


def settings(job: Job) -> dict[str, Any]:
    """The settings of the configured sinks, by name."""
    return {name: table for name, table in job.storage.model_dump().items() if isinstance(table, dict)}


def served_stage(night: Night) -> str:
    """The stage whose lists would be served: see `publication.served_stage`."""
    return publication_file.served_stage(night.root, night.date)


def night_files(root: paths.Root, lists: PublishedLists) -> NightFiles:
    """The files of a publication as sinks load them."""
    return NightFiles(
        date=lists.date.isoformat(),
        attempt=lists.attempt,
        lists=lists.paths(root, "lists"),
        vectors=lists.paths(root, "user_vectors"),
        defaults=lists.paths(root, "defaults"),
        users=lists.users,
    )
