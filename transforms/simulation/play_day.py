"""Simulated watch, search and impression logs whose truth is known.

A user has tastes over niches that drift from day to day, and a *quest*: one niche of interest for a few days, which
shows in searches first. Each next watch comes from one of four `MODES`: the next episode of the last completed series
video; the niche of the last completed video; the quest; or taste. What was completed before is mostly refused.

    world = build_world(SimulationSettings(last_day=date(2026, 11, 20)))
    state = start_state(world)
    for day in range(world.settings.days):
        state = begin_day(world, state, day)
        logs = play_day(world, state, day)
        state = logs.state

Vectorised over users: the only loops are over days, ticks of six hours, and the n-th watch of a tick. Memory: one day's
logs, and per user a float a niche and `SEEN_BITS` bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from transforms.simulation.state import (
    COMPLETED,
    CONTINUE,
    MODE_SHARES,
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
TICK_WATCHES = 40  # at most, a user


@dataclass(frozen=True, kw_only=True)
class DayLogs:
    """One day: three tables in order of time, and the state at the day's end."""

    watches: pl.DataFrame
    searches: pl.DataFrame
    impressions: pl.DataFrame
    state: State


def play_day(world: World, state: State, day: int) -> DayLogs:
    """Simulate one day from the state of its morning (`begin_day`). The given state is left as it is."""
    state = replace(
        state, last_niche=state.last_niche.copy(), next_episode=state.next_episode.copy(), seen=state.seen.copy()
    )
    shelves = [Shelves.at(world, world.settings.start(day) + tick * TICK_SECONDS) for tick in range(len(TICK_SHARES))]
    parts = [part for block in user_blocks(world) for part in _play_block(world, state, day, block, shelves)]
    tables = [pl.concat(tables).sort("time", maintain_order=True) for tables in zip(*parts, strict=True)]
    return DayLogs(watches=tables[0], searches=tables[1], impressions=tables[2], state=state)


def _play_block(
    world: World, state: State, day: int, block: slice, shelves: list[Shelves]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]]:
    rng = world.settings.draws(f"day/{day}/{block.start}")
    tastes = Tastes.of(state, block)
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
    """Watches of each user in each tick [users, ticks]: many days of nothing, some of much."""
    who = world.population
    rate = who.daily_watches[block] * (1.2 if world.settings.day(day).weekday() >= 5 else 0.92)
    today = rng.poisson(rng.gamma(0.8, rate / 0.8)) * (who.first_day[block] <= day)
    return rng.multinomial(today, TICK_SHARES).clip(max=TICK_WATCHES)


def _watch(
    world: World, state: State, rng: np.random.Generator, *, shelves: Shelves, tastes: Tastes, counts: Ints, time: int
) -> Events:
    """Play the watches of one tick: step n is the n-th watch of every user who has one, busiest users first."""
    order = np.argsort(-counts, kind="stable")
    active = [int((counts > n).sum()) for n in range(int(counts.max(initial=0)))]
    user = tastes.first + np.concatenate([order[:0], *(order[:size] for size in active)])
    n, live, stop = len(user), world.catalogue.live(time), 0
    other_device = rng.choice(len(DEVICES), n, p=np.array(DEVICE_SHARES))
    events = Events(
        user=user,
        mode=rng.choice(len(MODES), n, p=MODE_SHARES),
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
        _remember(world, state, user[now], events.video[now], events.fraction[now] >= COMPLETED)
    return events


def _niche(state: State, user: Ints, mode: Ints, liked: Ints) -> Ints:
    """The niche each user turns to; a continuation without a past is a watch from taste."""
    continues = (mode == CONTINUE) & (state.last_niche[user] >= 0)
    return np.where(continues, state.last_niche[user], np.where(mode == QUEST, state.quest[user], liked))


def _refuse_seen(
    world: World, state: State, shelves: Shelves, tastes: Tastes, user: Ints, video: Ints, rng: np.random.Generator
) -> Ints:
    """Replace most of what the user completed before by draws from taste."""
    video, refused = video.copy(), np.arange(len(user))
    for _ in range(REDRAWS):
        refused = refused[has_seen(state.seen, user[refused], video[refused])]  # what was let through once stays
        refused = refused[rng.random(len(refused)) < REFUSE]
        niche, language = tastes.draw(user[refused], rng), draw_language(world, user[refused], rng)
        video[refused] = shelves.draw(niche * len(LANGUAGES) + language, rng.random(len(refused)))
    return video


def _fraction(world: World, tastes: Tastes, events: Events, now: slice, rng: np.random.Generator) -> Floats:
    """How much of each video is watched: a beta draw about what is expected, so often nearly nothing or all."""
    taste = tastes.towards(world, events.user[now], events.video[now])
    mean = expected_fraction(world, taste=taste, videos=events.video[now], device=events.device[now])
    return rng.beta(2.5 * mean, 2.5 * (1 - mean))


def _times(user: Ints, step: Ints, start: int, rng: np.random.Generator) -> Ints:
    """Milliseconds in the tick, rising with the step of each user; the first minutes stay free for searches."""
    drawn = start * 1000 + rng.integers(150_000, TICK_SECONDS * 1000, len(user))
    time = np.empty_like(drawn)
    time[np.lexsort((step, user))] = drawn[np.lexsort((drawn, user))]
    return time


def _remember(world: World, state: State, user: Ints, video: Ints, completed: Bools) -> None:
    """Write what was completed into the state's own copies; each user stands here at most once."""
    user, video = user[completed], video[completed]
    state.last_niche[user] = world.catalogue.niche[video, 0]
    serial = world.catalogue.episode[video] > 0
    state.next_episode[user[serial]] = world.catalogue.next_episode[video[serial]]
    bit = video % SEEN_BITS
    state.seen[user, bit >> 3] |= (1 << (bit & 7)).astype(np.uint8)
