"""Simulate watch, search and impression logs day by day, from a known model.

A user has tastes over niches, which drift from day to day, and a *quest*: a niche that interests the user for a few
days and appears in searches first. Each watch comes from one of four `MODES`: the next episode of the last completed
series video, the niche of the last completed video, the quest, or taste. Videos completed before are mostly refused.

    world = build_world(SimulationSettings(last_day=date(2026, 11, 20)))
    state = start_state(world)
    for day in range(world.settings.days):
        state = begin_day(world, state, day)
        logs = play_day(world, state, day)
        state = logs.state

The code is vectorised over users, and loops only over days, ticks of six hours, and the n-th watch of a tick. Memory
holds the logs of one day and, for each user, a float per niche and `SEEN_BITS` bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from transforms.simulation.state import (
    COMPLETED,
    CONTINUE,
    MODES,
    QUEST,
    REDRAWS,
    REFUSE,
    SEEN_BITS,
    SERIES,
    USUAL_DEVICE,
    Events,
    Shelves,
    State,
    Tastes,
    draw_language,
    expected_fraction,
    has_seen,
    user_blocks,
)
from transforms.simulation.tables import first_searches_frame, impressions_frame, searches_frame, watches_frame
from transforms.simulation.world import DEVICE_SHARES, DEVICES, LANGUAGES, TICK_SECONDS, Bools, Floats, Ints, World

TICK_SHARES = np.array([0.1, 0.2, 0.3, 0.4])
TICK_WATCHES = 40  # maximal number per user and tick


@dataclass(frozen=True, kw_only=True)
class DayLogs:
    """The tables of one day, sorted by time, and the state at the end of the day."""

    watches: pl.DataFrame
    searches: pl.DataFrame
    impressions: pl.DataFrame
    state: State


def play_day(world: World, state: State, day: int) -> DayLogs:
    """Simulate one day from the state of its morning (`begin_day`), which is not modified."""
    state = replace(
        state, last_niche=state.last_niche.copy(), next_episode=state.next_episode.copy(), seen=state.seen.copy()
    )
    shelves = [
        Shelves.from_time(world, world.settings.start(day) + tick * TICK_SECONDS) for tick in range(len(TICK_SHARES))
    ]
    parts = [part for block in user_blocks(world) for part in _play_block(world, state, day, block, shelves)]
    tables = [pl.concat(tables).sort("time", maintain_order=True) for tables in zip(*parts, strict=True)]
    return DayLogs(watches=tables[0], searches=tables[1], impressions=tables[2], state=state)


def _play_block(
    world: World, state: State, day: int, block: slice, shelves: list[Shelves]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]]:
    rng = world.settings.generator(f"day/{day}/{block.start}")
    tastes = Tastes.from_state(state, block)
    counts = _watches_by_tick(world, rng, day, block)
    for tick, (count, shelf) in enumerate(zip(counts.T, shelves, strict=True)):
        time = world.settings.start(day) + tick * TICK_SECONDS
        events = _watch(world, state, rng, shelves=shelf, tastes=tastes, counts=count, time=time)
        searches = searches_frame(world, events, rng)
        if tick == 0:
            searches = pl.concat([searches, first_searches_frame(world, state, rng, day, block)])
        yield (
            watches_frame(world, events, rng),
            searches,
            impressions_frame(world, events, shelf, tastes, rng, time),
        )


def _watches_by_tick(world: World, rng: np.random.Generator, day: int, block: slice) -> Ints:
    """Draw the number of watches of each user in each tick [users, ticks], overdispersed over days."""
    population = world.population
    rate = population.daily_watches[block] * (1.2 if world.settings.day(day).weekday() >= 5 else 0.92)
    today = rng.poisson(rng.gamma(0.8, rate / 0.8)) * (population.first_day[block] <= day)
    return rng.multinomial(today, TICK_SHARES).clip(max=TICK_WATCHES)


def _watch(
    world: World, state: State, rng: np.random.Generator, *, shelves: Shelves, tastes: Tastes, counts: Ints, time: int
) -> Events:
    """Simulate the watches of one tick. Step n is the n-th watch of all users with that many, busiest users first."""
    order = np.argsort(-counts, kind="stable")
    active = [int((counts > n).sum()) for n in range(int(counts.max(initial=0)))]
    user = tastes.first + np.concatenate([order[:0], *(order[:size] for size in active)])
    n, live, stop = len(user), world.catalogue.live(time), 0
    other_device = rng.choice(len(DEVICES), n, p=np.array(DEVICE_SHARES))
    events = Events(
        user=user,
        mode=rng.choice(len(MODES), n, p=np.array(world.settings.signal.mode_shares)),
        language=draw_language(world, user, rng),
        device=np.where(rng.random(n) < USUAL_DEVICE, world.population.device[user], other_device),
        time=_times(user, np.repeat(np.arange(len(active)), active), time, rng),
        video=np.zeros(n, dtype=np.int64),
        fraction=np.zeros(n),
    )
    liked = tastes.draw(user, rng)
    for size in active:
        start, stop = stop, stop + size
        now = slice(start, stop)
        niche = _niche(state, user[now], events.mode[now], liked[now])
        video = shelves.draw(niche * len(LANGUAGES) + events.language[now], rng.random(size))
        following = state.next_episode[user[now]]
        video = np.where((events.mode[now] == SERIES) & (following >= 0) & live[following], following, video)
        events.video[now] = _refuse_seen(world, state, shelves, tastes, user[now], video, rng)
        events.fraction[now] = _fraction(world, tastes, events, now, rng)
        remember(world, state, user[now], events.video[now], events.fraction[now] >= COMPLETED)
    return events


def _niche(state: State, user: Ints, mode: Ints, liked: Ints) -> Ints:
    """Return the niche of each user's watch. A continuation without a previous video is a watch from taste."""
    continues = (mode == CONTINUE) & (state.last_niche[user] >= 0)
    return np.where(continues, state.last_niche[user], np.where(mode == QUEST, state.quest[user], liked))


def _refuse_seen(
    world: World, state: State, shelves: Shelves, tastes: Tastes, user: Ints, video: Ints, rng: np.random.Generator
) -> Ints:
    """Replace most videos that the user completed before with draws from taste."""
    video, refused = video.copy(), np.arange(len(user))
    for _ in range(REDRAWS):
        refused = refused[has_seen(state.seen, user[refused], video[refused])]  # a video accepted once stays
        refused = refused[rng.random(len(refused)) < REFUSE]
        niche, language = tastes.draw(user[refused], rng), draw_language(world, user[refused], rng)
        video[refused] = shelves.draw(niche * len(LANGUAGES) + language, rng.random(len(refused)))
    return video


def _fraction(world: World, tastes: Tastes, events: Events, now: slice, rng: np.random.Generator) -> Floats:
    """Draw the watched share of each video from a beta distribution around its expectation, often close to 0 or 1."""
    taste = tastes.towards(world, events.user[now], events.video[now])
    mean = expected_fraction(world, taste=taste, videos=events.video[now], device=events.device[now])
    return rng.beta(2.5 * mean, 2.5 * (1 - mean))


def _times(user: Ints, step: Ints, start: int, rng: np.random.Generator) -> Ints:
    """Draw times within the tick in milliseconds, ascending per user. The first minutes are reserved for searches."""
    drawn = start * 1000 + rng.integers(150_000, TICK_SECONDS * 1000, len(user))
    time = np.empty_like(drawn)
    time[np.lexsort((step, user))] = drawn[np.lexsort((drawn, user))]
    return time


def remember(world: World, state: State, user: Ints, video: Ints, completed: Bools) -> None:
    """Record completed videos in the state's arrays, in place. Each user occurs at most once."""
    user, video = user[completed], video[completed]
    state.last_niche[user] = world.catalogue.niche[video, 0]
    serial = world.catalogue.episode[video] > 0
    state.next_episode[user[serial]] = world.catalogue.next_episode[video[serial]]
    bit = video % SEEN_BITS
    state.seen[user, bit >> 3] |= (1 << (bit & 7)).astype(np.uint8)
