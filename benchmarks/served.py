"""A server's reader during the nights: it reads every user's list several times a second, from files and from Redis.

    with Watcher("runs", redis_process) as watcher:
        ...  # nights
    watcher.polls, watcher.violations

It reads `published.json`, its file list and the files that this names; in Redis the pointer and the keys of its
version. A list is whole if it has k distinct videos and equals, at every poll, the list of the night that was named.
"""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import polars as pl
import redis

from benchmarks.redis_process import RedisProcess
from pipelines.base.paths import Root
from pipelines.base.published_lists import PublishedLists
from pipelines.night import publication_file
from pipelines.night.errors import StageError
from transforms.core import files
from transforms.sinks.redis_lists import Keys, decode_list

PAUSE_SECONDS = 0.2
_TRIES = 5  # files disappear if a night is run again or dropped: start again
_KEYS = Keys("watchnext")

Lists = dict[str, list[str]]  # user -> videos, best first


@dataclass
class Watcher:
    """Reads until the end of its block. `redis_is_up` is cleared while Redis is down on purpose."""

    root: Path
    server: RedisProcess
    k: int
    polls: int = 0
    lists: int = 0  # lists read, from files and Redis
    unanswered: int = 0  # polls while Redis was down on purpose
    violations: list[str] = field(default_factory=list)
    redis_is_up: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._whole: dict[str, Lists] = {}  # version or digest -> lists at the first poll
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self.redis_is_up.set()

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            if not (self.root / "published.json").exists():
                continue  # before the first night
            try:
                self._read_files()
                self._read_redis()
            except Exception as error:  # every error of a reader is a finding, and polling continues
                self.violations.append(f"{type(error).__name__}: {error}")
            self.polls += 1

    def _read_files(self) -> None:
        root = Root(str(self.root))
        for left in reversed(range(_TRIES)):
            try:
                served = publication_file.served(root)
                assert served is not None
                lists = _read(root, served)
            except (FileNotFoundError, StageError):
                if left:
                    continue
                raise
            self._compare(f"files of {served.date}", f"{served.date} {served.attempt}", lists)
            if len(lists) != served.users:
                self._violated(f"the publication has {served.users} users, but the files have {len(lists)}")
            return

    def _read_redis(self) -> None:
        expected_up = self.redis_is_up.is_set()
        try:
            version = (self.server.client.get(_KEYS.pointer) or b"").decode()
            if not version:
                self._violated("Redis serves no night")
                return
            if version not in self._whole:  # its files still exist at the switch
                root, date = Root(str(self.root)), dt.date.fromisoformat(version[: len("2026-11-21")])
                self._whole[version] = _read(root, publication_file.from_stages(root, date))
            users = list(self._whole[version])
            values = self.server.client.mget([_KEYS.list_key(version, user) for user in users])
        except redis.ConnectionError:
            if expected_up and self.redis_is_up.is_set():
                raise
            self.unanswered += 1
            return
        missing = [user for user, value in zip(users, values, strict=True) if value is None]
        if missing:
            self._violated(f"{len(missing)} users have no list in Redis' {version}: {missing[:3]}")
        found = {user: decode_list(value)[0] for user, value in zip(users, values, strict=True) if value is not None}
        self._compare(f"Redis' {version}", version, found)

    def _compare(self, where: str, key: str, found: Lists) -> None:
        """Count the lists, and record those that are incomplete or have changed."""
        self.lists += len(found)
        first = self._whole.setdefault(key, found)
        odd = [user for user, videos in found.items() if len(videos) != self.k or len(set(videos)) != self.k]
        if odd:
            self._violated(f"{len(odd)} lists of {where} are not of {self.k} videos: {odd[:3]}")
        if found != first:
            self._violated(f"{where} are not what they were")

    def _violated(self, what: str) -> None:
        self.violations.append(what)


def _read(root: Root, lists: PublishedLists) -> Lists:
    """Return the lists of all users."""
    rows = pl.concat(files.read_parquet(path, ["user_id", "video_ids"]) for path in lists.paths(root, "lists"))
    if rows["user_id"].is_duplicated().any():
        raise ValueError(f"a user of {lists.date} has two lists")
    return dict(rows.iter_rows())
