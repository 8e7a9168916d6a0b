"""What simulated users carry with them, what they like, and the shelves they choose from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from transforms.simulation.world import COUNTRIES, LANGUAGE_SHARES, LANGUAGES, NICHES, Bools, Floats, Ints, World

MODES = ("series", "continue", "quest", "taste")
MODE_SHARES = np.array([0.18, 0.28, 0.24, 0.30])
SERIES, CONTINUE, QUEST, TASTE = range(4)
QUEST_DAYS = 4.0  # mean length
REFUSE = 0.98  # how often what was completed before is refused ...
REDRAWS = 8  # ... and replaced by another draw from taste, at most so often
OWN_LANGUAGE = 0.88
USUAL_DEVICE = 0.85
DAILY_MEMORY = 0.93  # tastes: AR(1) a day
TOPIC_SPREAD, NICHE_SPREAD = 1.6, 1.2
SEEN_BITS = 4096  # above so many videos, some share a bit: a user then has no interest in what shares one with the seen
BLOCK_USERS = 65_536
COMPLETED = 0.5


@dataclass(frozen=True, kw_only=True)
class State:
    """What users carry from one moment to the next; arrays are [users]. Each step returns a new one."""

    tastes: npt.NDArray[np.float32]  # [users, niches] logits
    quest: Ints  # niche
    quest_is_new: Bools
    last_niche: Ints  # of the last completed video; -1: none yet
    next_episode: Ints  # video that continues the last completed series video; -1: none
    seen: npt.NDArray[np.uint8]  # [users, bytes], bit `video % SEEN_BITS` of what was completed


@dataclass(frozen=True, kw_only=True)
class Events:
    """Watches of one tick, in no order that matters; arrays are [events]."""

    user: Ints
    mode: Ints
    language: Ints
    device: Ints
    time: Ints  # epoch milliseconds
    video: Ints
    fraction: Floats


@dataclass(frozen=True, kw_only=True)
class Shelves:
    """Where to draw videos from in one tick. An empty shelf stands for the whole catalogue.

    `cumulative` [rows] sums the popularity over the rows of all shelves; a shelf spans `total` from `start` [shelves].
    """

    cumulative: Floats
    videos: Ints
    start: Floats
    total: Floats
    empty: Bools

    @classmethod
    def at(cls, world: World, time: int) -> Shelves:
        videos, side = world.catalogue.shelf_rows
        cumulative = np.cumsum(world.catalogue.weights(time)[videos] * world.catalogue.share[videos, side])
        shelf = world.catalogue.shelf[videos, side]
        ends = np.searchsorted(shelf, np.arange(world.settings.niches * len(LANGUAGES) + 1))
        edges = np.concatenate([[0.0], cumulative])[ends]
        total = np.diff(edges)
        empty = total <= 0
        return cls(
            cumulative=cumulative,
            videos=videos,
            start=np.where(empty, 0, edges[:-1]),
            total=np.where(empty, cumulative[-1], total),
            empty=empty,
        )

    def draw(self, shelf: Ints, uniform: Floats) -> Ints:
        """One video for each shelf, by popularity on it."""
        point = np.minimum(self.start[shelf] + uniform * self.total[shelf], np.nextafter(self.cumulative[-1], 0))
        return self.videos[np.searchsorted(self.cumulative, point, side="right")]

    def draw_any(self, uniform: Floats) -> Ints:
        """Videos by popularity alone."""
        return self.videos[np.searchsorted(self.cumulative, uniform * np.nextafter(self.cumulative[-1], 0), "right")]


def user_blocks(world: World) -> Iterator[slice]:
    users = world.settings.users
    return (slice(first, min(first + BLOCK_USERS, users)) for first in range(0, users, BLOCK_USERS))


def usual_tastes(world: World, users: slice) -> Floats:
    """What people of this gender, age, country and device like on average: logits [users, niches]."""
    rng, who = world.settings.draws("demographics"), world.population
    age = (world.settings.last_day.year - who.birth_year[users]).clip(max=69) // 14
    shape = world.settings.topics
    groups = [(who.gender[users] + 1, 3), (age, 5), (who.country[users], len(COUNTRIES)), (who.device[users], 3)]
    logits = rng.normal(0, 0.4, (1, shape)) + sum(rng.normal(0, 0.35, (size, shape))[group] for group, size in groups)
    return np.repeat(logits, NICHES, axis=1)


def taste_shares(tastes: Floats) -> Floats:
    """Softmax over niches [users, niches]."""
    shares = np.exp(tastes - tastes.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Tastes:
    """What a block of users likes on one day. `ladder` is for draws: row r of the cumulative shares, moved up by r."""

    first: int  # the user of row 0
    shares: Floats  # [users, niches]
    ladder: Floats  # [users x niches], rising

    @classmethod
    def of(cls, state: State, block: slice) -> Tastes:
        shares = taste_shares(state.tastes[block].astype(np.float64))
        ladder = np.cumsum(shares, axis=1).clip(max=1)
        ladder[:, -1] = 1
        ladder += np.arange(len(shares))[:, None]
        return cls(first=block.start, shares=shares, ladder=ladder.ravel())

    def draw(self, user: Ints, rng: np.random.Generator) -> Ints:
        """A niche for each user."""
        place = np.searchsorted(self.ladder, user - self.first + rng.random(len(user)), side="right")
        return place.clip(max=self.ladder.size - 1) % self.shares.shape[1]

    def towards(self, world: World, user: Ints, video: Ints) -> Floats:
        """The user's share for the video's two niches, weighted by how much of it lies in each."""
        niche, share = world.catalogue.niche[video], world.catalogue.share[video]
        return (self.shares[user[:, None] - self.first, niche] * share).sum(axis=1)


def draw_language(world: World, user: Ints, rng: np.random.Generator) -> Ints:
    """A language for each user: mostly their own."""
    other = rng.choice(len(LANGUAGES), len(user), p=np.array(LANGUAGE_SHARES))
    return np.where(rng.random(len(user)) < OWN_LANGUAGE, world.population.language[user], other)


def _deviation(world: World, rng: np.random.Generator, users: int) -> Floats:
    topics = rng.standard_normal((users, world.settings.topics), dtype=np.float32) * TOPIC_SPREAD
    niches = rng.standard_normal((users, world.settings.niches), dtype=np.float32) * NICHE_SPREAD
    return niches + np.repeat(topics, NICHES, axis=1)


def _quests(tastes: Floats, rng: np.random.Generator) -> Ints:
    """A niche for each user, from tastes half as sharp: a quest often leads where the user seldom was."""
    return (tastes / 2 + rng.gumbel(size=tastes.shape)).argmax(axis=1)


def start_state(world: World) -> State:
    """Everyone before the first day."""
    users = world.settings.users
    tastes = np.empty((users, world.settings.niches), dtype=np.float32)
    quest = np.empty(users, dtype=np.int64)
    for block in user_blocks(world):
        rng = world.settings.draws(f"start/{block.start}")
        tastes[block] = usual_tastes(world, block) + _deviation(world, rng, block.stop - block.start)
        quest[block] = _quests(tastes[block], rng)
    return State(
        tastes=tastes,
        quest=quest,
        quest_is_new=np.zeros(users, dtype=bool),
        last_niche=np.full(users, -1),
        next_episode=np.full(users, -1),
        seen=np.zeros((users, (min(world.settings.videos, SEEN_BITS) + 7) // 8), dtype=np.uint8),
    )


def begin_day(world: World, state: State, day: int) -> State:
    """Let a night pass: tastes drift, and one quest in `QUEST_DAYS` gives way to another."""
    tastes, quest, fresh = state.tastes.copy(), state.quest.copy(), np.zeros(len(state.quest), dtype=bool)
    for block in user_blocks(world):
        rng, users = world.settings.draws(f"night/{day}/{block.start}"), block.stop - block.start
        usual = usual_tastes(world, block)
        step = np.sqrt(1 - DAILY_MEMORY**2) * _deviation(world, rng, users)
        tastes[block] = usual + DAILY_MEMORY * (tastes[block] - usual) + step
        fresh[block] = rng.random(users) < 1 / QUEST_DAYS
        quest[block] = np.where(fresh[block], _quests(tastes[block], rng), quest[block])
    return replace(state, tastes=tastes, quest=quest, quest_is_new=fresh)


def has_seen(seen: npt.NDArray[np.uint8], users: Ints, videos: Ints) -> Bools:
    """Whether each user's bit for the video is set; `users` and `videos` broadcast."""
    bit = videos % SEEN_BITS
    return (seen[users, bit >> 3] >> (bit & 7).astype(np.uint8) & 1).astype(bool)


def expected_fraction(world: World, *, taste: Floats, videos: Ints, device: Ints) -> Floats:
    """Expected share of the video that is watched: grows with taste and quality, falls with length.

    `taste` is the user's taste share over the video's own two niches (weighted by how much of it lies in each).
    """
    liking = np.log(np.clip(taste * world.settings.niches, 0.05, 20))
    length = np.log(world.catalogue.seconds[videos] / 420)
    odds = 0.4 + 0.45 * liking + world.catalogue.quality[videos] - 0.25 * length + np.array([-0.2, 0, 0.4])[device]
    return 1 / (1 + np.exp(-odds))
