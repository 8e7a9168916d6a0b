"""The world behind the simulated logs: the catalogue, the population and the words they share.

Topics hold `NICHES` niches each; a video lies in one niche and partly in a second one, has one language, and stands on
the *shelf* of each (niche, language) it belongs to. Whatever a user wants comes down to a niche and a language, then a
draw from that shelf by the popularity of the hour: so one day of a large catalogue costs two rows a video, and the
probability of any watch has a closed form (`transforms.simulation.truth`).
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

NICHES = 4  # a topic
WORDS = 8  # first words of a topic, and as many second words; a multiple of NICHES
DAY_SECONDS, TICK_SECONDS = 86_400, 21_600
LANGUAGES, LANGUAGE_SHARES = ("en", "es", "de"), (0.6, 0.25, 0.15)
COUNTRIES, COUNTRY_SHARES = ("US", "GB", "MX", "ES", "DE", "AT"), (0.4, 0.2, 0.15, 0.1, 0.1, 0.05)
COUNTRY_LANGUAGE = np.array([0, 0, 1, 1, 2, 2])
DEVICES, DEVICE_SHARES = ("phone", "computer", "tv"), (0.6, 0.25, 0.15)
GENDERS = ("female", "male")
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """How much to simulate. Raises ValueError for sizes below 1, a negative seed, or days before 1970."""

    users: int = 2000
    videos: int = 1000
    days: int = 21
    seed: int = 7
    last_day: date

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
        """More videos, more topics, but slowly, so that shelves of large catalogues are longer."""
        return int(np.clip(round(self.videos**0.36), 1, 40))

    @property
    def niches(self) -> int:
        return self.topics * NICHES

    def day(self, index: int) -> date:
        """The day with this index: 0 is the first, `days` the one after the last."""
        return self.last_day + timedelta(days=index + 1 - self.days)

    def start(self, index: int) -> int:
        """Epoch seconds of 00:00 UTC of that day."""
        return int(datetime.combine(self.day(index), datetime.min.time(), UTC).timestamp())

    def draws(self, purpose: str) -> np.random.Generator:
        """A generator for one purpose: what is drawn for one never moves with how much is drawn for another."""
        digest = hashlib.blake2b(f"{self.seed}/{purpose}".encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The videos in order of upload; arrays are [videos] unless said."""

    ids: pl.Series
    upload: Ints  # epoch seconds
    removed: Ints  # epoch seconds from which nobody can watch it; NEVER
    listed: Bools  # whether videos.parquet still knows it
    seconds: Ints
    channel: Ints
    language: Ints
    niche: Ints  # [videos, 2]
    share: Floats  # [videos, 2], how much of it lies in each niche; rows sum to 1
    popularity: Floats
    evergreen: Floats  # share of the popularity that does not fade
    fade_days: Floats
    quality: Floats
    next_episode: Ints  # index of the video that continues this one, or -1
    episode: Ints  # from 1; 0: not in a series

    def live(self, time: int) -> Bools:
        """Which videos can be watched at this time [videos]."""
        return (self.upload <= time) & (self.removed > time)

    def weights(self, time: int) -> Floats:
        """Relative popularity in the tick that starts at `time` [videos]; 0 where not live.

        Rises for half a day after upload, then falls by a power law towards its evergreen part.
        """
        age_days = np.maximum(time + TICK_SECONDS / 2 - self.upload, 0) / DAY_SECONDS
        burst = (1 - 0.7 * np.exp(-age_days / 0.3)) * (1 + age_days / self.fade_days) ** -1.5
        return self.popularity * (self.evergreen + (1 - self.evergreen) * burst) * self.live(time)

    @cached_property
    def shelf_rows(self) -> tuple[Ints, Ints]:
        """(video, which of its two niches) of every row of the shelves, shelf by shelf [2 x videos]."""
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
    device: Ints  # the usual one
    gender: Ints  # -1: not told
    birth_year: Ints
    signed_in: Bools


@dataclass(frozen=True, kw_only=True)
class World:
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
    """Upload times, rising. The first is before the first day, so that there always is something to watch."""
    start, end = settings.start(0), settings.start(settings.days + 1)
    fresh = rng.random(settings.videos) < min(0.5, 0.016 * (settings.days + 1))
    old = start - 60 - rng.exponential(120 * DAY_SECONDS, settings.videos).clip(max=1000 * DAY_SECONDS)
    upload = np.sort(np.where(fresh, rng.uniform(start, end, settings.videos), old).astype(np.int64))
    upload[0] = min(upload[0], start - 60)
    return upload


def _episodes(channel: Ints, serial: Bools, rng: np.random.Generator) -> dict[str, Ints]:
    """Chain the videos of a serial channel in order of upload; one in ten starts another series."""
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
    rng, n = settings.draws("catalogue"), settings.videos
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
    rng, n = settings.draws("population"), settings.users
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
    """Distinct made-up words; the second and third language end theirs in a letter of their own."""
    shape = (settings.topics, len(LANGUAGES), 2, WORDS)
    codes = settings.draws("words").choice(60**3, int(np.prod(shape)), replace=False).reshape(shape)
    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    words = np.empty(shape, dtype=object)
    for place, code in np.ndenumerate(codes):
        word = "".join(syllables[code // 60**i % 60] for i in range(3))
        words[place] = word + ("", "ñ", "ü")[place[1]]
    return words
