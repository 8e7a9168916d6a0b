"""Find the lists that were served on the last day before a night, and the events of that day."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from pipelines.base import manifest, paths
from pipelines.night import publication_file
from pipelines.night.night import Night
from pipelines.night.outputs import PublishOutputs
from transforms.evaluation.next_day import ServedBucket

INPUT = "published_before"  # in the inputs of stage evaluation: the fingerprint of the publication


@dataclass(frozen=True)
class PublishedBefore:
    """The night that was served on the day before another night."""

    date: dt.date  # whose lists
    start: dt.datetime  # of the day
    end: dt.datetime
    fingerprint: str

    def about(self) -> dict[str, str]:
        """Return the description in `metrics.json`."""
        return {"date": self.date.isoformat(), "start": self.start.isoformat(), "end": self.end.isoformat()}


def published_before(night: Night) -> PublishedBefore | None:
    """Return the newest night before this one that was published and not withdrawn; None if there is none.

    It is fixed once stage evaluation has measured it, even if it is withdrawn later: it was served on the day.
    """
    done = manifest.record(night.folder("evaluation"))
    fixed = done.inputs.get(INPUT) if done else None
    withdrawn, newest = publication_file.withdrawn(night.root), None
    for date in reversed(paths.nights(night.root)):
        if date < night.date and (found := _of(night, date)):
            if found.fingerprint == fixed:
                return found
            newest = newest or (found if date.isoformat() not in withdrawn else None)
    return newest


def _of(night: Night, date: dt.date) -> PublishedBefore | None:
    """Return an earlier night if it was published, else None."""
    done = manifest.record(night.root.stage(date, "publish"))
    outputs = done.read(PublishOutputs) if done else None
    if done is None or outputs is None or not outputs.was_published:
        return None
    start, end = night.dates.span(night.date - dt.timedelta(days=1))
    publication = done.fingerprint if outputs.published else outputs.published_lists
    return PublishedBefore(date, start, end, manifest.fingerprint(date.isoformat(), publication))


def served_buckets(night: Night, before: PublishedBefore) -> list[ServedBucket]:
    """Return, for each bucket of a night's store, its files of the day and the lists that its users were served; empty
    if these lists were dropped.

    The store may have had another bucket count. Both counts are powers of two: users of bucket b of one are in the
    buckets of the other that are equal to b modulo the smaller count.
    """
    lists = publication_file.last_published(night.root, before.date)
    if lists is None:
        return []
    smaller = min(lists.buckets, night.ingested.snapshot.buckets)
    by_remainder: dict[int, list[str]] = {}
    for path in lists.paths(night.root, "lists"):
        by_remainder.setdefault(paths.shard_index(path) % smaller, []).append(path)
    return [
        ServedBucket(files=bucket, lists=tuple(by_remainder.get(bucket.bucket % smaller, ())))
        for bucket in night.ingested.buckets(before.start)
    ]
