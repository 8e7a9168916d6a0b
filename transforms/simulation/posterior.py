"""What the logs of simulated users reveal of their tastes and quests: the exact posterior of the simulator's own model.

    evidence = observe(world, watches, searches, days=20)
    for sample in sample_posterior(world, evidence, searches=True, profiles=False, rng=rng, warm_up=500, samples=50):
        sample.tastes, sample.quest  # of the morning of day 20, the day after the last observed one

The posterior knows the catalogue, the words and all parameters of the simulation, each user's language, and for every
watch the video, the time and whether it was completed. It does not use what completion says about tastes. With
`searches` it also knows the searches: a watch that follows one is probably a watch of the quest, and a search without
a watch names the quest. With `profiles` it knows the mean tastes of the user's gender, age, country and device.

Tastes are sampled by a Metropolis chain per user. Quests are summed over, given tastes, by the forward algorithm of
hidden Markov models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from transforms.simulation.play_day import TICK_SHARES, remember
from transforms.simulation.state import (
    COMPLETED,
    CONTINUE,
    DAILY_MEMORY,
    MODES,
    QUEST,
    REDRAWS,
    REFUSE,
    SERIES,
    deviation,
    has_seen,
    mean_tastes,
    start_state,
    taste_shares,
)
from transforms.simulation.tables import SEARCH_LEAD, SEARCHED
from transforms.simulation.truth import video_shares
from transforms.simulation.world import DAY_SECONDS, NICHES, TICK_SECONDS, Bools, Floats, Ints, World

TAKEN = 0.25  # share of proposals to accept, to which steps are adapted during the warm-up
DAY_TICKS = len(TICK_SHARES)
MEAN_EVERY = 4  # iterations between two proposals of another mean


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the logs say of each watch; arrays are [watches], by user and time, unless noted otherwise."""

    days: int  # observed days
    user: Ints
    day: Ints
    by_niche: Floats  # [watches, niches]: the probability of the video in a draw from each niche
    seen_by_niche: Floats  # [watches, niches]: the probability that a draw from each niche was completed before
    seen: Bools  # whether the video was completed before
    last: Ints  # niche of the last completed video; -1: none
    has_next: Bools  # whether there is a next episode
    is_next: Bools  # whether the video is the next episode
    next_seen: Bools  # whether the next episode was completed before
    searched: Bools  # whether a search led to the watch
    quest_search: Floats  # [users, days, niches]: 1 for the niches that a search without a watch may name, else 0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One draw of the tastes of the morning after the observed days, and the distribution of quests given tastes."""

    tastes: Floats  # [users, niches] logits
    quest: Floats  # [users, niches]; rows sum to 1


def observe(world: World, watches: pl.DataFrame, searches: pl.DataFrame, *, days: int) -> Evidence:
    """Return the evidence in the logs of the first `days` days, which have the columns of `DayLogs`."""
    rows = _indexed(world, watches, days)
    user, video, tick = (rows[name].to_numpy() for name in ("user", "video", "tick"))
    n, start = len(user), world.settings.start(0)
    ticks = [video_shares(world, start + tick * TICK_SECONDS) for tick in range(days * DAY_TICKS)]
    language, completed, state = world.population.language[user], rows["completed"].to_numpy(), start_state(world)
    every, videos = np.arange(world.settings.videos), world.catalogue
    by_niche, seen_by_niche = np.zeros((2, n, world.settings.niches), dtype=np.float32)
    seen, next_seen, last, following = np.zeros(n, bool), np.zeros(n, bool), np.full(n, -1), np.full(n, -1)
    for (_,), step in rows.group_by("step", maintain_order=True):  # the n-th watch of each user
        now = step["row"].to_numpy()
        last[now], following[now] = state.last_niche[user[now]], state.next_episode[user[now]]
        known = has_seen(state.seen, user[now][:, None], every[None, :])
        for row, of_user in zip(now, known, strict=True):
            shares = ticks[tick[row]][language[row]]
            by_niche[row], seen_by_niche[row] = shares[:, video[row]], shares @ of_user
            seen[row], next_seen[row] = of_user[video[row]], of_user[following[row]]
        remember(world, state, user[now], video[now], completed[now])
    time = start + tick * TICK_SECONDS
    has_next = (following >= 0) & (videos.upload[following] <= time) & (videos.removed[following] > time)
    searched, quest_search = _searches(world, rows, searches, days)
    return Evidence(
        days=days,
        user=user,
        day=tick // DAY_TICKS,
        by_niche=by_niche,
        seen_by_niche=seen_by_niche,
        seen=seen,
        last=last,
        has_next=has_next,
        is_next=has_next & (video == following),
        next_seen=next_seen,
        searched=searched,
        quest_search=quest_search,
    )


def _position(ids: pl.Series, values: pl.Series) -> pl.Series:
    return values.replace_strict(ids, pl.int_range(len(ids), eager=True))


def _indexed(world: World, watches: pl.DataFrame, days: int) -> pl.DataFrame:
    """Return user and video (positions), milliseconds, tick, completed, and step: the user's number of the watch."""
    seconds, start = pl.Series(world.catalogue.seconds), world.settings.start(0)
    video = _position(world.catalogue.ids, watches["video_id"])
    frame = pl.DataFrame(
        {
            "user": _position(world.population.ids, watches["user_id"]),
            "video": video,
            "milliseconds": watches["time"].dt.epoch("ms"),
            "completed": watches["watch_seconds"] >= COMPLETED * seconds.gather(video),
        }
    )
    tick = (pl.col("milliseconds") // 1000 - start) // TICK_SECONDS
    frame = frame.with_columns(tick=tick).filter(pl.col("tick") < days * DAY_TICKS)
    frame = frame.sort("user", "milliseconds", maintain_order=True)
    return frame.with_columns(step=pl.int_range(pl.len()).over("user")).with_row_index("row")


def _searches(world: World, rows: pl.DataFrame, searches: pl.DataFrame, days: int) -> tuple[Bools, Floats]:
    """Return whether a search led to each watch, and the niches that searches without a watch may name."""
    frame = pl.DataFrame(
        {
            "user": _position(world.population.ids, searches["user_id"]),
            "milliseconds": searches["time"].dt.epoch("ms"),
            "query": searches["query"],
        }
    ).with_columns(earliest=pl.col("milliseconds") + SEARCH_LEAD[0])
    led = frame.sort("earliest").join_asof(
        rows.select("user", "row", watched="milliseconds").sort("watched"),
        left_on="earliest",
        right_on="watched",
        by="user",
        strategy="forward",
        tolerance=SEARCH_LEAD[1] - SEARCH_LEAD[0],
        check_sortedness=False,  # polars cannot check it by user
    )
    searched = np.zeros(rows.height, bool)
    searched[led["row"].drop_nulls().to_numpy()] = True
    alone = led.filter(pl.col("row").is_null())
    day = (alone["milliseconds"].to_numpy() // 1000 - world.settings.start(0)) // DAY_SECONDS
    named = np.zeros((world.settings.users, days, world.settings.niches))
    inside = day < days
    named[alone["user"].to_numpy()[inside], day[inside]] = _named_niches(world, alone["query"])[inside]
    return searched, named


def _named_niches(world: World, queries: pl.Series) -> Floats:
    """Return 1 for the niches that a query may name [queries, niches]: one for both words, its topic's for one."""
    place = {word: index for index, word in np.ndenumerate(world.words)}
    named = np.zeros((len(queries), world.settings.niches))
    for row, query in enumerate(queries):
        words = [place[word] for word in query.lower().split() if word in place]  # fillers are no words
        topic = words[0][0]
        niches = slice(topic * NICHES, (topic + 1) * NICHES)
        if len(words) == 2:
            niche = topic * NICHES + (words[1][3] - words[0][3]) % NICHES
            niches = slice(niche, niche + 1)
        named[row, niches] = 1
    return named


class Likelihood:
    """The likelihood of tastes, summed over quests. With `searches`, searches are part of the evidence."""

    def __init__(self, world: World, evidence: Evidence, *, searches: bool) -> None:
        self.evidence, self.renewed = evidence, 1 / world.settings.signal.quest_days
        watches = np.arange(len(evidence.user))
        self.from_last = evidence.by_niche[watches, evidence.last], evidence.seen_by_niche[watches, evidence.last]
        led = np.where(evidence.searched[:, None], SEARCHED, 1 - SEARCHED) if searches else np.ones((1, len(MODES)))
        self.modes = np.broadcast_to(led * world.settings.signal.mode_shares, (len(watches), len(MODES))).T
        self.accepted = 1 - REFUSE * evidence.seen
        self.from_quest = (self.modes[QUEST] * self.accepted).astype(np.float32)[:, None] * evidence.by_niche
        self.user_day = evidence.user * evidence.days + evidence.day
        self.first_of_day = np.flatnonzero(np.diff(self.user_day, prepend=-1))
        self.new_search, self.old_search = self._search_likelihoods(world, searches=searches)

    def _search_likelihoods(self, world: World, *, searches: bool) -> tuple[Floats, Floats]:
        """Return the likelihood of each day's searches without a watch [users, days, niches] for new and old quests."""
        signal, named = world.settings.signal, self.evidence.quest_search
        exists = world.population.first_day[:, None] <= np.arange(self.evidence.days)
        is_silent = ~named.any(axis=2, keepdims=True)
        known = exists[:, :, None] & searches
        new, old = (
            np.where(known, np.where(is_silent, 1 - share, share * named), 1).astype(np.float32)
            for share in (signal.first_searches, signal.later_searches)
        )
        return new, old

    def __call__(self, tastes: Floats) -> tuple[Floats, Floats]:
        """Return the log-likelihood [users], and the distribution of quests on the next morning [users, niches].

        tastes: [users, days + 2, niches] logits, from the day before the first one to the morning after the last one
        """
        watched = self._watches_by_quest(taste_shares(tastes))
        drawn, largest = taste_shares(tastes / 2), watched.max(axis=2)
        likelihood = np.exp(watched - largest[:, :, None])
        total, quest = largest.sum(axis=1, dtype=np.float64), drawn[:, 0]
        for day in range(self.evidence.days):
            new = self.renewed * drawn[:, day + 1] * self.new_search[:, day]
            joint = (new + (1 - self.renewed) * quest * self.old_search[:, day]) * likelihood[:, day]
            mass = joint.sum(axis=1, keepdims=True)
            total += np.log(mass[:, 0])
            quest = joint / mass
        return total, (1 - self.renewed) * quest + self.renewed * drawn[:, -1]

    def _watches_by_quest(self, shares: Floats) -> Floats:
        """Return the log-likelihood of each day's watches, for each niche as the quest [users, days, niches]."""
        evidence, modes = self.evidence, self.modes
        of_user = shares[evidence.user, evidence.day + 1]
        drawn, again = (
            np.einsum("wn,wn->w", of_niche, of_user) for of_niche in (evidence.by_niche, evidence.seen_by_niche)
        )
        again *= REFUSE
        rounds = np.ones_like(again)  # the sum of the powers of `again` below REDRAWS - 1
        for _ in range(REDRAWS - 2):
            rounds = 1 + again * rounds
        settled = REFUSE * drawn * (self.accepted * rounds + 1 - (1 - again) * rounds)
        taste = drawn * self.accepted + again / REFUSE * settled
        last, following = (
            first * self.accepted + seen * settled
            for first, seen in (self.from_last, (evidence.is_next, evidence.next_seen))
        )
        others = modes[SERIES] * np.where(evidence.has_next, following, taste) + modes[-1] * taste
        others += modes[CONTINUE] * np.where(evidence.last >= 0, last, taste)
        of_watches = (modes[QUEST] * settled).astype(np.float32)[:, None] * evidence.seen_by_niche
        of_watches += self.from_quest
        of_watches += others.astype(np.float32)[:, None]
        np.log(of_watches, out=of_watches)
        users, days = shares.shape[0], evidence.days
        total = np.zeros((users * days, shares.shape[2]), dtype=np.float32)
        total[self.user_day[self.first_of_day]] = np.add.reduceat(of_watches, self.first_of_day)
        return total.reshape(users, days, -1)


def sample_posterior(
    world: World,
    evidence: Evidence,
    *,
    searches: bool,
    profiles: bool,
    rng: np.random.Generator,
    warm_up: int,
    samples: int,
    thinning: int = 20,
) -> Iterator[Sample]:
    """Yield draws of the tastes and quests of all users, `thinning` iterations apart, after `warm_up` iterations.

    Proposals move along the prior (preconditioned Crank-Nicolson), so that only the likelihood decides on them.
    Without `profiles`, the mean tastes of a user are those of an unknown other user, and are sampled with the rest.
    """
    users = world.settings.users
    usual = mean_tastes(world, slice(0, users)).astype(np.float32)
    mean = usual if profiles else usual[rng.integers(users, size=users)]
    path, step = _prior_path(world, evidence.days, rng), np.full(users, 0.3)
    likelihood = Likelihood(world, evidence, searches=searches)
    now, quest = likelihood(mean[:, None] + path)
    for iteration in range(warm_up + samples * thinning):
        other_mean = not profiles and iteration % MEAN_EVERY == 0
        if other_mean:
            new_mean, new_path = usual[rng.integers(users, size=users)], path
        else:
            size = step[:, None, None].astype(np.float32)
            new_mean = mean
            new_path = np.sqrt(1 - size**2) * path + size * _prior_path(world, evidence.days, rng)
        proposed, new_quest = likelihood(new_mean[:, None] + new_path)
        taken = np.log(rng.random(users)) < proposed - now
        mean, now = np.where(taken[:, None], new_mean, mean), np.where(taken, proposed, now)
        quest = np.where(taken[:, None], new_quest, quest)
        path = np.where(taken[:, None, None], new_path, path)
        if iteration < warm_up and not other_mean:
            step = np.minimum(step * np.exp(0.1 * (taken - TAKEN)), 1)
        if iteration >= warm_up and (iteration - warm_up) % thinning == thinning - 1:
            yield Sample(tastes=mean + path[:, -1], quest=quest)


def _prior_path(world: World, days: int, rng: np.random.Generator) -> Floats:
    """Draw deviations from mean tastes: logits [users, days + 2, niches], as `start_state` and `begin_day` do."""
    path = deviation(world, rng, world.settings.users * (days + 2)).reshape(world.settings.users, days + 2, -1)
    for day in range(1, days + 2):
        path[:, day] = DAILY_MEMORY * path[:, day - 1] + (1 - DAILY_MEMORY**2) ** 0.5 * path[:, day]
    return path
