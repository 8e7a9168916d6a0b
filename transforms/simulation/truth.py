"""The true distribution of simulated users' next watches, and their expected watch times.

These are closed forms of the distributions from which `transforms.simulation.play_day` draws: an upper bound for every
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from transforms.simulation.play_day import DayLogs
from transforms.simulation.state import (
    COMPLETED,
    CONTINUE,
    OWN_LANGUAGE,
    QUEST,
    REDRAWS,
    REFUSE,
    SERIES,
    USUAL_DEVICE,
    Shelves,
    State,
    expected_fraction,
    has_seen,
    taste_shares,
)
from transforms.simulation.world import DEVICE_SHARES, LANGUAGE_SHARES, LANGUAGES, Floats, Ints, World

CHUNK_CELLS = 250_000  # users x videos per chunk, so that arrays stay in the processor's cache


def watch_probabilities(world: World, state: State, day: int, *, users: Ints) -> Floats:
    """Return the probability that each video is the user's next watch at the start of the day [users, videos].

    Rows sum to 1. `state` is that of the day's morning (`begin_day`). Videos uploaded during the day have
    probability 0.
    """
    time = world.settings.start(day)
    shelves, language = Shelves.from_time(world, time), language_shares(world.population.language[users])
    return next_watches(
        world,
        state,
        day,
        users=users,
        taste=taste_shares(state.tastes[users].astype(np.float64)),
        quest=np.eye(world.settings.niches)[state.quest[users]],
        draw=lambda niche: _by_shelves(world, shelves, niche, language, time),
    )


def next_watches(
    world: World,
    state: State,
    day: int,
    *,
    users: Ints,
    taste: Floats,
    quest: Floats,
    draw: Callable[[Floats], Floats],
) -> Floats:
    """Return the probability that each video is the next watch of users with uncertain quests [users, videos].

    taste: [users, niches]
    quest: the probability that each niche is the user's quest [users, niches]
    draw: converts shares of niches [users, niches] to shares of the videos drawn from them [users, videos]

    `state` gives what the user completed. The arguments are as in `watch_probabilities` otherwise.
    """
    shares, live = world.settings.signal.mode_shares, world.catalogue.live(world.settings.start(day))
    last, following, rows = state.last_niche[users], state.next_episode[users], np.arange(len(users))
    continues = np.where(last >= 0, shares[CONTINUE], 0)
    series = np.where((following >= 0) & live[following], shares[SERIES], 0)
    # A series watch without a next episode falls back to taste, as does a continuation without a previous video.
    niche = taste * (1 - continues - series - shares[QUEST])[:, None] + shares[QUEST] * quest
    niche[rows, last] += continues
    first = draw(niche)
    first[rows, following] += series
    refused = REFUSE * has_seen(state.seen, users[:, None], np.arange(world.settings.videos)[None, :])
    redrawn = draw(taste)
    again = (redrawn * refused).sum(axis=1, keepdims=True)
    rounds = sum(again**i for i in range(REDRAWS - 1))
    settled = redrawn * ((1 - refused) * rounds + again ** (REDRAWS - 1))
    return first * (1 - refused) + (first * refused).sum(axis=1, keepdims=True) * settled


def language_shares(language: Ints) -> Floats:
    """Return the share of each language in the watches of users with these languages [users, languages]."""
    return OWN_LANGUAGE * np.eye(len(LANGUAGES))[language] + (1 - OWN_LANGUAGE) * np.array(LANGUAGE_SHARES)


def video_shares(world: World, time: int) -> Floats:
    """Return the probability of each video in a draw from a niche in the tick that starts at `time` (epoch seconds).

    The array is [languages of the user, niches, videos]; the last axis sums to 1.
    """
    languages, niches = np.divmod(np.arange(len(LANGUAGES) * world.settings.niches), world.settings.niches)
    shares = _by_shelves(
        world, Shelves.from_time(world, time), np.eye(world.settings.niches)[niches], language_shares(languages), time
    )
    return shares.reshape(len(LANGUAGES), world.settings.niches, -1)


def _by_shelves(world: World, shelves: Shelves, niche: Floats, language: Floats, time: int) -> Floats:
    """Convert shares of niches [users, niches] and languages [users, languages] to shares of videos [users, videos]."""
    shelf = (niche[:, :, None] * language[:, None, :]).reshape(len(niche), -1)
    weights = world.catalogue.weights(time)
    density = np.where(shelves.empty, 0, shelf / shelves.total)
    anywhere = (shelf * shelves.empty).sum(axis=1, keepdims=True) / weights.sum()
    shelf_of, share = world.catalogue.shelf, world.catalogue.share
    shares = density[:, shelf_of[:, 0]] * share[:, 0] + density[:, shelf_of[:, 1]] * share[:, 1]
    return weights * (shares + anywhere)


def expected_watch_seconds(world: World, state: State, *, users: Ints, videos: Ints) -> Floats:
    """Return the expected watched seconds [users, n] of videos [users, n], averaged over devices."""
    taste = taste_shares(state.tastes[users].astype(np.float64))
    rows = np.arange(len(users))[:, None, None]
    liked = (taste[rows, world.catalogue.niche[videos]] * world.catalogue.share[videos]).sum(axis=2)
    usual = np.eye(len(DEVICE_SHARES))[world.population.device[users]]
    shares = USUAL_DEVICE * usual + (1 - USUAL_DEVICE) * np.array(DEVICE_SHARES)
    every = np.arange(len(DEVICE_SHARES))[:, None, None]
    fraction = expected_fraction(world, taste=liked, videos=videos, device=every)
    return np.einsum("ud,dun->un", shares, fraction) * world.catalogue.seconds[videos]


def true_preferences(world: World, state: State, day: int, *, users: Ints, top: int = 200) -> pl.DataFrame:
    """Return the `top` most probable next watches of users (fewer in a small catalogue), ties by video.

    Columns: user_id, video_id, probability, watch_seconds; best first for each user.
    """
    return pl.concat(_preferences(world, state, day, users, top))


def _preferences(world: World, state: State, day: int, users: Ints, top: int) -> Iterator[pl.DataFrame]:
    size = max(1, CHUNK_CELLS // world.settings.videos)
    for chunk in (users[first : first + size] for first in range(0, len(users), size)):
        shares = watch_probabilities(world, state, day, users=chunk)
        top = min(top, world.settings.videos)
        best = np.sort(np.argpartition(-shares, top - 1, axis=1)[:, :top], axis=1)
        order = np.argsort(-np.take_along_axis(shares, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        frame = pl.DataFrame(
            {
                "user_id": world.population.ids.gather(np.repeat(chunk, top)),
                "video_id": world.catalogue.ids.gather(best.ravel()),
                "probability": np.take_along_axis(shares, best, axis=1).ravel(),
                "watch_seconds": expected_watch_seconds(world, state, users=chunk, videos=best).ravel(),
            }
        )
        yield frame.filter(pl.col("probability") > 0)


def completed_watches(world: World, logs: DayLogs) -> pl.DataFrame:
    """Return the distinct, sorted (user_id, video_id) completed in logs, including rows without the video's length."""
    lengths = pl.DataFrame({"video_id": world.catalogue.ids, "seconds": world.catalogue.seconds})
    rows = logs.watches.join(lengths, on="video_id")
    done = rows.filter(pl.col("watch_seconds") >= COMPLETED * pl.col("seconds"))
    return done.select("user_id", "video_id").unique().sort("user_id", "video_id")
