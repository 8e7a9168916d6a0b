"""Print how good a perfect model of simulated logs is, given fewer or more features: a bound for the paper's figure 6.

    python -m benchmarks.perfect_model [--users 500] [--videos 500] [--days 21] [--seeds 3] [--signal strong]

A perfect model knows the simulator: its catalogue, words and parameters. Its lists are in the order of the probability
that a video is the user's next watch on the morning of the last day and is completed, averaged over the posterior of
the user's tastes and quest given the logs of the days before (`transforms.simulation.posterior`):

- `watches`: every watch of the user, the user's language, and what was completed. The moment of the request is not
  used: the popularity of a video is its mean over all moments of the window, as in a model without example age. Whether
  a history of new videos reveals the moment is not considered.
- `+ searches`: also the user's searches.
- `+ example age`: also the moment of the request, so that each video has its popularity of that morning.
- `all`: also the mean tastes of the user's gender, age, country and device.
- `best possible`: the tastes and the quest themselves.

The last day is played `--replays` times from the same morning, to average over what users happen to watch. Intervals
are 95 % over seeds; gains are relative to the row above, within a seed. `--chains` repeats the sampling of the
posterior: the difference of two chains is its error.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl

from benchmarks.simulated import (
    LAST,
    SIGNALS,
    Floats,
    Interval,
    Ints,
    Morning,
    completion_probabilities,
    measure_ranking,
)
from transforms.simulation.play_day import TICK_SHARES, DayLogs, play_day
from transforms.simulation.posterior import Evidence, Sample, observe, sample_posterior
from transforms.simulation.state import begin_day, start_state, taste_shares
from transforms.simulation.truth import completed_watches, next_watches, video_shares
from transforms.simulation.world import TICK_SECONDS, SimulationSettings, World, build_world

KS = (10, 50, 200)
CUTS = ("map", "recall@10", "recall@50")
BEST = "best possible"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a perfect model knows besides watches."""

    searches: bool
    profiles: bool
    moment: bool


FEATURES = {
    "watches": Known(searches=False, profiles=False, moment=False),
    "+ searches": Known(searches=True, profiles=False, moment=False),
    "+ example age": Known(searches=True, profiles=False, moment=True),
    "all": Known(searches=True, profiles=True, moment=True),
}
Found = dict[str, list[dict[str, float]]]  # figures per seed


def main() -> None:
    args = _arguments()
    found: Found = {}
    for seed in range(1, args.seeds + 1):
        settings = SimulationSettings(
            users=args.users,
            videos=args.videos,
            days=args.days,
            seed=seed,
            last_day=LAST,
            signal=SIGNALS[args.signal],
        )
        for name, figures in _of_seed(settings, args):
            found.setdefault(name, []).append(figures)
    _print(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--days", type=int, default=21)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--signal", choices=SIGNALS, default="strong")
    parser.add_argument("--warm-up", type=int, default=600, help="iterations of a chain before its first sample")
    parser.add_argument("--samples", type=int, default=40, help="samples of a chain, 20 iterations apart")
    parser.add_argument("--chains", type=int, default=1)
    parser.add_argument("--replays", type=int, default=10)
    return parser.parse_args()


def _of_seed(settings: SimulationSettings, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the figures of every feature set, and of the best possible ranking."""
    began = time.process_time()
    morning, logs = play_until_last_morning(settings)
    world, users = morning.world, np.arange(settings.users)
    evidence = observe(
        world,
        pl.concat([of_day.watches for of_day in logs]),
        pl.concat([of_day.searches for of_day in logs]),
        days=morning.day,
    )
    days = list(_replays(morning, args.replays))
    for chain in range(args.chains):
        scores = _scores(morning, evidence, settings.generator(f"posterior/{chain}"), args)
        for name, of_set in scores.items():
            figures = _measure(world, days, of_set)
            _tell(settings.seed, f"{name}, chain {chain + 1}", figures, began)
            if chain == 0:
                yield name, figures
    best = _measure(world, days, morning.probabilities(users))
    _tell(settings.seed, BEST, best, began)
    yield BEST, best


def play_until_last_morning(settings: SimulationSettings) -> tuple[Morning, list[DayLogs]]:
    """Return the morning of the last day and the logs of the days before."""
    world, logs = build_world(settings), []
    state, last = start_state(world), settings.days - 1
    for day in range(last):
        logs.append(play_day(world, begin_day(world, state, day), day))
        state = logs[-1].state
    return Morning(world=world, state=begin_day(world, state, last), day=last), logs


def _replays(morning: Morning, count: int) -> Iterator[pl.DataFrame]:
    """Yield what users complete on the morning's day, drawn `count` times; the first draw is that of the logs."""
    yield morning.completions()
    settings = morning.world.settings
    for replay in range(1, count):
        other = replace(morning.world, settings=replace(settings, seed=settings.seed + 1_000_000 * replay))
        yield completed_watches(other, play_day(other, morning.state, morning.day))


def _measure(world: World, days: list[pl.DataFrame], scores: Floats) -> dict[str, float]:
    """Return the mean figures over replays of the day. scores: [users, videos]."""

    def of_users(users: Ints) -> Floats:
        return scores[users]

    measured = [measure_ranking(world, completions, of_users, ks=KS).compute() for completions in days]
    return {cut: float(np.mean([figures[cut] for figures in measured])) for cut in CUTS}


def _scores(
    morning: Morning, evidence: Evidence, rng: np.random.Generator, args: argparse.Namespace
) -> dict[str, Floats]:
    """Return the posterior probability that each video is the next watch and completed [users, videos], by feature set.

    Feature sets that know the same of the user share one chain.
    """
    shares = {True: _shares_now(morning), False: _mean_shares(morning)}
    scores: dict[str, Floats] = {}
    for searches, profiles in dict.fromkeys((known.searches, known.profiles) for known in FEATURES.values()):
        names = [name for name, known in FEATURES.items() if (known.searches, known.profiles) == (searches, profiles)]
        chain = sample_posterior(
            morning.world,
            evidence,
            searches=searches,
            profiles=profiles,
            rng=rng,
            warm_up=args.warm_up,
            samples=args.samples,
        )
        for sample in chain:
            completed = _completion_probabilities(morning, sample)
            for name in names:
                watched = _watch_probabilities(morning, sample, shares[FEATURES[name].moment])
                scores[name] = scores.get(name, 0) + watched * completed / args.samples
    return scores


def _shares_now(morning: Morning) -> Floats:
    return video_shares(morning.world, morning.time)


def _mean_shares(morning: Morning) -> Floats:
    """Return `video_shares` averaged over the moments of watches in the window."""
    world, start = morning.world, morning.world.settings.start
    ticks = [(day, tick) for day in range(morning.day) for tick in range(len(TICK_SHARES))]
    shares = (TICK_SHARES[tick] * video_shares(world, start(day) + tick * TICK_SECONDS) for day, tick in ticks)
    mean: Floats = sum(shares) / morning.day
    return mean


def _watch_probabilities(morning: Morning, sample: Sample, shares: Floats) -> Floats:
    """Return the probability that each video is the next watch [users, videos]. shares: as `video_shares`."""
    world = morning.world
    language = world.population.language

    def draw(niche: Floats) -> Floats:
        drawn = np.empty((len(niche), world.settings.videos))
        for own, of_language in enumerate(shares):
            drawn[language == own] = niche[language == own] @ of_language
        return drawn

    return next_watches(
        world,
        morning.state,
        morning.day,
        users=np.arange(world.settings.users),
        taste=taste_shares(sample.tastes),
        quest=sample.quest,
        draw=draw,
    )


def _completion_probabilities(morning: Morning, sample: Sample) -> Floats:
    state = replace(morning.state, tastes=sample.tastes)
    return completion_probabilities(morning.world, state, np.arange(morning.world.settings.users))


def _tell(seed: int, name: str, figures: Mapping[str, float], began: float) -> None:
    printed = ", ".join(f"{cut} {figures[cut]:.4f}" for cut in CUTS)
    print(f"seed {seed}: {name}: {printed}; {time.process_time() - began:.0f} s", flush=True)


def _print(found: Found) -> None:
    seeds = len(found[BEST])
    print(f"\nperfect models, mean and 95 % interval over {seeds} seeds")
    print(f"{'':<16}" + "".join(f"{cut:>18}" for cut in CUTS))
    for name, of_seeds in found.items():
        cells = [Interval.of([figures[cut] for figures in of_seeds]) for cut in CUTS]
        print(f"{name:<16}" + "".join(f"{cell!s:>18}" for cell in cells))
    print("\nrelative gain of MAP")
    for before, name in [*pairwise(found), ("watches", "all")]:
        gains = [new["map"] / old["map"] - 1 for new, old in zip(found[name], found[before], strict=True)]
        gain = Interval.of(gains)
        print(f"{f'{name} over {before}':<45}{gain.mean:+.1%} ±{gain.half:.1%}")


if __name__ == "__main__":
    main()
