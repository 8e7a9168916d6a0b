"""Build the tables of simulated logs, with missing values and irregularities as in real logs."""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms.simulation.state import QUEST, Events, Shelves, State, Tastes
from transforms.simulation.world import (
    COUNTRIES,
    DAY_SECONDS,
    DEVICES,
    GENDERS,
    LANGUAGES,
    NEVER,
    NICHES,
    TICK_SECONDS,
    WORDS,
    Bools,
    Floats,
    Ints,
    World,
)

FILLERS = ("new", "best", "how to", "live", "review", "2")
SEARCHED = np.array([0.0, 0.02, 0.55, 0.12])  # probability that a watch of each mode follows a search
SEARCH_LEAD = (4_000, 90_000)  # milliseconds from a search to its watch, the upper bound exclusive


def timestamps(milliseconds: Ints) -> pl.Series:
    """Convert epoch milliseconds to a UTC timestamp column."""
    return pl.Series("time", milliseconds, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))


def gather_names(names: tuple[str, ...], index: Ints, *, missing: Bools | None = None) -> pl.Series:
    """Return the name of each index; null if the index is negative or `missing`."""
    is_null = index < 0 if missing is None else missing | (index < 0)
    return pl.Series(list(names)).gather(pl.Series(np.where(is_null, -1, index)).replace(-1, None).cast(pl.UInt32))


def phrase(world: World, niche: Ints, language: Ints, rng: np.random.Generator) -> pl.DataFrame:
    """Draw two words for each (niche, language): columns `first`, `second` [rows].

    A single word identifies the topic and almost nothing of the niche. The ordered pair identifies the niche: the
    difference of the words' positions modulo NICHES is the niche's index in its topic. Bigrams therefore carry
    information that single words do not.
    """
    first = rng.choice(WORDS, len(niche), p=_falling(WORDS))
    second = (first + niche % NICHES + NICHES * rng.integers(WORDS // NICHES, size=len(niche))) % WORDS
    words, topic = world.words, niche // NICHES
    flat = pl.Series(words.ravel().tolist(), dtype=pl.String)
    places = {"first": (0, first), "second": (1, second)}
    return pl.DataFrame(
        {
            name: flat.gather(np.ravel_multi_index((topic, language, np.full(len(niche), side), place), words.shape))
            for name, (side, place) in places.items()
        }
    )


def _falling(n: int) -> Floats:
    weights = 1 / np.arange(2, n + 2)
    return weights / weights.sum()


def videos_frame(world: World) -> pl.DataFrame:
    """Return the videos table, in order of upload, without videos deleted from it."""
    videos, rng = world.catalogue, world.settings.generator("titles")
    main = phrase(world, videos.niche[:, 0], videos.language, rng)
    side = phrase(world, videos.niche[:, 1], videos.language, rng)
    part = pl.Series(videos.episode).replace(0, None)
    title = pl.select(
        pl.concat_str(
            main["first"],
            main["second"],
            gather_names(FILLERS, rng.integers(-2, len(FILLERS), len(side)).clip(-1)),
            side["first"],
            pl.concat_str(pl.lit("part "), part),
            separator=" ",
            ignore_nulls=True,
        )
    ).to_series()
    no_language = rng.random(len(side)) < 0.01
    frame = {
        "video_id": videos.ids,
        "upload_time": timestamps(videos.upload * 1000),
        "video_seconds": videos.seconds.astype(np.float64),
        "title": title,
        "channel": pl.select(pl.format("c{}", pl.Series(videos.channel))).to_series(),
        "language": gather_names(LANGUAGES, videos.language, missing=no_language),
        "available": videos.removed == NEVER,
    }
    known = videos.listed & (videos.upload < world.settings.start(world.settings.days))
    return pl.DataFrame(frame).filter(pl.Series(known))


def users_frame(world: World) -> pl.DataFrame:
    """Return the users table. Some users have no gender or birth year, and 2 % of users are not in the table."""
    users, rng = world.population, world.settings.generator("users")
    n = len(users.ids)
    missing = rng.random((3, n)) < np.array([[0.05], [0.02], [0.02]])
    frame = pl.DataFrame(
        {
            "user_id": users.ids,
            "gender": gather_names(GENDERS, users.gender),
            "birth_year": pl.Series(np.where(missing[0], -1, users.birth_year)).replace(-1, None),
            "country": gather_names(COUNTRIES, users.country, missing=missing[1]),
            "language": gather_names(LANGUAGES, users.language),
        }
    )
    return frame.filter(pl.Series(~missing[2]) | (pl.int_range(n) == 0))


def topics_frame(world: World) -> pl.DataFrame:
    """Return the topics and niches of every video: `share` of it belongs to `niche`, the rest to `second_niche`."""
    niche = world.catalogue.niche
    return pl.DataFrame(
        {
            "video_id": world.catalogue.ids,
            "topic": niche[:, 0] // NICHES,
            "niche": niche[:, 0],
            "share": world.catalogue.share[:, 0],
            "second_topic": niche[:, 1] // NICHES,
            "second_niche": niche[:, 1],
        }
    )


def _watched_seconds(world: World, events: Events) -> Floats:
    """Return the watched seconds, rounded to 0.1. 0.5 % of videos watched to the end are replayed in part."""
    rounds = np.where((events.fraction > 0.9) & (events.time % 200 == 0), 1.5, 1)
    return np.round(events.fraction * rounds * world.catalogue.seconds[events.video], 1)


def watches_frame(world: World, events: Events, rng: np.random.Generator) -> pl.DataFrame:
    """Return the rows of watches. Some have no device, length or country, and a few watch times exceed the length."""
    n, who, seconds = len(events.user), world.population, world.catalogue.seconds[events.video].astype(np.float64)
    missing = rng.random((3, n)) < np.array([[0.03], [0.01], [0.01]])
    return pl.DataFrame(
        {
            "user_id": who.ids.gather(events.user),
            "video_id": world.catalogue.ids.gather(events.video),
            "time": timestamps(events.time),
            "watch_seconds": pl.Series(_watched_seconds(world, events)),
            "video_seconds": pl.select(pl.when(~pl.Series(missing[0])).then(pl.Series(seconds))).to_series(),
            "country": gather_names(COUNTRIES, who.country[events.user], missing=missing[1]),
            "device": gather_names(DEVICES, events.device, missing=missing[2]),
            "signed_in": pl.Series(who.signed_in[events.user]),
        }
    )


def searches_frame(world: World, events: Events, rng: np.random.Generator) -> pl.DataFrame:
    """Return searches a few seconds before the watch that they led to."""
    rows = np.flatnonzero(rng.random(len(events.user)) < SEARCHED[events.mode])
    video, time = events.video[rows], events.time[rows] - rng.integers(*SEARCH_LEAD, len(rows))
    side = (rng.random(len(rows)) >= world.catalogue.share[video, 0]).astype(np.int64)
    return _queries(world, events.user[rows], time, world.catalogue.niche[video, side], events.language[rows], rng)


def first_searches_frame(world: World, state: State, rng: np.random.Generator, day: int, block: slice) -> pl.DataFrame:
    """Return the searches for quests without a watch, at any time of the day. The first day of a quest has most."""
    signal = world.settings.signal
    share = np.where(state.quest_is_new[block], signal.first_searches, signal.later_searches)
    searched = rng.random(block.stop - block.start) < share
    user = block.start + np.flatnonzero(searched & (world.population.first_day[block] <= day))
    time = world.settings.start(day) * 1000 + rng.integers(DAY_SECONDS * 1000, size=len(user))
    return _queries(world, user, time, state.quest[user], world.population.language[user], rng)


def _queries(
    world: World, user: Ints, time: Ints, niche: Ints, language: Ints, rng: np.random.Generator
) -> pl.DataFrame:
    """Return rows of searches: mostly both words of a phrase, some with one word or a filler, a few in upper case."""
    n = len(user)
    words, kind = phrase(world, niche, language, rng), rng.random(n)
    only_first, only_second = pl.Series(kind < 0.12), pl.Series((kind >= 0.12) & (kind < 0.24))
    filler = gather_names(FILLERS, np.where(rng.random(n) < 0.3, rng.integers(len(FILLERS), size=n), -1))
    first, second = (
        pl.when(~one).then(word) for one, word in ((only_second, words["first"]), (only_first, words["second"]))
    )
    query = pl.select(pl.concat_str(first, second, filler, separator=" ", ignore_nulls=True)).to_series()
    upper_case = pl.Series(rng.random(n) < 0.03)
    return pl.DataFrame(
        {
            "user_id": world.population.ids.gather(user),
            "time": timestamps(time),
            "query": pl.select(pl.when(upper_case).then(query.str.to_uppercase()).otherwise(query)).to_series(),
        }
    )


def impressions_frame(
    world: World, events: Events, shelves: Shelves, tastes: Tastes, rng: np.random.Generator, time: int
) -> pl.DataFrame:
    """Return recommended pages of up to eight videos, half by popularity and half by taste, one row per video.

    30 % of watches outside a quest come from a click on such a page; 25 % of pages have no click.
    """
    shown = np.flatnonzero(rng.random(len(events.user)) < np.where(events.mode == QUEST, 0.0, 0.4))
    clicked = rng.random(len(shown)) < 0.75
    size = rng.integers(3, 8, len(shown))
    page = np.repeat(np.arange(len(shown)), size)
    user = events.user[shown][page]
    shelf = tastes.draw(user, rng) * len(LANGUAGES)
    liked = shelves.draw(shelf + world.population.language[user], rng.random(len(page)))
    other = np.where(rng.random(len(page)) < 0.5, liked, shelves.draw_any(rng.random(len(page))))
    # A page shows a video once. Rows are sorted by (page, video), so that their order does not reveal the click.
    chosen, count = events.video[shown], len(world.catalogue.ids)
    keys = np.concatenate([np.flatnonzero(clicked) * count + chosen[clicked], page * count + other])
    pages, videos = np.divmod(np.unique(keys), count)
    hit = clicked[pages] & (videos == chosen[pages])
    watched = _watched_seconds(world, events)[shown]
    page_time = events.time[shown] - rng.integers(1_000, 20_000, len(shown))
    names = pl.select(pl.format("p{}-{}-{}", time // TICK_SECONDS, tastes.first, pl.int_range(len(shown)))).to_series()
    return pl.DataFrame(
        {
            "user_id": world.population.ids.gather(events.user[shown][pages]),
            "video_id": world.catalogue.ids.gather(videos),
            "time": timestamps(page_time[pages]),
            "page_id": names.gather(pages),
            "clicked": pl.Series(hit),
            "watch_seconds": pl.Series(np.where(hit, watched[pages], 0.0)),
        }
    )
