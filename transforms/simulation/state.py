"""The state and tastes of simulated users, and the shelves from which videos are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from transforms.simulation.world import COUNTRIES, LANGUAGE_SHARES, LANGUAGES, NICHES, Bools, Floats, Ints, World

MODES = ("series", "continue", "quest", "taste")
SERIES, CONTINUE, QUEST = range(3)  # indexes in MODES; the last mode, taste, is the default
REFUSE = 0.98  # probability that a video completed before is refused ...
REDRAWS = 8  # ... and replaced with another draw from taste, at most this many times
OWN_LANGUAGE = 0.88
USUAL_DEVICE = 0.85
DAILY_MEMORY = 0.93  # tastes follow an AR(1) process over days
TOPIC_SPREAD, NICHE_SPREAD = 1.6, 1.2
SEEN_BITS = 4096  # with more videos, some share a bit: a user then also refuses videos that share one with a seen video
BLOCK_USERS = 65_536
COMPLETED = 0.5


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of all users; arrays are [users]. Each step returns a new state."""

    tastes: npt.NDArray[np.float32]  # [users, niches] logits
    quest: Ints  # niche
    quest_is_new: Bools
    last_niche: Ints  # niche of the last completed video; -1: none
    next_episode: Ints  # video that continues the last completed series video; -1: none
    seen: npt.NDArray[np.uint8]  # [users, bytes]: bit `video % SEEN_BITS` is set for completed videos


@dataclass(frozen=True, kw_only=True)
class Events:
    """Watches of one tick, unsorted; arrays are [events]."""

    user: Ints
    mode: Ints
    language: Ints
    device: Ints
    time: Ints  # epoch milliseconds
    video: Ints
    fraction: Floats


@dataclass(frozen=True, kw_only=True)
class Shelves:
    """The videos of each (niche, language) in one tick, to draw from. An empty shelf means the whole catalogue.

    `cumulative` [rows] is the cumulative popularity over the rows of all shelves. A shelf spans `total` from `start`
    [shelves].
    """

    cumulative: Floats
    videos: Ints
    start: Floats
    total: Floats
    empty: Bools

    @classmethod
    def from_time(cls, world: World, time: int) -> Shelves:
        """Build the shelves of the tick that starts at `time` (epoch seconds)."""
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
        """Draw a video for each shelf, with probability proportional to popularity."""
        point = np.minimum(self.start[shelf] + uniform * self.total[shelf], np.nextafter(self.cumulative[-1], 0))
        return self.videos[np.searchsorted(self.cumulative, point, side="right")]

    def draw_any(self, uniform: Floats) -> Ints:
        """Draw videos from all shelves, with probability proportional to popularity."""
        return self.videos[np.searchsorted(self.cumulative, uniform * np.nextafter(self.cumulative[-1], 0), "right")]


def user_blocks(world: World) -> Iterator[slice]:
    """Yield slices of at most `BLOCK_USERS` users."""
    users = world.settings.users
    return (slice(first, min(first + BLOCK_USERS, users)) for first in range(0, users, BLOCK_USERS))


def mean_tastes(world: World, users: slice) -> Floats:
    """Return the mean tastes of users of the same gender, age, country and device: logits [users, niches]."""
    rng, people = world.settings.generator("demographics"), world.population
    age = (world.settings.last_day.year - people.birth_year[users]).clip(max=69) // 14
    topics, spread = world.settings.topics, world.settings.signal.group_spread
    groups = [
        (people.gender[users] + 1, 3),
        (age, 5),
        (people.country[users], len(COUNTRIES)),
        (people.device[users], 3),
    ]
    base = rng.normal(0, 0.4, (1, topics))
    logits = base + sum(rng.normal(0, spread, (size, topics))[group] for group, size in groups)
    return np.repeat(logits, NICHES, axis=1)


def taste_shares(tastes: Floats) -> Floats:
    """Return the softmax of logits over niches [..., niches]."""
    shares = np.exp(tastes - tastes.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Tastes:
    """The tastes of a block of users on one day."""

    first: int  # the user of row 0
    shares: Floats  # [users, niches]
    ladder: Floats  # [users x niches]: the cumulative shares of row r plus r, ascending, to draw by binary search

    @classmethod
    def from_state(cls, state: State, block: slice) -> Tastes:
        """Compute the tastes of a block of users."""
        shares = taste_shares(state.tastes[block].astype(np.float64))
        ladder = np.cumsum(shares, axis=1).clip(max=1)
        ladder[:, -1] = 1
        ladder += np.arange(len(shares))[:, None]
        return cls(first=block.start, shares=shares, ladder=ladder.ravel())

    def draw(self, user: Ints, rng: np.random.Generator) -> Ints:
        """Draw a niche for each user."""
        place = np.searchsorted(self.ladder, user - self.first + rng.random(len(user)), side="right")
        return place.clip(max=self.ladder.size - 1) % self.shares.shape[1]

    def towards(self, world: World, user: Ints, video: Ints) -> Floats:
        """Return each user's taste for a video: the shares of its two niches, weighted by the video's shares."""
        niche, share = world.catalogue.niche[video], world.catalogue.share[video]
        return (self.shares[user[:, None] - self.first, niche] * share).sum(axis=1)


def draw_language(world: World, user: Ints, rng: np.random.Generator) -> Ints:
    """Draw a language for each user, mostly the user's own."""
    other = rng.choice(len(LANGUAGES), len(user), p=np.array(LANGUAGE_SHARES))
    return np.where(rng.random(len(user)) < OWN_LANGUAGE, world.population.language[user], other)


def deviation(world: World, rng: np.random.Generator, users: int) -> Floats:
    """Draw how the tastes of users deviate from their mean tastes: logits [users, niches]."""
    topics = rng.standard_normal((users, world.settings.topics), dtype=np.float32) * TOPIC_SPREAD
    niches = rng.standard_normal((users, world.settings.niches), dtype=np.float32) * NICHE_SPREAD
    return niches + np.repeat(topics, NICHES, axis=1)


def _quests(tastes: Floats, rng: np.random.Generator) -> Ints:
    """Draw a niche for each user from flattened tastes (half the logits), so that quests often are unusual niches."""
    return (tastes / 2 + rng.gumbel(size=tastes.shape)).argmax(axis=1)


def start_state(world: World) -> State:
    """Return the state of all users before the first day."""
    users = world.settings.users
    tastes = np.empty((users, world.settings.niches), dtype=np.float32)
    quest = np.empty(users, dtype=np.int64)
    for block in user_blocks(world):
        rng = world.settings.generator(f"start/{block.start}")
        tastes[block] = mean_tastes(world, block) + deviation(world, rng, block.stop - block.start)
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
    """Return the state of the next morning: tastes drift, and 1 of `quest_days` quests is replaced."""
    tastes, quest, fresh = state.tastes.copy(), state.quest.copy(), np.zeros(len(state.quest), dtype=bool)
    for block in user_blocks(world):
        rng, users = world.settings.generator(f"night/{day}/{block.start}"), block.stop - block.start
        usual = mean_tastes(world, block)
        step = np.sqrt(1 - DAILY_MEMORY**2) * deviation(world, rng, users)
        tastes[block] = usual + DAILY_MEMORY * (tastes[block] - usual) + step
        fresh[block] = rng.random(users) < 1 / world.settings.signal.quest_days
        quest[block] = np.where(fresh[block], _quests(tastes[block], rng), quest[block])
    return replace(state, tastes=tastes, quest=quest, quest_is_new=fresh)


def has_seen(seen: npt.NDArray[np.uint8], users: Ints, videos: Ints) -> Bools:
    """Return whether each user's bit of a video is set. `users` and `videos` broadcast."""
    bit = videos % SEEN_BITS
    return (seen[users, bit >> 3] >> (bit & 7).astype(np.uint8) & 1).astype(bool)


def expected_fraction(world: World, *, taste: Floats, videos: Ints, device: Ints) -> Floats:
    """Return the expected watched share of videos, which grows with taste and quality and falls with length.

    taste: the user's taste for the video, as in `Tastes.towards`.
    """
    liking = np.log(np.clip(taste * world.settings.niches, 0.05, 20))
    length = np.log(world.catalogue.seconds[videos] / 420)
    odds = 0.4 + 0.45 * liking + world.catalogue.quality[videos] - 0.25 * length + np.array([-0.2, 0, 0.4])[device]
    return 1 / (1 + np.exp(-odds))
