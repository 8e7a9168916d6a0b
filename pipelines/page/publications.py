"""The publication that is served now, opened once and kept until another one is published.

publications = Publications(job, "files")
publications.current().served.list_of("u0000001")
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from pipelines.base.paths import Root
from pipelines.config.jobs import Job
from pipelines.night import publication_file
from pipelines.night.night import Night
from pipelines.page.videos import Videos
from pipelines.serving.served import Served
from pipelines.serving.served_lists import FileLists, RedisLists, ServedList
from transforms.core import files

NO_IDS = pl.Series([], dtype=pl.String)
MOST_IDS = 5_000_000  # of users that are searched by the beginning of their id, about 100 MB in memory


@dataclass(frozen=True)
class Publication:
    """The lists of one night, and what has been read of its files so far. Each file is read when it is first needed."""

    served: Served
    entry: publication_file.Published | None  # `published.json`; None if it names another night than the source serves

    @property
    def night(self) -> Night:
        return self.served.night

    @cached_property
    def lists(self) -> FileLists | None:
        """The files of the lists; None if Redis serves a night whose files were dropped."""
        if isinstance(self.served.lists, FileLists):
            return self.served.lists
        found = publication_file.last_published(self.night.root, self.night.date)
        return FileLists(root=self.night.root, files=found) if found else None

    @property
    def is_ranked(self) -> bool:
        return self.lists is not None and self.lists.files.stage == publication_file.RANKING

    @cached_property
    def videos(self) -> Videos:
        """The catalogue."""
        return Videos.read(self.night, lambda: self.lists.ids("similar") if self.lists else NO_IDS)

    @cached_property
    def user_ids(self) -> pl.Series | None:
        """The ids of all users with a list, in any order; None if they are too many, pseudonyms, or not in files."""
        privacy = self.night.job.privacy
        if privacy.pseudonym_key_env is not None or privacy.pseudonym_key_secret is not None:
            return None
        if self.lists is None or self.lists.files.users > MOST_IDS:
            return None
        return self.lists.ids("lists")

    def users_beginning_with(self, text: str, limit: int) -> list[str]:
        """Return up to `limit` users whose id begins with a text; none if the ids are not known."""
        if self.user_ids is None or not text:
            return []
        return self.user_ids.filter(self.user_ids.str.starts_with(text)).head(limit).sort().to_list()

    def some_users(self, count: int) -> list[str]:
        """Return the ids of some users at random, in order; none if the ids are not known."""
        if self.user_ids is None:
            return []
        rows = random.sample(range(len(self.user_ids)), min(count, len(self.user_ids)))
        return self.user_ids.gather(rows).sort().to_list()

    def similar_to(self, video_id: str) -> ServedList | None:
        """Return the videos that are most similar to one; None if the night has none of it."""
        return self.lists.similar_to(video_id) if self.lists else None


@dataclass
class Publications:
    """What a source of a job serves. Safe for threads."""

    job: Job
    source: str  # one of `command_lines.LIST_SOURCES`
    _state: tuple[bytes, str] | None = None  # of the source when `_opened` was opened
    _opened: Publication | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def root(self) -> Root:
        return Root(self.job.storage.root)

    def current(self) -> Publication:
        """Return the publication that is served now: the one returned before, unless another one was published or
        users were forgotten. Raises StageError if nothing is published."""
        redis = RedisLists.open(self.job) if self.source == "redis" else None
        published = files.read_bytes(self.root.published) if files.exists(self.root.published) else b""
        state = (published, redis.version if redis else "")
        with self._guard:
            if self._opened is None or state != self._state:
                self._opened, self._state = self._open(redis), state
            return self._opened

    def reopen(self) -> None:
        """Open the publication anew at its next use."""
        with self._guard:
            self._opened = None

    def _open(self, redis: RedisLists | None) -> Publication:
        served = Served(Night(self.job, redis.date), redis) if redis else Served.open(self.job, self.source)
        entry = publication_file.read_if_valid(self.root)
        is_of_night = entry is not None and entry.night == served.night.date
        return Publication(served, entry if is_of_night else None)
