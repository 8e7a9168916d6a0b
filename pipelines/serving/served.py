"""Read published lists as a server does, together with titles and the users' last watches.

served = Served.open(job, "files")
served.list_of("u0000001")           # the list of a user; reads one file
served.lists.default("SE")           # the list for unknown users of a country
served.last_watches("u0000001", 5)   # the user's watches before the night
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby

import polars as pl

from pipelines.base import snapshot_store
from pipelines.config.jobs import Job
from pipelines.night import privacy, publication_file, store_cleanup
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.serving import explain
from pipelines.serving.explain import FeatureEffect
from pipelines.serving.served_lists import FileLists, Lists, ServedList, open_lists
from transforms.core.digests import bucket_of
from transforms.logs.schemas import WATCH_SCHEMA

_DAYS_AT_ONCE = 7  # whose files are read in parallel
_WATCHES = ("user_id", "time", "video_id", "completed")


@dataclass(frozen=True)
class Served:
    """The published night of a job. User ids are those of the logs, before pseudonymisation."""

    night: Night
    lists: Lists

    @classmethod
    def open(cls, job: Job, source: str, date: dt.date | None = None) -> Served:
        """Open the night that one of `LIST_SOURCES` serves now, or a night's files.

        Raises StageError if there is none.
        """
        lists = open_lists(job, source) if date is None else FileLists.of_night(job, date)
        return cls(Night(job, lists.date), lists)

    def list_of(self, user_id: str) -> ServedList | None:
        """Return the list of a user; None if the night has no list for this user."""
        return self.lists.of_user(self._kept_as(user_id))

    @property
    def state(self) -> str:
        """Return `served`, `published` (published before, but not served now) or `never published`."""
        root, date = self.night.root, self.night.date
        served = publication_file.read_if_valid(root)
        if served and served.night == date:
            return "served"
        return "published" if publication_file.was_published(root, date) else "never published"

    def why(self, user_id: str) -> dict[str, list[FeatureEffect]]:
        """Return the features with the largest effects on each of the user's ranked videos. Raises StageError if the
        night was not ranked, or if its stages wrote other lists later."""
        left = publication_file.from_stages_if_complete(self.night.root, self.night.date)
        if isinstance(self.lists, FileLists) and (left is None or left.attempt != self.lists.files.attempt):
            raise StageError(
                f"the stages of the night of {self.night.date} wrote other lists after these were published, or their "
                "files were dropped, so --why cannot explain the order"
            )
        return explain.feature_effects(self.night, self._kept_as(user_id))

    def last_watches(self, user_id: str, n: int) -> pl.DataFrame:
        """Return time, video_id, completed of the user's last n watches in the window, newest first.

        Reads one bucket, some days at a time, newest first, until n watches are found. Empty if the night's snapshot
        was removed.
        """
        found = [pl.DataFrame(schema={name: WATCH_SCHEMA[name] for name in _WATCHES})]
        kept_as = self._kept_as(user_id)
        days = [[path for _, path in day] for _, day in groupby(self._watch_files(kept_as), key=lambda file: file[0])]
        while days and sum(part.height for part in found) < n:
            paths, days = list(chain.from_iterable(days[:_DAYS_AT_ONCE])), days[_DAYS_AT_ONCE:]
            own = pl.col("user_id") == kept_as
            found.append(self.night.dates.window.read_events(paths, WATCH_SCHEMA, _WATCHES, own))
        ordered = pl.concat(found).sort("time", "video_id", "completed", descending=[True, False, True])
        return ordered.head(n).drop("user_id")

    def _watch_files(self, kept_as: str) -> list[tuple[str, str]]:
        """Return (day, path) of the files with watches of the user's bucket, newest day first."""
        number = store_cleanup.snapshot_of(self.night.root, self.night.date)
        if number is None or not store_cleanup.snapshot_exists(self.night.root, number):
            return []
        snapshot = self.night.ingested.snapshot
        bucket = bucket_of(kept_as, snapshot.buckets)
        listed = snapshot.files_between(self.night.dates.start, self.night.dates.end)
        own = [file for file in listed if file.table == "watches" and file.bucket == bucket]
        return sorted(((f.day, snapshot_store.path_to_read(self.night.root.store, f)) for f in own), reverse=True)

    def _kept_as(self, user_id: str) -> str:
        return privacy.stored_id(self.night.job, user_id, self._key_check)

    @cached_property
    def _key_check(self) -> str:
        return snapshot_store.newest_key_check(self.night.root.snapshots)
