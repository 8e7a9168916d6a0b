"""The model behind the simulated logs: the catalogue, the population and the vocabulary of titles and queries.

Each topic has `NICHES` niches. A video belongs to one niche and in part to a second one, has one language, and is on
the *shelf* of each of its (niche, language) pairs. Every watch is a draw of a niche and a language, and then of a video
from their shelf by current popularity. So a day of a large catalogue takes two rows per video, and the probability of
each watch has a closed form (`transforms.simulation.truth`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]

NICHES = 4  # per topic
WORDS = 8  # first words per topic, and as many second words; a multiple of NICHES
DAY_SECONDS, TICK_SECONDS = 86_400, 21_600
LANGUAGES, LANGUAGE_SHARES = ("en", "es", "de"), (0.6, 0.25, 0.15)
COUNTRIES, COUNTRY_SHARES = ("US", "GB", "MX", "ES", "DE", "AT"), (0.4, 0.2, 0.15, 0.1, 0.1, 0.05)
COUNTRY_LANGUAGE = np.array([0, 0, 1, 1, 2, 2])
DEVICES, DEVICE_SHARES = ("phone", "computer", "tv"), (0.6, 0.25, 0.15)
GENDERS = ("female", "male")
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class Signal:
    """How strongly the logs predict the next watch. The defaults are those of `watchnext simulate`.

    Raises ValueError for shares outside [0, 1], mode shares that do not sum to 1, or a quest shorter than a day.
    """

    mode_shares: tuple[float, float, float, float] = (0.18, 0.28, 0.24, 0.30)  # of `MODES` in watches
    quest_days: float = 4.0  # mean duration of a quest
    first_searches: float = 0.5  # share of new quests that start with a search without a watch
    later_searches: float = 0.0  # share of a quest's later days that have such a search
    group_spread: float = 0.35  # standard deviation of the mean tastes of each gender, age group, country and device

    def __post_init__(self) -> None:
        shares = (*self.mode_shares, self.first_searches, self.later_searches)
        if min(shares) < 0 or max(shares) > 1 or abs(sum(self.mode_shares) - 1) > 1e-9:
            raise ValueError(f"shares must be from 0 to 1, and mode_shares must sum to 1, but the signal is {self}")
        if self.quest_days < 1:
            raise ValueError(f"quest_days must be at least 1, but is {self.quest_days}")


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """The size and the signal of a simulation.

    Raises ValueError for sizes below 1, a negative seed, or days before 1975.
    """

    users: int = 2000
    videos: int = 1000
    days: int = 21
    seed: int = 7
    last_day: date
    signal: Signal = Signal()

    def __post_init__(self) -> None:
        for name in ("users", "videos", "days"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, but is {self.seed}")
        if self.days > (self.last_day - date(1975, 1, 1)).days:
            raise ValueError(f"days must leave the first day after 1975, but {self.days} end on {self.last_day}")

    @property
    def topics(self) -> int:
        """The number of topics, which grows slower than the number of videos, so that large catalogues have longer
        shelves."""
        return int(np.clip(round(self.videos**0.36), 1, 40))

    @property
    def niches(self) -> int:
        return self.topics * NICHES

    def day(self, index: int) -> date:
        """Return the day of an index: 0 is the first day, `days` the day after the last one."""
        return self.last_day + timedelta(days=index + 1 - self.days)

    def start(self, index: int) -> int:
        """Return the epoch seconds of 00:00 UTC of the day of an index."""
        return int(datetime.combine(self.day(index), datetime.min.time(), UTC).timestamp())

    def generator(self, purpose: str) -> np.random.Generator:
        """Return the random generator for one purpose, which is independent of the draws for other purposes."""
        digest = hashlib.blake2b(f"{self.seed}/{purpose}".encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The videos in order of upload; arrays are [videos] unless noted otherwise."""

    ids: pl.Series
    upload: Ints  # epoch seconds
    removed: Ints  # epoch seconds from which the video cannot be watched, or NEVER
    listed: Bools  # whether videos.parquet contains the video
    seconds: Ints
    channel: Ints
    language: Ints
    niche: Ints  # [videos, 2]
    share: Floats  # [videos, 2]: the share of each niche; rows sum to 1
    popularity: Floats
    evergreen: Floats  # share of the popularity that does not decay
    fade_days: Floats
    quality: Floats
    next_episode: Ints  # index of the video that continues this one, or -1
    episode: Ints  # from 1; 0: not in a series

    def live(self, time: int) -> Bools:
        """Return which videos can be watched at a time [videos]."""
        return (self.upload <= time) & (self.removed > time)

    def weights(self, time: int) -> Floats:
        """Return the relative popularity in the tick that starts at `time` [videos]; 0 for videos that are not live.

        It rises for half a day after upload, and then decays by a power law to its evergreen part.
        """
        age_days = np.maximum(time + TICK_SECONDS / 2 - self.upload, 0) / DAY_SECONDS
        burst = (1 - 0.7 * np.exp(-age_days / 0.3)) * (1 + age_days / self.fade_days) ** -1.5
        return self.popularity * (self.evergreen + (1 - self.evergreen) * burst) * self.live(time)

    @cached_property
    def shelf_rows(self) -> tuple[Ints, Ints]:
        """The rows of all shelves, shelf by shelf [2 x videos]: the video, and the index (0 or 1) of its niche."""
        rows = np.argsort(self.shelf.ravel(), kind="stable")
        return rows // 2, rows % 2

    @cached_property
    def shelf(self) -> Ints:
        """Shelf of each video's two niches [videos, 2]."""
        return self.niche * len(LANGUAGES) + self.language[:, None]


@dataclass(frozen=True, kw_only=True)
class Population:
    """The users; arrays are [users]."""

    ids: pl.Series
    daily_watches: Floats  # heavy-tailed
    first_day: Ints  # day index from which the user exists
    country: Ints
    language: Ints
    device: Ints  # the usual device
    gender: Ints  # -1: unknown
    birth_year: Ints
    signed_in: Bools


@dataclass(frozen=True, kw_only=True)
class World:
    """The catalogue, the population and the words of a simulation."""

    settings: SimulationSettings
    catalogue: Catalogue
    population: Population
    words: npt.NDArray[np.object_]  # [topics, languages, 2, WORDS]


def build_world(settings: SimulationSettings) -> World:
    """Draw the catalogue, the population and the words. The catalogue does not depend on the number of users."""
    return World(
        settings=settings,
        catalogue=_catalogue(settings),
        population=_population(settings),
        words=_words(settings),
    )


def _uploads(settings: SimulationSettings, rng: np.random.Generator) -> Ints:
    """Draw ascending upload times. The first is before the first day, so that there always is a video to watch."""
    start, end = settings.start(0), settings.start(settings.days + 1)
    fresh = rng.random(settings.videos) < min(0.5, 0.016 * (settings.days + 1))
    old = start - 60 - rng.exponential(120 * DAY_SECONDS, settings.videos).clip(max=1000 * DAY_SECONDS)
    upload = np.sort(np.where(fresh, rng.uniform(start, end, settings.videos), old).astype(np.int64))
    upload[0] = min(upload[0], start - 60)
    return upload


def _episodes(channel: Ints, serial: Bools, rng: np.random.Generator) -> dict[str, Ints]:
    """Chain the videos of serial channels in order of upload; 10 % of videos start another series."""
    order = np.argsort(channel, kind="stable")
    follows = (channel[order][1:] == channel[order][:-1]) & serial[channel[order][1:]]
    follows &= rng.random(len(follows)) > 0.1
    next_episode = np.full(len(channel), -1)
    next_episode[order[:-1][follows]] = order[1:][follows]
    chained = np.concatenate([[False], follows])
    place = np.arange(len(channel))
    since = place - np.maximum.accumulate(np.where(chained, 0, place))
    in_series = chained | np.concatenate([follows, [False]])
    episode = np.zeros(len(channel), dtype=np.int64)
    episode[order] = np.where(in_series, since + 1, 0)
    return {"next_episode": next_episode, "episode": episode}


def _catalogue(settings: SimulationSettings) -> Catalogue:
    rng, n = settings.generator("catalogue"), settings.videos
    channels = max(1, n // 12)
    size = rng.lognormal(0, 0.8, channels)
    channel = rng.choice(channels, n, p=size / size.sum())
    usual = rng.random(n) < 0.9
    niche = rng.integers(settings.niches, size=(n, 2))
    niche[:, 0] = np.where(usual, rng.integers(settings.niches, size=channels)[channel], niche[:, 0])
    share = rng.uniform(0.55, 1, n)
    clickbait = rng.random(n) < 0.08
    upload = _uploads(settings, rng)
    start, end = settings.start(0), settings.start(settings.days)
    gone = (rng.random(n) < 0.02) & (upload < end) & (np.arange(n) > 0)
    removed = rng.uniform(np.clip(upload, start, end), end).astype(np.int64)
    popularity = rng.lognormal(0, 1.4, n) * rng.lognormal(0, 0.8, channels)[channel]
    return Catalogue(
        ids=pl.Series([f"v{i:07d}" for i in range(n)]),
        upload=upload,
        removed=np.where(gone, removed, NEVER),
        listed=~(gone & (rng.random(n) < 0.3)),
        seconds=rng.lognormal(np.log(420), 0.9, n).clip(20, 10_800).astype(np.int64),
        channel=channel,
        language=rng.choice(len(LANGUAGES), channels, p=LANGUAGE_SHARES)[channel],
        niche=niche,
        share=np.stack([share, 1 - share], axis=1),
        popularity=popularity * np.where(clickbait, 3, 1),
        evergreen=rng.beta(1, 6, n),
        fade_days=rng.lognormal(np.log(2), 0.4, n),
        quality=rng.normal(0, 0.6, n) - np.where(clickbait, 1.5, 0),
        **_episodes(channel, rng.random(channels) < 0.5, rng),
    )


def _population(settings: SimulationSettings) -> Population:
    rng, n = settings.generator("population"), settings.users
    country = rng.choice(len(COUNTRIES), n, p=COUNTRY_SHARES)
    newcomer = (rng.random(n) < 0.1) & (np.arange(n) > 0)
    return Population(
        ids=pl.Series([f"u{i:07d}" for i in range(n)]),
        daily_watches=rng.lognormal(np.log(4) - 0.5, 1, n).clip(0.05, 60),  # mean 4
        first_day=np.where(newcomer, rng.integers(settings.days, size=n), 0),
        country=country,
        language=np.where(rng.random(n) < 0.9, COUNTRY_LANGUAGE[country], rng.integers(len(LANGUAGES), size=n)),
        device=rng.choice(len(DEVICES), n, p=DEVICE_SHARES),
        gender=rng.choice([-1, 0, 1], n, p=[0.04, 0.48, 0.48]),
        birth_year=settings.last_day.year - (13 + rng.gamma(3, 8, n)).clip(max=90).astype(np.int64),
        signed_in=rng.random(n) < 0.9,
    )


def _words(settings: SimulationSettings) -> npt.NDArray[np.object_]:
    """Draw distinct artificial words. Words of the second and third language end in a special letter."""
    shape = (settings.topics, len(LANGUAGES), 2, WORDS)
    codes = settings.generator("words").choice(60**3, int(np.prod(shape)), replace=False).reshape(shape)
    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    words = np.empty(shape, dtype=object)
    for place, code in np.ndenumerate(codes):
        word = "".join(syllables[code // 60**i % 60] for i in range(3))
        words[place] = word + ("", "ñ", "ü")[place[1]]
    return words
