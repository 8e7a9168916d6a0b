"""Generate logs of a million users fast: tastes, searches that name them, new uploads, pages of impressions, clicks.

    world = World(LogSize(users=1_000_000, videos=200_000), seed=7)
    world.write_catalogue(Path("logs"))
    world.write_day(Path("logs"), 0)      # the first of the days; 28 of them are the window of a first night

Each user has three tastes, and each video one topic. The probability of a video within its topic is its popularity
times a factor that falls with the days since its upload. Four of five watches follow a taste of the user, the others
are of any video. A page has eight impressions, most of them from one taste of the user; a click is more likely if the
video's topic is a taste, if users like the video (`appeal`), and at the top of the page. A search precedes a watch and
names its topic and one of the fifty groups of videos within it. So a model can learn tastes from watches, and a ranker
can learn appeal.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FIRST_DAY, WINDOW_DAYS = dt.date(2026, 10, 24), 28
VIDEOS_PER_TOPIC, TASTES, GROUPS = 200, (0.6, 0.3, 0.1), 50
PAGE = 8  # impressions
OLD = 0.85  # share of the videos that were uploaded before the first day
NEW_BOOST, NEW_DAYS = 8.0, 2.0  # a new video is so much more likely to be watched, for about so long
FOLLOWS_TASTE, ON_TOPIC = 0.8, 0.7  # of watches, and of the impressions of a page
CLICKED, CLICKED_OFF_TASTE, LOWER = 0.25, 0.05, 0.92  # at the top of a page; the factor of each position below
COMPLETED = 0.9  # of the video's length
DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class LogSize:
    """How many of everything there are; events are those of the 28 days of a window."""

    users: int
    videos: int
    watches_per_user: int = 50
    searches_per_user: int = 10
    impressions_per_user: int = 100

    def daily(self, per_user: int) -> int:
        """Return the events of one day."""
        return self.users * per_user // WINDOW_DAYS


class World:
    """Users and videos, and the days of their events. All draws depend only on the seed and the day."""

    def __init__(self, size: LogSize, *, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self.size, self.seed = size, seed
        self.topics = max(1, size.videos // VIDEOS_PER_TOPIC)
        self.topic = np.sort(rng.integers(0, self.topics, size.videos))  # so the videos of a topic are a range
        self.popularity = np.exp(1.5 * rng.standard_normal(size.videos))
        self.appeal = rng.beta(2, 2, size.videos)
        self.seconds = np.round(np.exp(rng.normal(5, 0.8, size.videos))).clip(10, 7200)
        last = WINDOW_DAYS + 7  # uploads go on after the window
        self.uploaded = np.where(rng.random(size.videos) < OLD, -1 - rng.integers(0, 300, size.videos), 0)
        self.uploaded = np.where(self.uploaded < 0, self.uploaded, rng.integers(0, last, size.videos))
        self.tastes = rng.integers(0, self.topics, (size.users, len(TASTES)))
        self.active = np.cumsum(np.exp(rng.standard_normal(size.users)))

    @cached_property
    def starts(self) -> Ints:
        """The first video of each topic, and the number of videos; int64 [topics + 1]."""
        return np.searchsorted(self.topic, np.arange(self.topics + 1))

    def write_catalogue(self, out: Path) -> None:
        """Write the videos table."""
        days = pl.Series(self.uploaded).cast(pl.Duration("ms")) * DAY_MS
        first = dt.datetime.combine(FIRST_DAY, dt.time(), dt.UTC)
        frame = pl.DataFrame(
            {
                "video_id": _ids("v", np.arange(self.size.videos)),
                "upload_time": pl.select(pl.lit(first).dt.cast_time_unit("ms") + days).to_series(),
                "video_seconds": pl.Series(self.seconds, dtype=pl.Float32),
                "channel": _ids("c", self.topic * 10 + np.arange(self.size.videos) % 10),
            }
        )
        frame.write_parquet(out / "videos.parquet")

    def write_day(self, out: Path, day: int) -> int:
        """Write the tables of a day, counted from the first, and return the number of events."""
        rng = np.random.default_rng([self.seed, 1, day])
        start = int(dt.datetime.combine(FIRST_DAY + dt.timedelta(days=day), dt.time(), dt.UTC).timestamp() * 1000)
        age = day - self.uploaded
        weights = np.where(age < 0, 0, self.popularity * (1 + NEW_BOOST * np.exp(-age / NEW_DAYS)))
        total = np.concatenate([[0.0], np.cumsum(weights)])
        shown = self._pages(total, start, rng)
        watches = self._watches(total, start, rng, clicks=shown.filter("clicked"))
        searches = self._searches(watches, rng)
        tables = {"watches": watches, "searches": searches, "impressions": shown}
        for name, events in tables.items():
            (out / name).mkdir(parents=True, exist_ok=True)
            _as_log(events).write_parquet(out / name / f"{FIRST_DAY + dt.timedelta(days=day)}.parquet")
        return sum(events.height for events in tables.values())

    def _pages(self, total: Floats, start: int, rng: np.random.Generator) -> pl.DataFrame:
        """Return the impressions of a day: user, video, time (epoch milliseconds), page, clicked, watch_seconds."""
        pages = self.size.daily(self.size.impressions_per_user) // PAGE
        user = np.repeat(self._draw_users(pages, rng), PAGE)
        taste = np.repeat(rng.choice(len(TASTES), pages, p=TASTES), PAGE)
        topic = np.where(rng.random(len(user)) < ON_TOPIC, self.tastes[user, taste], -1)
        video = self._draw_videos(topic, total, rng)
        likes = (self.tastes[user] == self.topic[video][:, np.newaxis]).any(axis=1)
        place = np.tile(np.arange(PAGE), pages)
        probability = np.where(likes, CLICKED, CLICKED_OFF_TASTE) * 2 * self.appeal[video] * LOWER**place
        clicked = rng.random(len(user)) < probability
        watched = np.round(self.seconds[video] * self._watched_share(video, rng), 1)
        return pl.DataFrame(
            {
                "user": user,
                "video": video,
                "time": start + np.repeat(rng.integers(0, DAY_MS, pages), PAGE),
                "page": np.repeat(np.arange(pages), PAGE),
                "clicked": clicked,
                "watch_seconds": np.where(clicked, watched, 0),
            }
        )

    def _watches(self, total: Floats, start: int, rng: np.random.Generator, *, clicks: pl.DataFrame) -> pl.DataFrame:
        """Return the watches of a day: those that begin with a click, and others; user, video, time, watch_seconds."""
        others = max(0, self.size.daily(self.size.watches_per_user) - clicks.height)
        user = self._draw_users(others, rng)
        taste = self.tastes[user, rng.choice(len(TASTES), others, p=TASTES)]
        video = self._draw_videos(np.where(rng.random(others) < FOLLOWS_TASTE, taste, -1), total, rng)
        seconds = np.round(self.seconds[video] * self._watched_share(video, rng), 1)
        time = start + rng.integers(0, DAY_MS, others)
        drawn = pl.DataFrame({"user": user, "video": video, "time": time, "watch_seconds": seconds})
        return pl.concat([clicks.select(drawn.columns).with_columns(pl.col("time") + 1_000), drawn])

    def _searches(self, watches: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
        """Return searches, each up to a minute before one of the watches: user, time, query."""
        count = min(self.size.daily(self.size.searches_per_user), watches.height)
        chosen = watches[rng.choice(watches.height, count, replace=False)]
        video = chosen["video"].to_numpy()
        return chosen.select(
            "user",
            pl.col("time") - pl.Series(rng.integers(1_000, 60_000, count)),
            query=pl.format("t{} g{}", pl.Series(self.topic[video]), pl.Series(video % GROUPS)),
        )

    def _draw_users(self, count: int, rng: np.random.Generator) -> Ints:
        return np.searchsorted(self.active, rng.random(count) * self.active[-1], side="right")

    def _draw_videos(self, topic: Ints, total: Floats, rng: np.random.Generator) -> Ints:
        """Draw a video of each topic, or of all videos for topic -1; `total`: cumulative weights, [videos + 1]."""
        low = np.where(topic < 0, 0, total[self.starts[topic]])
        high = np.where(topic < 0, total[-1], total[self.starts[topic + 1]])
        return (
            np.searchsorted(total, low + rng.random(len(topic)) * (high - low), side="right").clip(1, len(total) - 1)
            - 1
        )

    def _watched_share(self, video: Ints, rng: np.random.Generator) -> Floats:
        """Draw the share of each video that is watched: about half are completed, more of those with appeal."""
        return np.minimum(1, rng.random(len(video)) * (0.6 + 2.4 * self.appeal[video]))


def _ids(letter: str, numbers: Ints) -> pl.Series:
    return pl.select(pl.format(f"{letter}{{}}", pl.Series(numbers))).to_series()


def _as_log(events: pl.DataFrame) -> pl.DataFrame:
    """Return events in the columns of docs/logs.md, sorted by time."""
    names = {"user": ("user_id", "u"), "video": ("video_id", "v"), "page": ("page_id", "p")}
    texts = [
        pl.format(f"{letter}{{}}", name).alias(column)
        for name, (column, letter) in names.items()
        if name in events.columns
    ]
    seconds = [pl.col(name).cast(pl.Float32) for name in events.columns if name == "watch_seconds"]
    others = [pl.col(name) for name in events.columns if name in ("clicked", "query")]
    time = pl.from_epoch("time", time_unit="ms").dt.replace_time_zone("UTC")
    return events.sort("time", maintain_order=True).select(*texts, time, *others, *seconds)
