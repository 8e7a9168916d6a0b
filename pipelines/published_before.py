"""The lists that were published before a night, and what the night's store says people did with them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

from pipelines import kept, manifest, paths
from pipelines.sinks import protocol
from pipelines.stages import Night
from transforms.next_day import ServedBucket


@dataclass(frozen=True)
class PublishedBefore:
    """The night whose lists were served on the last day before another."""

    night: Night  # whose lists
    start: dt.datetime  # of the day
    end: dt.datetime
    fingerprint: str

    def about(self) -> dict[str, str]:
        """What `metrics.json` says of it."""
        return {
            "date": self.night.date.isoformat(),
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
        }


def published_before(night: Night) -> PublishedBefore | None:
    """The newest night before this one that was published, whether or not it was taken back since."""
    for date in reversed(kept.nights(night.root)):
        of = replace(night, date=date)
        done = manifest.record(of.folder("publish")) if date < night.date else None
        if done is not None and done.counts.get("published"):
            start, end = night.span(night.date - dt.timedelta(days=1))
            return PublishedBefore(of, start, end, manifest.fingerprint(date.isoformat(), done.fingerprint))
    return None


def served_buckets(night: Night, before: PublishedBefore) -> list[ServedBucket]:
    """For each bucket of a night's store, its files of the day and the lists its users were served; none where these
    lists were dropped since.

    The store may have had another bucket count: of two powers of two, users of bucket b of one are in those of the
    other that are b modulo the smaller.
    """
    stage = protocol.served_stage(before.night)
    listed = manifest.load(before.night.folder(stage))
    if listed is None:
        return []
    entries = protocol.own(listed)
    smaller = min(len(entries), night.snapshot.buckets)
    of_rest: dict[int, list[str]] = {}
    for entry in entries:
        path = paths.join(before.night.folder(stage), entry.name)
        of_rest.setdefault(paths.shard_index(entry.name) % smaller, []).append(path)
    return [
        ServedBucket(files=bucket, lists=tuple(of_rest.get(bucket.bucket % smaller, ())))
        for bucket in night.buckets(before.start)
    ]
