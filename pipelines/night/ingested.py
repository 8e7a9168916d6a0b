"""What stage ingest left of the logs for one night: its snapshot of the store, users, hidden videos and catalogue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from pipelines.base import manifest, paths, snapshot_store
from pipelines.base.manifest import Manifest
from pipelines.night.dates import NightDates
from pipelines.night.outputs import IngestOutputs
from transforms.core import files
from transforms.logs.event_window import BucketFiles


@dataclass(frozen=True)
class Ingested:
    """The files of a night's ingest. Its manifest and snapshot are read once: they do not change after ingest."""

    root: paths.Root
    date: dt.date
    dates: NightDates

    @cached_property
    def snapshot(self) -> snapshot_store.Snapshot:
        """The store as the night's ingest left it, whatever came later."""
        number = self._manifest.read(IngestOutputs).snapshot
        return snapshot_store.load(snapshot_store.path_of(self.root.snapshots, number))

    def window_digest(self, tables: Sequence[str] = ("watches", "searches")) -> str:
        """Return a digest of the window: the events of some tables, the users, and the number of buckets."""
        listed = self.snapshot.files_between(self.dates.start, self.dates.end)
        digests = [file.file.digest for file in listed if file.table in tables]
        users = [entry.digest for entry in self._manifest.named("users/")]
        return manifest.fingerprint(self.snapshot.buckets, sorted(digests), users)

    def day_digests(self, tables: Sequence[str]) -> dict[str, str]:
        """Return a digest of the events of some tables for each day of the window that has any."""
        by_day: dict[str, list[tuple[str, int, str]]] = {}
        for file in self.snapshot.files_between(self.dates.start, self.dates.end):
            if file.table in tables:
                by_day.setdefault(file.day, []).append((file.table, file.bucket, file.file.digest))
        return {day: manifest.fingerprint(self.snapshot.buckets, sorted(found)) for day, found in by_day.items()}

    def buckets(self, start: dt.datetime | None = None) -> list[BucketFiles]:
        """Return the files of each user bucket in the window, or in the part of the window from `start` on."""
        users, hidden = self._by_bucket("users/"), self._by_bucket("hidden/")
        events: dict[tuple[str, int], list[str]] = {}
        for file in self.snapshot.files_between(start or self.dates.start, self.dates.end):
            events.setdefault((file.table, file.bucket), []).append(snapshot_store.path_to_read(self.root.store, file))
        return [
            BucketFiles(
                bucket=bucket,
                watches=tuple(events.get(("watches", bucket), ())),
                searches=tuple(events.get(("searches", bucket), ())),
                users=tuple(users.get(bucket, ())),
                hidden=tuple(hidden.get(bucket, ())),
                impressions=tuple(events.get(("impressions", bucket), ())),
            )
            for bucket in range(self.snapshot.buckets)
        ]

    def catalogue(self) -> str | None:
        """Return the path of the night's catalogue, None if the logs have none."""
        listed = manifest.entry_paths(self._manifest.named("videos-"), self._folder)
        return listed[0] if listed else None

    def lengths(self, video_ids: Iterable[str]) -> dict[str, float]:
        """Return the lengths in seconds that the night's catalogue has for some videos, by id."""
        return self._catalogue_values(video_ids, "video_seconds")

    def titles(self, video_ids: Iterable[str]) -> dict[str, str]:
        """Return the titles that the night's catalogue has for some videos, by id."""
        return self._catalogue_values(video_ids, "title")

    def _catalogue_values(self, video_ids: Iterable[str], column: str) -> dict[str, Any]:
        path = self.catalogue()
        if path is None:
            return {}
        wanted = pl.DataFrame({"video_id": list(video_ids)}, schema={"video_id": pl.String})
        known = files.read_parquet(path, ["video_id", column]).join(wanted, on="video_id", how="semi").drop_nulls()
        return dict(known.iter_rows())

    def _by_bucket(self, folder: str) -> dict[int, list[str]]:
        """Return the paths of the files in one of ingest's folders, by bucket."""
        by_bucket: dict[int, list[str]] = {}
        for path in manifest.entry_paths(self._manifest.named(folder), self._folder):
            by_bucket.setdefault(paths.shard_index(path), []).append(path)
        return by_bucket

    @property
    def _folder(self) -> str:
        return self.root.stage(self.date, "ingest")

    @cached_property
    def _manifest(self) -> Manifest:
        return manifest.require(self._folder, "ingest")
