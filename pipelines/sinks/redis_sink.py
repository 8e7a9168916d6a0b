"""Redis: each night is loaded under the keys of its own version, and one SET of one key switches to it.

The hash at `Keys.register` contains the state of each version: `{"loaded": true, "keys": 26470}`, with `expires`
(seconds since 1970) after a later night was served. A version that is not `loaded` is incomplete and is removed. The
served version and the one served before it never expire.
"""

from __future__ import annotations

import json
import time
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipelines.base import manifest, paths
from pipelines.config.sink_settings import RedisSettings
from pipelines.night.night import Night
from pipelines.night.sink_protocol import NightFiles
from transforms.core.records import Counts, WriteRecords, add_counts, pop_records
from transforms.sinks import SinkError, redis_lists
from transforms.sinks.redis_lists import Keys, Kind, LoadRedis, RedisPart, RedisVersion
from transforms.sinks.redis_server import RedisServer, Session


def server_of(settings: RedisSettings) -> RedisServer:
    """Return the server of `[storage.redis]`."""
    return RedisServer(
        url=settings.url,
        user_env=settings.user_env,
        password_env=settings.password_env,
        ca_file=settings.ca_file,
        retry_seconds=settings.retry_seconds,
    )


@dataclass(frozen=True)
class RedisSink:
    """The sink of `[storage.redis]`."""

    night: Night  # its runner loads
    settings: RedisSettings
    name: str = "redis"

    @property
    def server(self) -> RedisServer:
        return server_of(self.settings)

    @property
    def keys(self) -> Keys:
        return Keys(self.settings.prefix)

    def ready(self) -> None:
        with self.server.session() as redis:
            policy = redis.do("INFO", "memory").get("maxmemory_policy", "")
            clustered = redis.do("INFO", "cluster").get("cluster_enabled", 0)
        if policy.startswith("allkeys"):
            raise SinkError(
                f"Redis at {self.settings.url} has maxmemory-policy {policy}: when full, it would evict lists that are "
                "served; set noeviction or one of the volatile-* policies"
            )
        if clustered:
            raise SinkError(
                f"Redis at {self.settings.url} is a Redis Cluster, in which one command cannot set keys of several "
                "nodes: use a server that is not clustered"
            )

    def version(self, files: NightFiles) -> str:
        kept = (files.attempt, self.settings.vectors, self.settings.scores, redis_lists.FORMAT_VERSION)
        return f"{files.date}-{manifest.fingerprint(*kept)[:8]}"

    def load(self, files: NightFiles) -> dict[str, Any]:
        version = self.version(files)
        wanted = RedisVersion(server=self.server, keys=self.keys, version=version, scores=self.settings.scores)
        parts = self._parts(files)
        with self.server.session() as redis:
            state = self._register(redis).get(version, {"loaded": False})
            if state["loaded"] and "expires" not in state and not _missing(redis, wanted, parts):
                return {"version": version, "keys": 0}
            self._note(redis, version, {"loaded": False})
            loaded = sum(self._run(parts, wanted).values())
            if missing := _missing(redis, wanted, parts):
                raise SinkError(
                    f"Redis at {self.settings.url} has only {loaded - missing:,} of the {loaded:,} loaded keys: it was "
                    "restarted, or another program removes keys; run again"
                )
            self._note(redis, version, {"loaded": True, "keys": loaded})
        return {"version": version, "keys": loaded}

    def switch(self, version: str | None) -> None:
        with self.server.session() as redis:
            if version is None:
                redis.do("DEL", self.keys.pointer)
            else:
                redis.do("SET", self.keys.pointer, version)

    def drop(self, version: str) -> None:
        with self.server.session() as redis:
            if redis.do("GET", self.keys.pointer) != version.encode():
                self._remove(redis, version)

    def settle(self, keep: Set[str]) -> None:
        now, seconds = int(time.time()), max(1, int(self.settings.expire_hours * 3600))
        with self.server.session() as redis:
            for version, state in self._register(redis).items():
                if version in keep:
                    continue
                if not state["loaded"]:
                    self._remove(redis, version)
                elif "expires" not in state:
                    self._note(redis, version, {"loaded": False})  # so that an interrupted expiry ends in removal
                    redis_lists.expire_version(redis, self.keys, version, seconds)
                    self._note(redis, version, {"loaded": True, "expires": now + seconds})
                elif state["expires"] < now:
                    self._remove(redis, version)

    def forget(self, user_ids: pl.Series) -> None:
        with self.server.session() as redis:
            for version in self._register(redis):
                for kind in ("lists", "vectors"):
                    redis_lists.remove(redis, (self.keys.key_prefix(kind, version) + user_ids).to_list())

    def _parts(self, files: NightFiles) -> list[RedisPart]:
        vectors = files.vectors if self.settings.vectors else ()
        kinds: dict[Kind, tuple[str, ...]] = {"lists": files.lists, "vectors": vectors, "defaults": files.defaults}
        return [RedisPart(kind=kind, path=path) for kind, listed in kinds.items() for path in listed]

    def _run(self, parts: list[RedisPart], wanted: RedisVersion) -> dict[str, int]:
        """Load all parts, and return the number of keys by kind."""
        records = paths.join(self.night.folder("publish"), f"records-{manifest.new_attempt()}.json")
        with self.night.beam.pipeline("publish") as pipeline:
            (
                pipeline
                | self.night.beam.create(parts)
                | LoadRedis(wanted, self.night.beam.threads)
                | WriteRecords(records)
            )
        return add_counts(pop_records(records, Counts).of(Counts))

    def _register(self, redis: Session) -> dict[str, dict[str, Any]]:
        found: dict[bytes, bytes] = redis.do("HGETALL", self.keys.register)
        return {version.decode(errors="replace"): self._state(version, state) for version, state in found.items()}

    def _state(self, version: bytes, state: bytes) -> dict[str, Any]:
        """Parse the state of a version in the register. Raises SinkError if `_note` did not write it."""
        try:
            content = json.loads(state)
            assert isinstance(content["loaded"], bool) and isinstance(content.get("expires", 0), int)
            return dict(content)
        except (ValueError, TypeError, KeyError, AssertionError) as error:
            raise SinkError(
                f"Redis at {self.settings.url}: field {version!r} of the hash {self.keys.register} is {state!r}, "
                "which watchnext did not write: remove the field with HDEL, then run again"
            ) from error

    def _note(self, redis: Session, version: str, state: dict[str, Any]) -> None:
        redis.do("HSET", self.keys.register, version, json.dumps(state))

    def _remove(self, redis: Session, version: str) -> None:
        if self._register(redis).get(version, {}).get("loaded"):  # skip a needless write: a full server refuses it
            self._note(redis, version, {"loaded": False})
        redis_lists.remove_version(redis, self.keys, version)
        redis.do("HDEL", self.keys.register, version)


def _missing(redis: Session, wanted: RedisVersion, parts: list[RedisPart]) -> int:
    """Return how many keys are missing. Counted here and not in a pipeline, because one command checks a thousand keys,
    and a cluster needs minutes to start."""
    return sum(wanted.missing(redis, part) for part in parts)
