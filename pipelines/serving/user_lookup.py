"""Look up a user's published list, with titles, expected seconds and the user's last watches, for people who judge it.

found = look_up(Served.open(job, "files"), "u0000001", 10, watches=5)
found.items[0].title, found.watches[0].time
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol
from zoneinfo import ZoneInfo

from pipelines.serving.explain import FeatureEffect
from pipelines.serving.served import Served
from pipelines.serving.served_lists import FileLists, ServedList
from transforms.logs.id_text import clean_id


@dataclass(frozen=True, kw_only=True)
class Item:
    """One video of a list."""

    video_id: str
    title: str | None
    score: float | None  # None if it is not stored
    seconds: float | None = None  # expected watch time, None if the video was not ranked or the source has none
    video_seconds: float | None = None  # the length of the video, None if it is not known
    why: list[FeatureEffect] = field(default_factory=list)  # the largest effects on it, if requested


@dataclass(frozen=True, kw_only=True)
class Watch:
    """One of the user's last watches."""

    time: dt.datetime
    video_id: str
    title: str | None
    completed: bool


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A user's published list, best first; for a user without a list (`known` is False), the default list of `country`,
    where None means all countries."""

    user_id: str
    date: str
    source: str
    known: bool
    country: str | None
    length: int  # of the whole list; `items` are its first videos
    items: list[Item]
    watches: list[Watch]  # newest first
    state: str = "served"  # of the night: served, published (but not served now), never published


class Catalogue(Protocol):
    """What is known of videos, by id. Videos without a value are left out."""

    def lengths(self, video_ids: Iterable[str]) -> dict[str, float]:
        """Return the lengths of some videos in seconds."""

    def titles(self, video_ids: Iterable[str]) -> dict[str, str]:
        """Return the titles of some videos."""


def look_up(
    served: Served,
    user_id: str,
    k: int,
    *,
    watches: int = 0,
    country: str | None = None,
    why: bool = False,
    catalogue: Catalogue | None = None,
) -> Lookup:
    """Return the first k videos of a user's list of a night, and the user's last `watches` watches.

    why: also return the features with the largest effects on the expected watch time; catalogue: the titles and lengths
    (default: those of the night's files, read anew). Raises StageError if `why` is not possible.
    """
    user_id, own = _own_list(served, user_id)
    shown = own or served.lists.default(country) or ServedList(video_ids=[], scores=[])
    had = served.last_watches(user_id, watches)
    ids = shown.video_ids[:k]
    known = catalogue or served.night.ingested
    lengths, titles = known.lengths(ids), known.titles({*ids, *had["video_id"]})
    nothing: list[None] = [None] * len(shown.video_ids)
    rows = zip(ids, (shown.scores or nothing)[:k], (shown.seconds or nothing)[:k], strict=True)
    moved = served.why(user_id) if why and own is not None else {}
    zone = ZoneInfo(served.night.job.logs.time_zone)
    is_from_files = isinstance(served.lists, FileLists)
    return Lookup(
        user_id=user_id,
        date=served.night.date.isoformat(),
        source="files" if is_from_files else "redis",
        state=served.state if is_from_files else "served",
        known=own is not None,
        country=shown.country,
        length=len(shown.video_ids),
        items=[
            Item(
                video_id=video,
                title=titles.get(video),
                score=score,
                seconds=seconds,
                video_seconds=lengths.get(video),
                why=moved.get(video, []),
            )
            for video, score, seconds in rows
        ],
        watches=[
            Watch(time=time.astimezone(zone), video_id=video, title=titles.get(video), completed=completed)
            for time, video, completed in had.iter_rows()
        ],
    )


def _own_list(served: Served, user_id: str) -> tuple[str, ServedList | None]:
    """Return the id under which a user has a list, and the list; the id as given and None if there is none."""
    own = served.list_of(user_id)
    if own is None and (same := clean_id(user_id)) and same != user_id:  # parsing logs turns 2.0 and " 2" into 2
        return same, served.list_of(same)
    return user_id, own
