"""The posterior of simulated users' tastes and quests, compared with enumeration and with importance sampling."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest

from transforms.simulation.play_day import remember
from transforms.simulation.posterior import Evidence, Likelihood, observe, sample_posterior
from transforms.simulation.state import MODES, State, mean_tastes, start_state, taste_shares
from transforms.simulation.tables import SEARCHED, timestamps
from transforms.simulation.truth import next_watches, video_shares, watch_probabilities
from transforms.simulation.world import (
    LANGUAGE_SHARES,
    LANGUAGES,
    NICHES,
    Floats,
    Signal,
    SimulationSettings,
    World,
    build_world,
)

DAYS = 2
SIGNAL = Signal(quest_days=3.0, first_searches=0.6, later_searches=0.1)
# user, day, second of the day, video, completed: all in the first tick of the day, for which the truth is known
WATCHES = [
    (0, 0, 200, 0, True),
    (0, 0, 300, 1, True),
    (0, 0, 400, 0, True),
    (0, 1, 200, 2, False),
    (0, 1, 900, 5, True),
    (1, 1, 500, 3, True),
]
SEARCHES = [(0, 1, 850), (0, 1, 10_000), (1, 0, 100)]  # the first one leads to a watch
EMPTY_SEARCHES = pl.DataFrame(schema={"user_id": pl.String, "time": pl.Datetime("ms", "UTC"), "query": pl.String})


@pytest.fixture(scope="module")
def world() -> World:
    """Three users, of whom the last has no logs; 6 videos that are all live, 8 niches."""
    drawn = build_world(
        SimulationSettings(users=3, videos=6, days=DAYS + 1, seed=3, last_day=date(2026, 11, 20), signal=SIGNAL)
    )
    videos = replace(
        drawn.catalogue,
        upload=drawn.settings.start(0) - 86_400 * np.arange(6, 0, -1),
        removed=np.full(6, np.iinfo(np.int64).max),
        next_episode=np.array([1, -1, -1, -1, -1, -1]),
        episode=np.array([1, 2, 0, 0, 0, 0]),
    )
    return replace(drawn, catalogue=videos, population=replace(drawn.population, first_day=np.zeros(3, np.int64)))


def logs(world: World) -> tuple[pl.DataFrame, pl.DataFrame]:
    start, seconds = world.settings.start, world.catalogue.seconds
    watches = pl.DataFrame(
        {
            "user_id": [world.population.ids[user] for user, *_ in WATCHES],
            "video_id": [world.catalogue.ids[video] for *_, video, _ in WATCHES],
            "time": timestamps(np.array([(start(day) + second) * 1000 for _, day, second, *_ in WATCHES])),
            "watch_seconds": [seconds[video] * (0.9 if done else 0.1) for *_, video, done in WATCHES],
        }
    )
    queries = [phrase(world, 0), f"new {phrase(world, 5)}".upper(), phrase(world, 2).split()[0]]
    searches = pl.DataFrame(
        {
            "user_id": [world.population.ids[user] for user, *_ in SEARCHES],
            "time": timestamps(np.array([(start(day) + second) * 1000 for _, day, second in SEARCHES])),
            "query": queries,
        }
    )
    return watches.reverse(), searches.reverse()


def phrase(world: World, niche: int) -> str:
    words = world.words[niche // NICHES, 0]
    return f"{words[0, 3]} {words[1, 3 + niche % NICHES]}"


@pytest.fixture(scope="module")
def evidence(world: World) -> Evidence:
    return observe(world, *logs(world), days=DAYS)


def tastes_of(world: World, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(0, 2, (world.settings.users, DAYS + 2, world.settings.niches))


def states_before_watches(world: World, user: int) -> list[State]:
    """Return the state before each watch of a user."""
    states, state = [], start_state(world)
    for watcher, _, _, video, done in WATCHES:
        if watcher == user:
            states.append(replace(state, last_niche=state.last_niche.copy(), seen=state.seen.copy()))
            states[-1] = replace(states[-1], next_episode=state.next_episode.copy())
            remember(world, state, np.array([user]), np.array([video]), np.array([done]))
    return states


def enumerated(world: World, user: int, tastes: Floats, *, searches: bool) -> tuple[float, Floats]:
    """Return the likelihood of a user's logs and the distribution of the next quest, by a sum over quests and modes."""
    niches, renewed = world.settings.niches, 1 / SIGNAL.quest_days
    likelihood, following = 0.0, np.zeros(niches)
    drawn = taste_shares(tastes[user] / 2)
    named = {(0, 1): [5], (1, 0): list(range(NICHES))}  # of searches without a watch, by user and day
    watches = [watch for watch in WATCHES if watch[0] == user]
    states = states_before_watches(world, user)
    by_mode = np.zeros((len(watches), len(MODES), niches))  # probability of the video by mode and quest
    for i, (_, day, _, video, _) in enumerate(watches):
        for mode, quest in itertools.product(range(len(MODES)), range(niches)):
            only = replace(SIGNAL, mode_shares=tuple(np.eye(len(MODES))[mode]))
            one_mode = replace(world, settings=replace(world.settings, signal=only))
            of_day = replace(states[i], tastes=tastes[:, day + 1], quest=np.full(world.settings.users, quest))
            by_mode[i, mode, quest] = watch_probabilities(one_mode, of_day, day, users=np.array([user]))[0, video]
    for quests in itertools.product(range(niches), repeat=DAYS + 1):
        for fresh in itertools.product([False, True], repeat=DAYS):
            weight = drawn[0, quests[0]]
            for day in range(DAYS):
                kept = 0.0 if quests[day + 1] != quests[day] else 1 - renewed
                weight *= renewed * drawn[day + 1, quests[day + 1]] if fresh[day] else kept
                if searches:
                    share = SIGNAL.first_searches if fresh[day] else SIGNAL.later_searches
                    names = named.get((user, day))
                    weight *= 1 - share if names is None else share * (quests[day + 1] in names)
            if weight == 0:
                continue
            for i, (_, day, second, *_) in enumerate(watches):
                led = (user, day, second) == (0, 1, 900)
                by_search = (SEARCHED if led else 1 - SEARCHED) if searches else np.ones(len(MODES))
                weight *= (np.array(SIGNAL.mode_shares) * by_search * by_mode[i, :, quests[day + 1]]).sum()
            likelihood += weight
            following[quests[-1]] += weight
    return likelihood, (1 - renewed) * following / likelihood + renewed * drawn[-1]


@pytest.mark.parametrize("searches", [False, True])
@pytest.mark.parametrize("user", [0, 1, 2])
def test_likelihood_is_the_sum_over_quests_and_modes(
    world: World, evidence: Evidence, user: int, searches: bool
) -> None:
    tastes = tastes_of(world, seed=user)
    likelihood, quest = Likelihood(world, evidence, searches=searches)(tastes)
    expected, expected_quest = enumerated(world, user, tastes, searches=searches)
    assert likelihood[user] == pytest.approx(np.log(expected), abs=1e-4)
    np.testing.assert_allclose(quest[user], expected_quest, atol=1e-4)


def test_video_shares_are_those_of_a_draw_from_the_shelves(world: World) -> None:
    time, videos = world.settings.start(1), world.catalogue
    weights = videos.weights(time)
    for own, niche in itertools.product(range(len(LANGUAGES)), range(world.settings.niches)):
        expected = np.zeros(world.settings.videos)
        for language in range(len(LANGUAGES)):
            drawn = 0.88 * (own == language) + 0.12 * LANGUAGE_SHARES[language]
            on_shelf = weights * ((videos.niche == niche) * videos.share).sum(axis=1) * (videos.language == language)
            shelf = on_shelf if on_shelf.sum() else weights
            expected += drawn * shelf / shelf.sum()
        np.testing.assert_allclose(video_shares(world, time)[own, niche], expected, atol=1e-12)


def test_uncertain_quest_is_the_mean_over_quests(world: World) -> None:
    state, users = start_state(world), np.arange(world.settings.users)
    quest = np.random.default_rng(1).dirichlet(np.ones(world.settings.niches), size=len(users))
    expected = sum(
        quest[:, [niche]]
        * watch_probabilities(world, replace(state, quest=np.full(len(users), niche)), DAYS, users=users)
        for niche in range(world.settings.niches)
    )
    shares = video_shares(world, world.settings.start(DAYS))[world.population.language]
    probabilities = next_watches(
        world,
        state,
        DAYS,
        users=users,
        taste=taste_shares(state.tastes.astype(np.float64)),
        quest=quest,
        draw=lambda niche: np.einsum("un,unv->uv", niche, shares),
    )
    np.testing.assert_allclose(probabilities, expected, atol=1e-9)


def copies(world: World, users: int) -> World:
    """Return a world in which all users have the logs and the attributes of user 0, except for their demographics."""
    drawn = build_world(replace(world.settings, users=users)).population
    same = replace(drawn, first_day=np.zeros(users, np.int64), language=np.full(users, world.population.language[0]))
    return replace(world, settings=replace(world.settings, users=users), population=same)


@pytest.mark.parametrize(("searches", "profiles"), [(False, False), (True, False), (True, True)])
def test_samples_agree_with_weighted_draws_from_the_prior(world: World, searches: bool, profiles: bool) -> None:
    users = 600
    many = copies(world, users)
    watches, found_searches = logs(world)

    def repeated(frame: pl.DataFrame) -> pl.DataFrame:
        own = frame.filter(pl.col("user_id") == world.population.ids[0]).drop("user_id")
        return own.join(pl.DataFrame({"user_id": many.population.ids}), how="cross").select(frame.columns)

    evidence = observe(many, repeated(watches), repeated(found_searches), days=DAYS)
    usual = mean_tastes(many, slice(0, users))
    if profiles:  # the same profile for all users, so that they are comparable
        people = many.population
        same: dict[str, Any] = {
            name: np.full(users, getattr(people, name)[0]) for name in ("gender", "birth_year", "country", "device")
        }
        many = replace(many, population=replace(people, **same))
        usual = mean_tastes(many, slice(0, users))
    rng = np.random.default_rng(5)
    samples = list(
        sample_posterior(
            many, evidence, searches=searches, profiles=profiles, rng=rng, warm_up=150, samples=10, thinning=10
        )
    )
    sampled = np.mean([taste_shares(sample.tastes) for sample in samples], axis=(0, 1))
    sampled_quest = np.mean([sample.quest for sample in samples], axis=(0, 1))
    likelihood, total = Likelihood(many, evidence, searches=searches), 0.0
    expected, expected_quest = np.zeros((2, world.settings.niches))
    for _ in range(60):
        path = usual[rng.integers(users, size=users)][:, None] + prior_path(many, rng)
        logs_of_draws, quest = likelihood(path)
        weight = np.exp(logs_of_draws)
        total += weight.sum()
        expected += weight @ taste_shares(path[:, -1])
        expected_quest += weight @ quest
    np.testing.assert_allclose(sampled, expected / total, atol=0.015)
    np.testing.assert_allclose(sampled_quest, expected_quest / total, atol=0.015)


def prior_path(world: World, rng: np.random.Generator) -> Floats:
    """Draw deviations of tastes over days, from their covariance: 0.93 to the power of the distance in days."""
    days, users = DAYS + 2, world.settings.users
    distance = np.abs(np.arange(days)[:, None] - np.arange(days))
    root = np.linalg.cholesky(0.93**distance)
    topics = root @ rng.normal(0, 1.6, (users, days, world.settings.topics))
    niches = root @ rng.normal(0, 1.2, (users, days, world.settings.niches))
    return niches + np.repeat(topics, NICHES, axis=2)


def test_searches_are_matched_with_watches(world: World, evidence: Evidence) -> None:
    expected = [(user, day, second) == (0, 1, 900) for user, day, second, *_ in WATCHES]
    assert evidence.searched.tolist() == expected
    named = {tuple(row) for row in np.argwhere(evidence.quest_search)}
    assert named == {(0, 1, 5), *((1, 0, niche) for niche in range(NICHES))}


def test_logs_without_searches_name_no_quest(world: World) -> None:
    evidence = observe(world, logs(world)[0], EMPTY_SEARCHES, days=DAYS)
    assert not evidence.searched.any()
    assert not evidence.quest_search.any()
