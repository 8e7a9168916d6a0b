"""Features of videos shown to users: one function for training impressions and for candidates.

    context = ImpressionContext.from_events(events, users, catalogue, shown)
    features = context.features(shown, zone="Europe/Berlin")
    features.shown       # a row per video shown: its features and the user's history with it
    features.requests    # a row per user and moment: features of the user; features.request is the row for each video

A candidate is an impression at DATE's 00:00 that has not been shown yet. All rows of a page get their features as of
the page's first moment, from events strictly before it, so that no impression depends on its own outcome or on another
one of its page, even if the rows of the page have different times. `generator_features` adds the features of the
candidate generator. Numbers are in raw units, and NaN or null if unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.core.integer_sort import lexsort
from transforms.examples.draw_examples import BIRTH_YEAR
from transforms.examples.histories import WATCH_CATEGORIES
from transforms.logs.event_window import Events
from transforms.ranking.timelines import MICROSECONDS, Floats, Ints, Span, Timeline

CATALOGUE = ("video_id", "upload_time", "video_seconds", "channel", "language")
QUERY_NUMBERS = ("user_watches", "user_mean_watch_seconds", "age")
NUMBERS = (
    *("video_watches", "seconds_since_video", "channel_watches", "seconds_since_channel"),
    *("video_unclicked", "channel_unclicked", "seconds_since_impression", "video_age_seconds", "video_seconds"),
)
HOUR, USER_LANGUAGE, VIDEO_LANGUAGE, CHANNEL = "hour", "language", "video_language", "channel"
POSITION = "position"  # a column of logged impressions; candidates have no place on a page yet
_MILLISECONDS = 1000


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of videos shown, ordered by user, first moment of the page, page, time and video."""

    shown: pl.DataFrame  # the given columns, `channel`, `video_language` (String), and `NUMBERS` (Float32)
    requests: pl.DataFrame  # user_id, time (of the page), categories of the user (String), `QUERY_NUMBERS` (Float32)
    request: Ints  # row of `requests` for each row of `shown`, ascending
    watches: Span  # of each request, in the order of `ImpressionContext.watches`
    videos: Ints  # index into `ImpressionContext.video_ids` for each row of `shown`


@dataclass(frozen=True, kw_only=True)
class ImpressionContext:
    """The history of the users of a bucket. Users and videos are indexes into `user_ids` and `video_ids`."""

    user_ids: pl.Series  # sorted
    video_ids: pl.Series  # sorted
    videos: pl.DataFrame  # by index: channel, language (null: unknown), upload_time, video_seconds
    channels: Ints  # code of the channel by video index, -1: unknown
    users: pl.DataFrame  # by index: columns of the users table
    watches: Timeline  # by user; equal times by video
    watched: Ints  # video indexes, in the order of `watches`
    events: Events

    @classmethod
    def from_events(
        cls, events: Events, users: pl.DataFrame, catalogue: pl.DataFrame, shown: Sequence[pl.DataFrame]
    ) -> ImpressionContext:
        """Build the context of a bucket.

        events: with impressions, ids as String, in any order. users: rows of the users table. catalogue: `CATALOGUE` of
        known videos. shown: frames with user_id and video_id that features will be computed for.
        """
        with_users = [events.watches, events.searches, events.impressions, *shown]
        user_ids = _distinct_ids(frame["user_id"] for frame in with_users)
        video_ids = _distinct_ids(frame["video_id"] for frame in with_users if "video_id" in frame.columns)
        known = catalogue.select(CATALOGUE)
        videos = video_ids.to_frame("video_id").join(known, on="video_id", how="left", maintain_order="left")
        watched = _indices(events.watches["video_id"], video_ids)
        user = _indices(events.watches["user_id"], user_ids)
        watches = Timeline.from_events(user, _microseconds(events.watches), watched)
        return cls(
            user_ids=user_ids,
            video_ids=video_ids,
            videos=videos,
            channels=_codes(videos["channel"]),
            users=user_ids.to_frame("user_id").join(users, on="user_id", how="left", maintain_order="left"),
            watches=watches,
            watched=watched[watches.order],
            events=events,
        )

    def features(self, shown: pl.DataFrame, *, zone: str) -> Features:
        """Return the features of videos shown.

        shown: user_id, time, video_id, optionally page_id, and any columns to keep. Without page_id each row is
        described as of its own time. zone: time zone of `hour`.
        """
        user, video = self.user_indices(shown), _indices(shown["video_id"], self.video_ids)
        time, page = self._pages(shown)
        order = lexsort((video, _microseconds(shown), page, time, user))
        rows, user, video, time = shown[order], user[order], video[order], time[order]
        is_new = np.append(True, (user[1:] != user[:-1]) | (time[1:] != time[:-1]))[: len(user)]
        watches = self.watches.before(user[is_new], time[is_new])
        requests = rows.filter(is_new).select("user_id", time=pl.Series(time[is_new]).cast(rows.schema["time"]))
        numbers = {
            **self._history_numbers("video", user, video, time),
            **self._history_numbers("channel", user, video, time),
            **self._catalogue_numbers(video, time),
        }
        return Features(
            shown=rows.with_columns(
                pl.Series(CHANNEL, self.videos["channel"].gather(video)),
                pl.Series(VIDEO_LANGUAGE, self.videos["language"].gather(video)),
                *(pl.Series(name, numbers[name], pl.Float32) for name in NUMBERS),
            ),
            requests=self._request_features(requests, user[is_new], watches, zone),
            request=np.cumsum(is_new) - 1,
            watches=watches,
            videos=video,
        )

    def user_indices(self, frame: pl.DataFrame) -> Ints:
        """Return the index of each row's user."""
        return _indices(frame["user_id"], self.user_ids)

    def _pages(self, shown: pl.DataFrame) -> tuple[Ints, Ints]:
        """Return (the moment that each row is described as of, in microseconds; the code of its page)."""
        if "page_id" not in shown.columns:
            return _microseconds(shown), np.zeros(shown.height, np.int64)
        starts = page_starts(shown, self.events.impressions)
        return starts.to_physical().to_numpy(), _codes(shown["page_id"])

    def _history_numbers(self, key: str, user: Ints, video: Ints, time: Ints) -> dict[str, Floats]:
        """Return the user's history with each video or, for the key `channel`, with its channel; NaN if unknown."""
        codes = self._key_codes[key][video]
        group, is_known = self._group(user, codes), codes >= 0
        watches, impressions = self._watch_timelines[key], self._impression_timelines[key]
        watched, shown = watches.before(group, time), impressions.before(group, time)

        def known(values: NDArray[Any]) -> Floats:
            return np.where(is_known, values, np.nan).astype(np.float32)

        found = {
            f"{key}_watches": known(watched.count),
            f"seconds_since_{key}": known(watches.seconds_since(watched, time)),
            f"{key}_unclicked": known(shown.sums(self._unclicked_totals[key])),
        }
        if key == "video":
            found["seconds_since_impression"] = impressions.seconds_since(shown, time)
        return found

    def _catalogue_numbers(self, video: Ints, time: Ints) -> dict[str, Floats]:
        """Return the age and the length of each video at a moment; NaN if unknown."""
        uploaded = self.videos["upload_time"].to_physical().cast(pl.Float64).fill_null(np.nan).to_numpy()
        length = self.videos["video_seconds"].replace(0.0, None).fill_null(np.nan).to_numpy()
        return {
            "video_age_seconds": np.maximum((time - uploaded[video]) / MICROSECONDS, 0).astype(np.float32),
            "video_seconds": length[video].astype(np.float32),
        }

    @cached_property
    def _key_codes(self) -> dict[str, Ints]:
        """The codes, by video index, of what a user's history is counted by."""
        return {"video": np.arange(self.video_ids.len()), "channel": self.channels}

    def _group(self, user: Ints, codes: Ints) -> Ints:
        """Return one integer per pair of a user and a code (-1 included)."""
        return user * (self.video_ids.len() + 1) + codes

    @cached_property
    def _watch_timelines(self) -> dict[str, Timeline]:
        return self._timelines(self.events.watches)

    @cached_property
    def _impression_timelines(self) -> dict[str, Timeline]:
        return self._timelines(self.events.impressions)

    @cached_property
    def _unclicked_totals(self) -> dict[str, Ints]:
        unclicked = ~self.events.impressions["clicked"].to_numpy().astype(np.bool_)
        return {key: line.totals(unclicked) for key, line in self._impression_timelines.items()}

    def _timelines(self, events: pl.DataFrame) -> dict[str, Timeline]:
        """Return events by user and video, and by user and channel."""
        user, video = self.user_indices(events), _indices(events["video_id"], self.video_ids)
        time = _microseconds(events)
        return {
            key: Timeline.from_events(self._group(user, codes[video]), time) for key, codes in self._key_codes.items()
        }

    def _request_features(self, requests: pl.DataFrame, user: Ints, watches: Span, zone: str) -> pl.DataFrame:
        """Return requests (user_id, time) with the categories of their users, `hour` and `QUERY_NUMBERS`."""
        return requests.with_columns(
            **self._user_categories(user, watches),
            hour=requests["time"].dt.convert_time_zone(zone).dt.hour().cast(pl.String),
            user_watches=pl.Series(watches.count, dtype=pl.Float32),
            user_mean_watch_seconds=pl.Series(self._mean_watch_seconds(watches), dtype=pl.Float32),
            age=self._ages(requests["time"], user),
        )

    def _user_categories(self, user: Ints, watches: Span) -> dict[str, pl.Series]:
        """Return each category of the requests: that of the last watch that has one, else that of the users table."""
        found = self._last_watch_categories(watches)
        table = self.users[user]
        for name in table.columns:
            if name not in ("user_id", BIRTH_YEAR):
                text = table[name].cast(pl.String)
                found[name] = pl.select(pl.coalesce(found.get(name, text), text)).to_series()
        return found

    def _last_watch_categories(self, watches: Span) -> dict[str, pl.Series]:
        """Return each category that the logs have, from the last watch of each request that has a value."""
        events, found = self.events.watches, dict[str, pl.Series]()
        for name in WATCH_CATEGORIES:
            text = events[name].cast(pl.String) if name in events.columns else pl.Series(name, [], pl.String)
            if text.null_count() < text.len():
                values = text.unique().drop_nulls().sort()
                last = self.watches.last_known(watches, _indices(text, values))
                found[name] = values.gather(pl.Series(last).replace(-1, None)).alias(name)
        return found

    def _mean_watch_seconds(self, watches: Span) -> NDArray[np.float64]:
        """Return the mean of the logged watch times of each request; NaN if there are none.

        Sums are of whole milliseconds, so that they do not depend on the order of events.
        """
        milliseconds = (self.events.watches["watch_seconds"].cast(pl.Float64) * _MILLISECONDS).round()
        totals = self.watches.totals(milliseconds.fill_null(0).cast(pl.Int64).to_numpy())
        count = watches.sums(self.watches.totals(milliseconds.is_not_null().to_numpy()))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(watches.sums(totals) / count / _MILLISECONDS)

    def _ages(self, times: pl.Series, user: Ints) -> pl.Series:
        """Return each user's age in years at a moment (Float32); NaN if the birth year is unknown."""
        table = self.users[user]
        born = table[BIRTH_YEAR] if BIRTH_YEAR in table.columns else pl.Series([None] * table.height, dtype=pl.Int32)
        return (times.dt.year() - born).clip(0).cast(pl.Float32).fill_null(np.nan)


def page_starts(shown: pl.DataFrame, impressions: pl.DataFrame) -> pl.Series:
    """Return the first moment of each row's page: the earliest time of its user's rows with that page_id in either
    frame.

    Both frames have user_id, page_id and time. impressions: all of the bucket, because `shown` may hold only a part of
    a page, as at the first held-out moment.
    """
    page = pl.col("user_id").cast(pl.String), pl.col("page_id")
    rows = pl.concat([frame.select(*page, "time") for frame in (impressions, shown)])
    starts = rows.group_by("user_id", "page_id").agg(pl.col("time").min())
    return shown.select(*page).join(starts, on=["user_id", "page_id"], how="left", maintain_order="left")["time"]


def _distinct_ids(columns: Iterable[pl.Series]) -> pl.Series:
    every = [pl.Series([], dtype=pl.String), *(column.cast(pl.String).unique() for column in columns)]
    return pl.concat(every).unique().sort().rename("")


def _indices(column: pl.Series, values: pl.Series) -> Ints:
    """Return the index of each id in distinct values; -1 for null. An Enum is the fastest lookup of strings."""
    indices = column.cast(pl.String).cast(pl.Enum(values)).to_physical().cast(pl.Int64)
    return indices.fill_null(-1).to_numpy()


def _codes(column: pl.Series) -> Ints:
    """Return the index of each value in the sorted distinct values; -1 for null."""
    return _indices(column, column.cast(pl.String).unique().drop_nulls().sort())


def _microseconds(frame: pl.DataFrame) -> Ints:
    return frame["time"].to_physical().cast(pl.Int64).to_numpy()
