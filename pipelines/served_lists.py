"""Published lists where servers find them: in a night's files, or in Redis."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Protocol

from pipelines import manifest, paths, publish
from pipelines.errors import StageError
from pipelines.intent import FORMAT_VERSION
from pipelines.jobs import Job
from pipelines.sinks.protocol import NEIGHBOURS
from pipelines.sinks.redis_sink import server_of
from pipelines.stages import Night
from transforms import files, redis_lists
from transforms.frames import bucket_of
from transforms.neighbours import DEFAULTS
from transforms.redis_server import RedisServer

SOURCES = ("files", "redis")


@dataclass(frozen=True, kw_only=True)
class ServedList:
    """A list, best first; of a default list also the country it is for, None for all."""

    video_ids: list[str]
    scores: list[float] | None  # None where they are not kept
    country: str | None = None


class Lists(Protocol):
    """The lists of one night in one place."""

    @property
    def date(self) -> dt.date: ...

    def of_user(self, user_id: str) -> ServedList | None:
        """The list of a user, by the id under which they are kept; None for one the night did not serve."""

    def default(self, country: str | None) -> ServedList | None:
        """The list of a country for users nobody has seen, or that of all countries; None in a night without them."""


def open_lists(job: Job, source: str) -> Lists:
    """The lists that are published now. Raises StageError where there are none."""
    return RedisLists.open(job) if source == "redis" else FileLists.open(job)


@dataclass(frozen=True, kw_only=True)
class FileLists:
    """Parquet files: of a user, one is opened."""

    night: Night
    stage: str  # whose lists are served
    buckets: int

    @classmethod
    def open(cls, job: Job) -> FileLists:
        found = publish.read(paths.Root(job.storage.root))
        if found is None:
            raise StageError(f"nothing is published in {job.storage.root}: run watchnext nightly first")
        if found["format_version"] != FORMAT_VERSION:
            raise StageError(
                f"{paths.Root(job.storage.root).published} has format_version {found['format_version']}, this is "
                f"{FORMAT_VERSION}: read it with the watchnext that wrote it"
            )
        night = Night(job, dt.date.fromisoformat(found["date"]))
        return cls(night=night, stage=found.get("stage", NEIGHBOURS), buckets=found["buckets"])

    @property
    def date(self) -> dt.date:
        return self.night.date

    def of_user(self, user_id: str) -> ServedList | None:
        bucket = bucket_of(user_id, self.buckets)
        own = {paths.shard_index(name): name for name in self._names(self.stage) if "/" not in name}
        if bucket not in own:  # the stage ran again since, with other settings
            raise StageError(
                f"the lists of {self.stage} that {self.night.root.published} names are no longer there: stage "
                f"{self.stage} ran again for {self.date} and left none; run watchnext nightly to publish what there is"
            )
        path = paths.join(self.night.folder(self.stage), own[bucket])
        rows = files.read_parquet(path).filter(user_id=user_id).select("video_ids", "scores").rows()
        return ServedList(video_ids=rows[0][0], scores=rows[0][1]) if rows else None

    def default(self, country: str | None) -> ServedList | None:
        folder = self.night.folder(NEIGHBOURS)
        listed = [paths.join(folder, name) for name in self._names(NEIGHBOURS) if name.startswith(f"{DEFAULTS}/")]
        columns = ["country", "video_ids", "scores"]
        lists = {row[0]: row for path in listed for row in files.read_parquet(path, columns).iter_rows()}
        found = lists.get(country) or lists.get(None)
        return ServedList(country=found[0], video_ids=found[1], scores=found[2]) if found else None

    def _names(self, stage: str) -> list[str]:
        """Names of a stage's files, seen from its folder."""
        return [entry.name for entry in manifest.require(self.night.folder(stage), stage).named(ending=".parquet")]


@dataclass(frozen=True, kw_only=True)
class RedisLists:
    """Keys of the version that the pointer named when it was opened."""

    server: RedisServer
    keys: redis_lists.Keys
    version: str

    @classmethod
    def open(cls, job: Job) -> RedisLists:
        settings = job.storage.redis
        if settings is None:
            raise StageError("--from redis: the job has no [storage.redis]; name the server there, or read the files")
        server, keys = server_of(settings), redis_lists.Keys(settings.prefix)
        with server.session() as redis:
            version = redis.do("GET", keys.pointer)
        if version is None:
            raise StageError(
                f"Redis at {settings.url} has no key {keys.pointer}: it serves no night; run watchnext nightly first"
            )
        return cls(server=server, keys=keys, version=version.decode())

    @property
    def date(self) -> dt.date:
        return dt.date.fromisoformat(self.version[:10])

    def of_user(self, user_id: str) -> ServedList | None:
        return self._read(self.keys.list_of(self.version, user_id))

    def default(self, country: str | None) -> ServedList | None:
        own = self._read(self.keys.default_of(self.version, country), country) if country else None
        return own or self._read(self.keys.default_of(self.version, None))

    def _read(self, key: str, country: str | None = None) -> ServedList | None:
        with self.server.session() as redis:
            value = redis.do("GET", key)
        if value is None:
            return None
        video_ids, scores = redis_lists.decode_list(value)
        return ServedList(video_ids=video_ids, scores=scores, country=country)
