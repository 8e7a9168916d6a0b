"""What the ranker is told of a video shown to a user: one function for training impressions and for candidates.

    past = Past.of(events, users, catalogue, shown)
    features = past.features(shown, zone="Europe/Berlin")
    features.shown       # a row a video shown: what it is and what the user had to do with it before
    features.requests    # a row a user and moment: what is known of the user then; features.request says whose is whose

A candidate is an impression at DATE's 00:00 that nobody has seen yet. All rows of a page are described as of the page's
first moment: their features are made from events strictly before it, so that no impression sees its own outcome or
another one of its page, also if the rows of the page have different times. What the generator says comes in
`ranking_generator`. Raw units, NaN or null for what is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from transforms.examples.draw_examples import BIRTH_YEAR, USER_CATEGORIES
from transforms.examples.histories import WATCH_CATEGORIES
from transforms.logs.robots import Events
from transforms.ranking.timelines import MICROSECONDS, Floats, Ints, Span, Timeline

CATALOGUE = ("video_id", "upload_time", "video_seconds", "channel", "language")
QUERY_NUMBERS = ("user_watches", "user_mean_watch_seconds", "age")
NUMBERS = (
    *("video_watches", "seconds_since_video", "channel_watches", "seconds_since_channel"),
    *("video_unclicked", "channel_unclicked", "seconds_since_impression", "video_age_seconds", "video_seconds"),
)
HOUR, USER_LANGUAGE, VIDEO_LANGUAGE, CHANNEL = "hour", "language", "video_language", "channel"
_MILLISECONDS = 1000


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of videos shown, ordered by user, first moment of the page, page, time and video."""

    shown: pl.DataFrame  # the given columns, `channel`, `video_language` (String), and `NUMBERS` (Float32)
    requests: pl.DataFrame  # user_id, time (of the page), categories of the user (String), `QUERY_NUMBERS` (Float32)
    request: Ints  # of each row of `shown`, rising
    watches: Span  # of each request, in the order of `Past.watches`
    videos: Ints  # of each row of `shown`, its place among `Past.video_ids`


@dataclass(frozen=True, kw_only=True)
class ImpressionContext:
    """What the users of a bucket did, by number of user and of video."""

    user_ids: pl.Series  # in order; a user's number is their place
    video_ids: pl.Series
    videos: pl.DataFrame  # of each number: channel, language (null: unknown), upload_time, video_seconds
    channels: Ints  # of each video number, -1: unknown
    users: pl.DataFrame  # of each number, what the users table says
    watches: Timeline  # by user; equal times by video
    watched: Ints  # video numbers, in the order of `watches`
    events: Events

    @classmethod
    def of(
        cls, events: Events, users: pl.DataFrame, catalogue: pl.DataFrame, shown: Sequence[pl.DataFrame]
    ) -> ImpressionContext:
        """events: with impressions, ids as String, in any order; users: rows of the users table; catalogue: `CATALOGUE`
        of the videos it knows; shown: frames with user_id and video_id that features will be wanted of."""
        with_users = [events.watches, events.searches, events.impressions, *shown]
        user_ids = _distinct(frame["user_id"] for frame in with_users)
        video_ids = _distinct(frame["video_id"] for frame in with_users if "video_id" in frame.columns)
        named = catalogue.select(CATALOGUE)
        videos = video_ids.to_frame("video_id").join(named, on="video_id", how="left", maintain_order="left")
        watched = _numbers(events.watches["video_id"], video_ids)
        watches = Timeline.of(_numbers(events.watches["user_id"], user_ids), _micros(events.watches), watched)
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
        """shown: user_id, time, video_id, with or without page_id, and whatever is to be carried along. zone: whose
        hours `hour` means.

        Without page_id each row is described as of its own time.
        """
        user, video = self.numbers_of(shown), _numbers(shown["video_id"], self.video_ids)
        own, time, pages = _micros(shown), _micros(shown), np.zeros(shown.height, np.int64)
        if "page_id" in shown.columns:
            time, pages = page_starts(shown, self.events.impressions).to_physical().to_numpy(), _codes(shown["page_id"])
        order = np.lexsort((video, own, pages, time, user))
        user, video, time = user[order], video[order], time[order]
        new = np.append(True, (user[1:] != user[:-1]) | (time[1:] != time[:-1]))[: len(user)]
        request = np.cumsum(new) - 1
        rows = shown[order]
        watches = self.watches.before(user[new], time[new])
        return Features(
            shown=rows.with_columns(
                pl.Series(CHANNEL, self.videos["channel"].gather(video)),
                pl.Series(VIDEO_LANGUAGE, self.videos["language"].gather(video)),
                *(pl.Series(name, values, pl.Float32) for name, values in self._impression(user, video, time).items()),
            ),
            requests=self._requests(
                rows.filter(new).select("user_id", time=pl.Series(time[new]).cast(rows.schema["time"])),
                user[new],
                watches,
                zone,
            ),
            request=request,
            watches=watches,
            videos=video,
        )

    def numbers_of(self, frame: pl.DataFrame) -> Ints:
        """The number of each row's user."""
        return _numbers(frame["user_id"], self.user_ids)

    def _impression(self, user: Ints, video: Ints, time: Ints) -> dict[str, Floats]:
        """`NUMBERS`: what the user had to do with the video and its channel before, and what the catalogue knows."""
        found: dict[str, Floats] = {}
        for name, numbers in self._numbers.items():
            key, known = numbers[video], numbers[video] >= 0
            asked = user * (self.video_ids.len() + 1) + key
            of = self._watched[name]
            span = of.before(asked, time)
            found[f"{name}_watches"] = np.where(known, span.count, np.nan).astype(np.float32)
            found[f"seconds_since_{name}"] = np.where(known, of.seconds_since(span, time), np.nan).astype(np.float32)
            of = self._shown[name]
            span = of.before(asked, time)
            found[f"{name}_unclicked"] = np.where(known, span.sums(self._unclicked[name]), np.nan).astype(np.float32)
            if name == "video":
                found["seconds_since_impression"] = of.seconds_since(span, time)
        uploaded = self.videos["upload_time"].to_physical().cast(pl.Float64).fill_null(np.nan).to_numpy()
        length = self.videos["video_seconds"].replace(0.0, None).fill_null(np.nan).to_numpy()
        found["video_age_seconds"] = np.maximum((time - uploaded[video]) / MICROSECONDS, 0).astype(np.float32)
        found["video_seconds"] = length[video].astype(np.float32)
        return {name: found[name] for name in NUMBERS}

    @cached_property
    def _numbers(self) -> dict[str, Ints]:
        """Of each video number, what its past is counted by."""
        return {"video": np.arange(self.video_ids.len()), "channel": self.channels}

    @cached_property
    def _watched(self) -> dict[str, Timeline]:
        return self._by_user(self.events.watches)

    @cached_property
    def _shown(self) -> dict[str, Timeline]:
        return self._by_user(self.events.impressions)

    @cached_property
    def _unclicked(self) -> dict[str, Ints]:
        unclicked = ~self.events.impressions["clicked"].to_numpy().astype(np.bool_)
        return {name: line.totals(unclicked) for name, line in self._shown.items()}

    def _by_user(self, events: pl.DataFrame) -> dict[str, Timeline]:
        """Events by user and by what is numbered of their videos."""
        user, video, time = self.numbers_of(events), _numbers(events["video_id"], self.video_ids), _micros(events)
        keys = {name: user * (self.video_ids.len() + 1) + numbers[video] for name, numbers in self._numbers.items()}
        return {name: Timeline.of(key, time) for name, key in keys.items()}

    def _requests(self, requests: pl.DataFrame, user: Ints, watches: Span, zone: str) -> pl.DataFrame:
        """What is known of a user at a moment."""
        given, found = self.events.watches, dict[str, pl.Series]()
        for name in WATCH_CATEGORIES:
            text = given[name].cast(pl.String) if name in given.columns else pl.Series(name, [], pl.String)
            if text.null_count() < text.len():
                values = text.unique().drop_nulls().sort()
                last = self.watches.last_known(watches, _numbers(text, values))
                found[name] = values.gather(pl.Series(last).replace(-1, None)).alias(name)
        known = self.users[user]
        for name in known.columns:
            if name not in ("user_id", BIRTH_YEAR):
                text = known[name].cast(pl.String)
                found[name] = pl.select(pl.coalesce(found.get(name, text), text)).to_series()
        hours = requests["time"].dt.convert_time_zone(zone).dt.hour().cast(pl.String)
        milliseconds = (given["watch_seconds"].cast(pl.Float64) * _MILLISECONDS).round()
        watched = self.watches.totals(milliseconds.fill_null(0).cast(pl.Int64).to_numpy())
        counted = watches.sums(self.watches.totals(milliseconds.is_not_null().to_numpy()))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = watches.sums(watched) / counted / _MILLISECONDS
        born = known[BIRTH_YEAR] if BIRTH_YEAR in known.columns else pl.Series([None] * known.height, dtype=pl.Int32)
        age = (requests["time"].dt.year() - born).clip(0)
        return requests.with_columns(
            **found,
            hour=hours,
            user_watches=pl.Series(watches.count, dtype=pl.Float32),
            user_mean_watch_seconds=pl.Series(mean, dtype=pl.Float32),
            age=age.cast(pl.Float32).fill_null(np.nan),
        )


def page_starts(shown: pl.DataFrame, impressions: pl.DataFrame) -> pl.Series:
    """The first moment of each row's page: the least time of its user's rows with its page_id in either frame.

    Both with user_id, page_id and time. `impressions`: all of the bucket's; a page may have been cut in two, as at the
    first held-out moment.
    """
    page = pl.col("user_id").cast(pl.String), pl.col("page_id")
    rows = pl.concat([frame.select(*page, "time") for frame in (impressions, shown)])
    starts = rows.group_by("user_id", "page_id").agg(pl.col("time").min())
    return shown.select(*page).join(starts, on=["user_id", "page_id"], how="left", maintain_order="left")["time"]


def user_categories(users: pl.DataFrame, further: Iterable[str]) -> list[str]:
    """The columns of the users table that are categories of a request."""
    wanted = dict.fromkeys((*WATCH_CATEGORIES, *USER_CATEGORIES, USER_LANGUAGE, *further))
    return [name for name in wanted if name in users.columns]


def _distinct(columns: Iterable[pl.Series]) -> pl.Series:
    every = [pl.Series([], dtype=pl.String), *(column.cast(pl.String).unique() for column in columns)]
    return pl.concat(every).unique().sort().rename("")


def _numbers(column: pl.Series, among: pl.Series) -> Ints:
    """The place of each id among distinct ones in order; -1 for null. A lookup in a table of strings is what costs."""
    numbered = column.cast(pl.String).cast(pl.Enum(among)).to_physical().cast(pl.Int64)
    return numbered.fill_null(-1).to_numpy()


def _codes(column: pl.Series) -> Ints:
    """A number for each value, in the values' order; -1 for null."""
    return _numbers(column, column.cast(pl.String).unique().drop_nulls().sort())


def _micros(frame: pl.DataFrame) -> Ints:
    return frame["time"].to_physical().cast(pl.Int64).to_numpy()
