"""Read published lists from a night's files or from Redis."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import polars as pl

from pipelines.base import paths
from pipelines.base.published_lists import READABLE_VERSIONS, Kind, PublishedLists, supported_versions
from pipelines.config.jobs import Job
from pipelines.night import publication_file
from pipelines.night.errors import StageError
from pipelines.sinks.redis_sink import server_of
from transforms.core import files
from transforms.core.digests import bucket_of
from transforms.sinks import redis_lists
from transforms.sinks.redis_server import RedisServer


@dataclass(frozen=True)
class ServedList:
    """A list, best video first."""

    video_ids: list[str]
    scores: list[float] | None  # None if scores are not stored
    seconds: list[float | None] | None = None  # expected, None behind the ranked videos; None if they are not stored
    country: str | None = None  # of a default list; None: all countries


class Lists(Protocol):
    """The lists of one night in one source."""

    @property
    def date(self) -> dt.date: ...

    def of_user(self, user_id: str) -> ServedList | None:
        """Return the list of a user, by the stored id; None if there is none."""

    def default(self, country: str | None) -> ServedList | None:
        """Return the default list of a country, or else that of all countries; None if the night has none."""


def open_lists(job: Job, source: str) -> Lists:
    """Open the lists that are published now. Raises StageError if there are none."""
    return RedisLists.open(job) if source == "redis" else FileLists.open(job)


@dataclass(frozen=True, kw_only=True)
class FileLists:
    """Lists in Parquet files. Looking up a user reads one file."""

    root: paths.Root
    files: PublishedLists

    @classmethod
    def open(cls, job: Job) -> FileLists:
        root = paths.Root(job.storage.root)
        found = publication_file.read(root, whole=True)
        if found is None:
            newest = publication_file.newest_publication(root)
            lost = f"{root.published} is missing: run watchnext nightly --date {newest}, which restores it"
            raise StageError(lost if newest else f"nothing is published in {root.path}: run watchnext nightly first")
        if found.format_version not in READABLE_VERSIONS:
            raise StageError(
                f"{root.published} has format_version {found.format_version}, but {supported_versions()} are "
                "supported: read it with the version of watchnext that wrote it"
            )
        lists = publication_file.served(root)
        assert lists is not None
        return cls(root=root, files=lists)

    @classmethod
    def of_night(cls, job: Job, date: dt.date) -> FileLists:
        """Open the lists that a night was last published with, or else those of its stages. Raises StageError."""
        root = paths.Root(job.storage.root)
        lists = publication_file.last_published(root, date) or publication_file.from_stages_if_complete(root, date)
        if lists is None:
            complete = [str(one) for one in paths.nights(root) if publication_file.from_stages_if_complete(root, one)]
            raise StageError(
                f"there are no complete lists of the night of {date} in {root.path}"
                + (f"; complete nights: {', '.join(complete)}" if complete else ": run watchnext nightly first")
            )
        return cls(root=root, files=lists)

    @property
    def date(self) -> dt.date:
        return self.files.date

    @property
    def has_seconds(self) -> bool:
        """Return whether the files have the column `expected_seconds`."""
        return self.files.stage == publication_file.RANKING and self.files.format_version > 1

    def of_user(self, user_id: str) -> ServedList | None:
        path = self.files.paths(self.root, "lists")[bucket_of(user_id, self.files.buckets)]
        columns = ["video_ids", "scores", *(["expected_seconds"] if self.has_seconds else [])]
        rows = self._find(path, "user_id", user_id, columns).rows()
        if not rows:
            return None
        found = ServedList(*rows[0])
        if self.files.stage == publication_file.RANKING and not self.has_seconds:
            # the scores were the expected seconds, and minus the position behind them
            return replace(found, seconds=[score if score > 0 else None for score in found.scores or ()])
        return found

    def default(self, country: str | None) -> ServedList | None:
        listed, columns = self.files.paths(self.root, "defaults"), ["country", "video_ids", "scores"]
        lists = {row[0]: row for path in listed for row in self.read(path, columns).iter_rows()}
        found = lists.get(country) or lists.get(None)
        return ServedList(country=found[0], video_ids=found[1], scores=found[2]) if found else None

    def similar_to(self, video_id: str) -> ServedList | None:
        """Return the videos that are most similar to one, with their cosines; None if the night has none of it."""
        for path in self.files.paths(self.root, "similar"):
            for row in self._find(path, "video_id", video_id, ["video_ids", "scores"]).iter_rows():
                return ServedList(*row)
        return None

    def ids(self, kind: Kind) -> pl.Series:
        """Return the users of all `lists`, or the videos that have `similar` ones."""
        column = "video_id" if kind == "similar" else "user_id"
        found = [self.read(path, [column]).to_series() for path in self.files.paths(self.root, kind)]
        return pl.concat([pl.Series(column, [], pl.String), *found])

    def read(self, path: str, columns: list[str] | None) -> pl.DataFrame:
        """Read some columns of a served file, or all. Raises StageError if it is missing or damaged."""
        with self._damage_reported(path):
            return files.read_parquet(path, columns)

    def _find(self, path: str, key: str, value: str, columns: list[str]) -> pl.DataFrame:
        """Read the rows of a served file with a key. Raises StageError if it is missing or damaged."""
        with self._damage_reported(path):
            return files.find_in_parquet(path, key, value, columns)

    @contextmanager
    def _damage_reported(self, path: str) -> Iterator[None]:
        """Raise StageError, with how to go on, if a served file is missing or damaged."""
        try:
            yield
        except (OSError, files.DamagedFileError, pl.exceptions.PolarsError) as error:
            raise StageError(
                f"the served file {path} cannot be read ({str(error).splitlines()[0]}): run the night of {self.date} "
                f"again from {self.files.stage}, or serve another night with watchnext rollback JOB.toml --to DATE"
            ) from error


@dataclass(frozen=True, kw_only=True)
class RedisLists:
    """Lists in Redis: the version that was served when the source was opened."""

    server: RedisServer
    keys: redis_lists.Keys
    version: str

    @classmethod
    def open(cls, job: Job) -> RedisLists:
        settings = job.storage.redis
        if settings is None:
            raise StageError("--from redis: the job has no [storage.redis]; add it, or read the files instead")
        server, keys = server_of(settings), redis_lists.Keys(settings.prefix)
        with server.session() as redis:
            version = redis.do("GET", keys.pointer)
        if version is None:
            raise StageError(
                f"Redis at {settings.url} has no key {keys.pointer}: it serves no night; run watchnext nightly first"
            )
        text = version.decode(errors="replace")
        if not re.fullmatch(r"\d{4}-\d\d-\d\d-[0-9a-f]+", text):
            raise StageError(
                f"Redis at {settings.url}: the key {keys.pointer} is {text!r}, which watchnext did not write: run "
                "watchnext rollback JOB.toml --to DATE with the date of the served night"
            )
        return cls(server=server, keys=keys, version=text)

    @property
    def date(self) -> dt.date:
        return dt.date.fromisoformat(self.version[:10])

    def of_user(self, user_id: str) -> ServedList | None:
        return self._read(self.keys.list_key(self.version, user_id))

    def default(self, country: str | None) -> ServedList | None:
        own = self._read(self.keys.default_key(self.version, country), country) if country else None
        return own or self._read(self.keys.default_key(self.version, None))

    def _read(self, key: str, country: str | None = None) -> ServedList | None:
        with self.server.session() as redis:
            value = redis.do("GET", key)
        if value is None:
            return None
        video_ids, scores = redis_lists.decode_list(value)
        return ServedList(video_ids=video_ids, scores=scores, country=country)
