"""The simulated logs: valid at every size, determined by the seed, and with every signal of the model."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.simulate import main
from transforms.simulation.play_day import DayLogs, play_day
from transforms.simulation.state import SEEN_BITS, State, begin_day, has_seen, mean_tastes, start_state, taste_shares
from transforms.simulation.tables import first_searches_frame, phrase, topics_frame, users_frame, videos_frame
from transforms.simulation.truth import completed_watches, expected_watch_seconds, true_preferences, watch_probabilities
from transforms.simulation.world import NICHES, Signal, SimulationSettings, World, build_world

LAST_DAY = date(2026, 11, 20)


def settings(*, users: int = 1200, videos: int = 600, days: int = 21, seed: int = 7) -> SimulationSettings:
    return SimulationSettings(users=users, videos=videos, days=days, seed=seed, last_day=LAST_DAY)


@dataclass(frozen=True)
class Played:
    """A simulation with its world, state and logs; videos and users by index."""

    world: World
    mornings: list[State]  # of each day and the one after
    days: list[DayLogs]  # the day after among them
    evening: State  # of the last day

    @cached_property
    def watches(self) -> pl.DataFrame:
        """Watches before the day after, in order of time: user, video, time, fraction, niche."""
        return self.indexed(pl.concat([logs.watches for logs in self.days[:-1]]))

    @cached_property
    def next_day(self) -> pl.DataFrame:
        return completed_watches(self.world, self.days[-1]).select(user=number("user_id"), video=number("video_id"))

    @cached_property
    def completed(self) -> pl.DataFrame:
        return self.watches.filter(pl.col("fraction") >= 0.5)

    def indexed(self, watches: pl.DataFrame) -> pl.DataFrame:
        videos = self.world.catalogue
        frame = watches.select(
            number("user_id").alias("user"), number("video_id").alias("video"), "time", "watch_seconds"
        )
        seconds, niche = pl.Series(videos.seconds).gather(frame["video"]), pl.Series(videos.niche[:, 0])
        return frame.with_columns(fraction=pl.col("watch_seconds") / seconds, niche=niche.gather(frame["video"]))


def number(column: str) -> pl.Expr:
    return pl.col(column).str.slice(1).cast(pl.Int64)


def play(chosen: SimulationSettings) -> Played:
    world = build_world(chosen)
    state, mornings, days, evening = start_state(world), [], [], None
    for day in range(chosen.days + 1):
        evening = state
        mornings.append(begin_day(world, state, day))
        days.append(play_day(world, mornings[-1], day))
        state = days[-1].state
    assert evening is not None
    return Played(world, mornings, days, evening)


@pytest.fixture(scope="module")
def played() -> Played:
    return play(settings())


# The logs


@pytest.mark.parametrize(
    ("users", "videos", "days"), [(1, 1, 1), (1, 60, 4), (50, 1, 2), (80, 40, 9), (60, SEEN_BITS + 900, 3)]
)
def test_logs_of_every_size_are_valid(users: int, videos: int, days: int) -> None:
    result = play(settings(users=users, videos=videos, days=days))
    catalogue = result.world.catalogue
    for index, logs in enumerate(result.days):
        start = datetime.combine(result.world.settings.day(index), datetime.min.time(), UTC)
        for frame in (logs.watches, logs.searches, logs.impressions):
            assert frame["time"].is_sorted()
            assert frame["time"].is_between(start, start + timedelta(days=1), closed="left").all()
            assert frame["user_id"].null_count() == 0
        watches = result.indexed(logs.watches)
        uploaded = pl.Series(catalogue.upload).gather(watches["video"])
        assert (watches["time"].dt.epoch("s") > uploaded).all()
        assert (watches["watch_seconds"] >= 0).all()
        assert logs.searches["query"].str.len_chars().min() in (None, *range(6, 99))
        pages = logs.impressions.group_by("page_id").agg(
            pl.col("clicked").sum(), pl.col("user_id", "time").n_unique(), unique=pl.col("video_id").is_unique().all()
        )
        assert (pages["clicked"] <= 1).all() and pages["unique"].all()
        assert (pages["user_id"] == 1).all() and (pages["time"] == 1).all()
        assert (logs.impressions.filter(~pl.col("clicked"))["watch_seconds"] == 0).all()


def test_clicked_impressions_are_watches(played: Played) -> None:
    logs = played.days[3]
    clicked = logs.impressions.filter("clicked")
    assert clicked["page_id"].is_unique().all()
    joined = clicked.join(logs.watches, on=["user_id", "video_id", "watch_seconds"], suffix="_log")
    lag = pl.col("time_log") - pl.col("time")
    led_to = joined.filter(lag.is_between(timedelta(seconds=1), timedelta(seconds=20)))
    assert led_to["page_id"].n_unique() == len(clicked) > 100


def test_logs_have_missing_values_like_real_logs(played: Played) -> None:
    watches, users, videos = played.days[0].watches, users_frame(played.world), videos_frame(played.world)
    assert 0 < watches["device"].null_count() < 0.03 * len(watches)
    assert 0 < watches["video_seconds"].null_count() < 0.06 * len(watches)
    assert 0 < users["birth_year"].null_count() < 0.1 * len(users)
    assert 0.95 * 1200 < len(users) < 1200
    assert 0 < (~videos["available"]).sum() < 0.05 * len(videos)
    assert (videos["upload_time"] < datetime.combine(LAST_DAY + timedelta(days=1), datetime.min.time(), UTC)).all()


def test_removed_videos_are_not_watched(played: Played) -> None:
    removed = played.world.catalogue.removed
    seconds = played.watches["time"].dt.epoch("s").to_numpy()
    # Removal takes effect with the next tick of six hours.
    assert (seconds - 21_600 < removed[played.watches["video"].to_numpy()]).all()
    assert not played.next_day["video"].is_in(np.flatnonzero(removed < 2**62)).any()


def test_catalogue_does_not_depend_on_the_users() -> None:
    few, many = (videos_frame(build_world(settings(users=users))) for users in (1, 500))
    assert few.equals(many)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *((name, 0, f"{name} must be at least 1, but is 0") for name in ("users", "videos", "days")),
        ("seed", -1, "seed must not be negative, but is -1"),
        ("days", 40_000, "days must leave the first day after 1975"),
    ],
)
def test_invalid_settings_are_refused(name: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**{name: value})


# The truth


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode_shares": (0.5, 0.5, 0.5, 0.0)}, "mode_shares must sum to 1"),
        ({"mode_shares": (1.5, -0.5, 0.0, 0.0)}, "shares must be from 0 to 1"),
        ({"first_searches": 1.1}, "shares must be from 0 to 1"),
        ({"later_searches": -0.1}, "shares must be from 0 to 1"),
        ({"quest_days": 0.5}, "quest_days must be at least 1, but is 0.5"),
    ],
)
def test_invalid_signals_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Signal(**change)


def shares_of_quests(signal: Signal) -> tuple[float, float]:
    """Return the share of quests that are new after a night, and of users with a search without a watch on that day."""
    world = build_world(replace(settings(users=4000, videos=100, days=2), signal=signal))
    morning = begin_day(world, start_state(world), 1)
    searches = first_searches_frame(world, morning, np.random.default_rng(1), 1, slice(0, 4000))
    return float(morning.quest_is_new.mean()), searches["user_id"].n_unique() / 4000


def test_signal_decides_on_quests_and_their_searches() -> None:
    assert shares_of_quests(Signal()) == pytest.approx((0.25, 0.25 * 0.5), abs=0.03)
    longer = Signal(quest_days=10, first_searches=1.0, later_searches=0.4)
    assert shares_of_quests(longer) == pytest.approx((0.1, (0.1 + 0.9 * 0.4) * 0.95), abs=0.03)


def test_signal_decides_on_modes_and_groups() -> None:
    only_quests = build_world(
        replace(settings(users=300, videos=100, days=1), signal=Signal(mode_shares=(0.0, 0.0, 1.0, 0.0)))
    )
    state = begin_day(only_quests, start_state(only_quests), 0)
    shares = watch_probabilities(only_quests, state, 0, users=np.arange(300))
    other = replace(state, tastes=np.zeros_like(state.tastes))
    expected = watch_probabilities(only_quests, other, 0, users=np.arange(300))
    np.testing.assert_allclose(shares, expected, atol=1e-9)  # tastes do not matter: nothing was watched yet
    narrow, wide = (
        mean_tastes(build_world(replace(settings(), signal=Signal(group_spread=spread))), slice(0, 1200)).std(axis=0)
        for spread in (0.35, 0.7)
    )
    np.testing.assert_allclose(wide, 2 * narrow, rtol=1e-6)


def test_probabilities_sum_to_one_over_live_videos(played: Played) -> None:
    day = played.world.settings.days
    shares = watch_probabilities(played.world, played.mornings[-1], day, users=np.arange(200))
    assert np.allclose(shares.sum(axis=1), 1)
    assert (shares[:, ~played.world.catalogue.live(played.world.settings.start(day))] == 0).all()
    assert (shares >= 0).all()


def clones(played: Played, user: int) -> tuple[World, State]:
    """Return the same world in which all users are copies of one user, on the morning after the last day."""
    who, state = played.world.population, played.mornings[-1]
    n = played.world.settings.users
    same: dict[str, Any] = {
        name: np.repeat(getattr(who, name)[[user]], n) for name in ("language", "device", "first_day")
    }
    population = replace(who, **same, daily_watches=np.full(n, 40.0))
    copies = {name: np.repeat(getattr(state, name)[[user]], n, axis=0) for name in State.__dataclass_fields__}
    return replace(played.world, population=population), State(**copies)


def test_true_probabilities_agree_with_simulated_watches(played: Played) -> None:
    """Compare the first watches of many copies of one user with the closed forms."""
    day, following = played.world.settings.days, played.mornings[-1].next_episode
    live = played.world.catalogue.live(played.world.settings.start(day))
    busy = np.bincount(played.completed["user"], minlength=played.world.settings.users)
    user = int(np.argmax(np.where((following >= 0) & live[following], busy, 0)))
    world, state = clones(played, user)
    expected = watch_probabilities(world, state, day, users=np.array([0]))[0]
    watches = played.indexed(play_day(world, state, day).watches).filter(
        pl.col("time").dt.epoch("s") < world.settings.start(day) + 21_600
    )
    first = watches.unique("user", keep="first", maintain_order=True)
    counts = np.bincount(first["video"], minlength=len(expected))
    n = counts.sum()
    assert n > 500
    assert (np.abs(counts - n * expected) < 5 * np.sqrt(n * expected) + 3).all()
    seen = has_seen(state.seen, np.zeros(1, dtype=int), np.arange(len(expected)))
    niche = world.catalogue.niche[:, 0]
    for group in (seen, niche == state.quest[0], niche == state.last_niche[0]):
        share = expected[group].sum()
        assert abs(counts[group].sum() - n * share) < 4 * np.sqrt(n * share * (1 - share)) + 1
    often = n * expected >= 5
    statistic = ((counts - n * expected)[often] ** 2 / (n * expected)[often]).sum()
    assert often.sum() > 10
    assert abs(statistic - often.sum()) < 4 * np.sqrt(2 * often.sum())
    best = int(counts.argmax())
    seconds = expected_watch_seconds(world, state, users=np.array([0]), videos=np.array([[best]]))[0, 0]
    watched = watches.filter(pl.col("video") == best)["watch_seconds"].clip(0, world.catalogue.seconds[best]).to_numpy()
    assert abs(watched.mean() - seconds) < 4 * watched.std(ddof=1) / len(watched) ** 0.5


def test_preferences_are_the_most_probable_videos_in_order(played: Played) -> None:
    day, users = played.world.settings.days, np.array([5, 9, 700])
    found = true_preferences(played.world, played.mornings[-1], day, users=users, top=30)
    shares = watch_probabilities(played.world, played.mornings[-1], day, users=users)
    for row, user in enumerate(users):
        mine = found.filter(pl.col("user_id") == played.world.population.ids[int(user)])
        assert np.allclose(mine["probability"], np.sort(shares[row])[::-1][:30])
        assert np.allclose(mine["probability"], shares[row, mine.select(number("video_id")).to_series().to_numpy()])


def test_bits_of_seen_videos() -> None:
    seen = np.zeros((2, 2), dtype=np.uint8)
    seen[1, 1] = 1 << 3
    assert has_seen(seen, np.array([0, 1, 1]), np.array([11, 11, 10])).tolist() == [False, True, False]


# What is planted


def mean(values: pl.Series) -> float:
    """Return the mean of numbers or truth values as a float."""
    found = values.mean()
    assert isinstance(found, float)
    return found


def recall(played: Played, scores: np.ndarray, k: int) -> float:
    """Return the mean recall@k of the next day's completed watches, without videos completed before."""
    history, truth = played.completed, played.next_day
    scores = scores.copy()
    scores[history["user"], history["video"]] = -np.inf
    rank = (-scores).argsort(axis=1, kind="stable").argsort(axis=1)
    hits = truth.with_columns(hit=pl.Series(rank[truth["user"], truth["video"]] < k))
    return mean(hits.group_by("user").agg(pl.col("hit").mean())["hit"])


def popularity(played: Played, last_days: int) -> np.ndarray:
    since = played.world.settings.start(played.world.settings.days - last_days)
    counts = np.bincount(
        played.completed.filter(pl.col("time").dt.epoch("s") >= since)["video"],
        minlength=len(played.world.catalogue.ids),
    )
    return np.tile(counts.astype(float), (played.world.settings.users, 1))


def test_true_model_beats_baselines_and_is_not_perfect(played: Played) -> None:
    day, users = played.world.settings.days, np.arange(played.world.settings.users)
    best = recall(played, watch_probabilities(played.world, played.mornings[-1], day, users=users), 50)
    watched = np.zeros((len(users), len(played.world.catalogue.ids)))
    watched[played.completed["user"], played.completed["video"]] = 1
    size = watched.sum(axis=0) + 1
    near = (watched.T @ watched) * (1 - np.eye(watched.shape[1])) / np.sqrt(size[:, None] * size)
    item_to_item, popular = recall(played, watched @ near, 50), recall(played, popularity(played, 21), 50)
    assert popular + 0.05 < item_to_item < best - 0.12
    assert best < 0.9


def test_popular_videos_change_over_time(played: Played) -> None:
    assert recall(played, popularity(played, 3), 100) > recall(played, popularity(played, 21), 100) + 0.02


def test_popularity_bursts_after_upload_and_decays(played: Played) -> None:
    upload = played.world.catalogue.upload
    start, end = played.world.settings.start(0), played.world.settings.start(9)
    fresh = np.flatnonzero((upload >= start) & (upload < end))
    seconds = played.watches["time"].dt.epoch("s").to_numpy()
    age = (seconds - upload[played.watches["video"].to_numpy()]) // 86_400
    of_fresh = np.isin(played.watches["video"].to_numpy(), fresh)
    by_age = np.bincount(age[of_fresh])[:12]
    assert by_age[1] > 1.5 * by_age[5] > 1.5 * by_age[11] > 0


def test_popularity_and_activity_have_heavy_tails(played: Played) -> None:
    for column, share in (("video", 0.35), ("user", 0.35)):
        counts = np.sort(np.bincount(played.watches[column]))[::-1]
        assert share < counts[: len(counts) // 10].sum() / counts.sum() < 0.8


def test_watch_time_follows_taste(played: Played) -> None:
    day = 10
    watches = played.indexed(played.days[day].watches)
    user, video = watches["user"].to_numpy(), watches["video"].to_numpy()
    expected = expected_watch_seconds(played.world, played.mornings[day], users=user, videos=video[:, None])[:, 0]
    expected_fraction = expected / played.world.catalogue.seconds[video]
    fraction = watches["fraction"].clip(0, 1).to_numpy()
    taste = taste_shares(played.mornings[day].tastes)[user, watches["niche"].to_numpy()]
    low, high = np.quantile(taste, [0.25, 0.75])
    assert fraction[taste > high].mean() > fraction[taste < low].mean() + 0.1
    assert np.corrcoef(expected_fraction, fraction)[0, 1] > 0.25
    assert abs(expected_fraction.mean() - fraction.mean()) < 0.02


def followed_searches(played: Played) -> pl.DataFrame:
    """Return searches with the same user's first watch within 90 s: query, video, niche, second_niche."""
    searches = pl.concat([logs.searches for logs in played.days[:-1]]).select(
        number("user_id").alias("user"), "time", "query"
    )
    topics = topics_frame(played.world).select(number("video_id").alias("video"), "second_niche")
    watches = played.watches.join(topics, on="video").sort("time")
    followed = searches.sort("time").join_asof(
        watches, on="time", by="user", strategy="forward", tolerance="90s", check_sortedness=False
    )
    return followed.drop_nulls("video").with_columns(words=pl.col("query").str.to_lowercase().str.split(" "))


def known_words(world: World) -> pl.DataFrame:
    """word, topic, side (0: first word of a phrase, 1: second), place."""
    topic, _, side, place = (axis.ravel() for axis in np.indices(world.words.shape))
    return pl.DataFrame({"word": world.words.ravel().tolist(), "topic": topic, "side": side, "place": place})


def test_searches_predict_the_next_watch_and_bigrams_more_than_words(played: Played) -> None:
    followed, words = followed_searches(played), known_words(played.world)
    rows = followed.with_columns(
        first=pl.col("words").list.get(0), second=pl.col("words").list.get(1, null_on_oob=True)
    ).join(words.rename({"word": "first"}), on="first")
    topic_known = (rows["topic"] == rows["niche"] // NICHES) | (rows["topic"] == rows["second_niche"] // NICHES)
    assert len(rows) > 3000 and mean(topic_known) > 0.9
    shuffled = rows["niche"].shuffle(seed=1) // NICHES
    assert mean(rows["topic"] == shuffled) < 0.35
    pairs = rows.join(words.filter(side=1).rename({"word": "second"}), on="second", suffix="_2").filter(side=0)
    half = pl.int_range(len(pairs)) % 2 == 0
    learn, ask = pairs.filter(half), pairs.filter(~half)

    def right(*by: str) -> float:
        """How often the most frequent niche after these words is the niche of the watch."""
        guess = learn.group_by(by).agg(guess=pl.col("niche").mode().sort().first())
        return mean((ask.join(guess, on=by, how="left")["guess"] == ask["niche"]).fill_null(False))

    assert right("first", "second") > max(right("first"), right("second")) + 0.15
    assert min(right("first"), right("second")) > 3 / played.world.settings.niches  # one word tells the topic


def test_phrase_identifies_its_niche(played: Played) -> None:
    world, rng = played.world, np.random.default_rng(1)
    niche = rng.integers(world.settings.niches, size=500)
    words = known_words(world)
    pair = phrase(world, niche, rng.integers(3, size=500), rng)
    places = [
        pair.join(words, left_on=side, right_on="word", how="left", maintain_order="left") for side in pair.columns
    ]
    assert places[0]["topic"].to_list() == (niche // NICHES).tolist()
    assert ((places[1]["place"] - places[0]["place"]) % NICHES).to_list() == (niche % NICHES).tolist()


def by_day(played: Played, users: pl.Series, niches: pl.Series, times: pl.Series) -> np.ndarray:
    """Return the counts of each [day, user, niche]."""
    chosen = played.world.settings
    counts = np.zeros((chosen.days, chosen.users, chosen.niches), dtype=int)
    np.add.at(counts, ((times.dt.epoch("s") - chosen.start(0)) // 86_400, users, niches), 1)
    return counts


def searched_niches(played: Played) -> np.ndarray:
    """Return searches with both words of a phrase, by [day, user, niche]."""
    words, terms = known_words(played.world), pl.col("query").str.to_lowercase().str.split(" ")
    searches = pl.concat([logs.searches for logs in played.days[:-1]]).select(
        "time", user=number("user_id"), first=terms.list.get(0), second=terms.list.get(1, null_on_oob=True)
    )
    first, second = (words.filter(side=side) for side in (0, 1))
    found = searches.join(first, left_on="first", right_on="word")
    found = found.join(second, left_on="second", right_on="word", suffix="_2")
    niche = found["topic"] * NICHES + (found["place_2"] - found["place"]) % NICHES
    return by_day(played, found["user"], niche, found["time"])


def test_searches_predict_the_next_day_beyond_watches(played: Played) -> None:
    """Of niches without a completed watch in three days, the searched ones are watched more often on the next day."""
    done = played.completed
    watched, searched = by_day(played, done["user"], done["niche"], done["time"]), searched_niches(played)
    hits = {True: [0, 0], False: [0, 0]}
    for day in range(7, played.world.settings.days):
        today, before = watched[day] > 0, slice(day - 3, day)
        asked = searched[before].any(axis=0)
        unknown = ~watched[before].any(axis=0) & today.any(axis=1)[:, None]
        for kind in hits:
            rows = unknown & (asked == kind)
            hits[kind] = [hits[kind][0] + today[rows].sum(), hits[kind][1] + rows.sum()]
    assert hits[True][1] > 2000
    assert hits[True][0] / hits[True][1] > 1.7 * hits[False][0] / hits[False][1]


def test_order_of_watches_matters(played: Played) -> None:
    """The last completed video predicts the next watch better than the tenth last; series are watched in order."""
    steps = played.completed.with_columns(
        last=pl.col("niche").shift(1).over("user"),
        earlier=pl.col("niche").shift(10).over("user"),
        last_video=pl.col("video").shift(1).over("user"),
    ).drop_nulls()
    assert mean(steps["niche"] == steps["last"]) > 1.6 * mean(steps["niche"] == steps["earlier"])
    following = pl.Series(played.world.catalogue.next_episode).gather(steps["last_video"])
    before = pl.Series(played.world.catalogue.next_episode).gather(steps["video"])
    assert mean(following == steps["video"]) > 0.02 > 3 * mean(before == steps["last_video"])


def test_tastes_drift(played: Played) -> None:
    def alike(one: int, other: int) -> float:
        centred = [played.mornings[day].tastes - played.mornings[day].tastes.mean(axis=0) for day in (one, other)]
        return float(np.corrcoef(centred[0].ravel(), centred[1].ravel())[0, 1])

    assert 0.9 < alike(19, 20) < 0.99
    assert 0.2 < alike(0, 20) < 0.7
    changed = np.mean(played.mornings[3].quest != played.mornings[4].quest)
    assert 0.15 < changed < 0.3


# The command


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command(out: Path, *more: str) -> int:
    return main([str(out), "--users", "30", "--videos", "40", "--days", "3", "--last-day", "2026-11-20", *more])


def test_logs_are_determined_by_the_seed(tmp_path: Path) -> None:
    assert [command(tmp_path / "a"), command(tmp_path / "b"), command(tmp_path / "c", "--seed", "8")] == [0, 0, 0]
    first, second, third = (contents(tmp_path / name) for name in "abc")
    days = [
        f"{folder}/2026-11-{day}.parquet" for folder in ("impressions", "searches", "watches") for day in (18, 19, 20)
    ]
    truth = [f"truth/{name}.parquet" for name in ("next_day", "preferences", "topics", "watch_seconds")]
    assert sorted(first) == sorted([*days, *truth, "job.toml", "users.parquet", "videos.parquet"])
    assert first == second
    assert [name for name in first if first[name] == third[name]] == ["job.toml"]


def test_files_have_the_columns_of_the_contract(tmp_path: Path) -> None:
    command(tmp_path / "logs")
    schemas = {path.parent.name: pl.read_parquet_schema(path) for path in (tmp_path / "logs").rglob("*-20.parquet")}
    time = pl.Datetime("ms", "UTC")
    assert schemas["watches"] == {
        "user_id": pl.String,
        "video_id": pl.String,
        "time": time,
        "watch_seconds": pl.Float64,
        "video_seconds": pl.Float64,
        "country": pl.String,
        "device": pl.String,
        "signed_in": pl.Boolean,
    }
    assert schemas["searches"] == {"user_id": pl.String, "time": time, "query": pl.String}
    assert list(schemas["impressions"]) == ["user_id", "video_id", "time", "page_id", "clicked", "watch_seconds"]
    videos = pl.read_parquet_schema(tmp_path / "logs" / "videos.parquet")
    assert list(videos) == ["video_id", "upload_time", "video_seconds", "title", "channel", "language", "available"]
    users = pl.read_parquet_schema(tmp_path / "logs" / "users.parquet")
    assert list(users) == ["user_id", "gender", "birth_year", "country", "language"]


def test_job_file_names_the_logs(tmp_path: Path) -> None:
    command(tmp_path / "logs")
    text = (tmp_path / "logs" / "job.toml").read_text(encoding="utf-8")
    job = tomllib.loads(text)
    assert job["examples"] == {"window_days": 3}
    assert set(job["logs"]) == {"watches", "searches", "videos", "users"}
    ranked = tomllib.loads(text.replace("# impressions =", "impressions ="))
    assert set(ranked["logs"]) == {*job["logs"], "impressions"}
    for path in ranked["logs"].values():
        assert (tmp_path / "logs" / path.format(date="2026-11-20")).is_file()


def test_used_folder_is_refused_without_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "logs"
    assert command(out) == 0
    (out / "runs").mkdir()
    assert command(out) == 2
    assert "is not empty; use another folder, or add --overwrite" in capsys.readouterr().err
    assert main([str(out), "--users", "9", "--days", "1", "--last-day", "2026-11-20", "--overwrite"]) == 0
    assert [path.name for path in (out / "watches").iterdir()] == ["2026-11-20.parquet"]
    assert (out / "runs").is_dir()


def test_existing_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").touch()
    assert command(tmp_path / "logs", "--overwrite") == 2
    assert "is a file; use a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--users", "0"], "users must be at least 1, but is 0"),
        (["--days", "x"], "argument --days: invalid int value: 'x'"),
        (["--last-day", "soon"], "'soon' is not a date"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_invalid_arguments_give_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "logs"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "logs").exists()


def test_last_day_defaults_to_yesterday(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    assert main([str(tmp_path / "logs"), "--users", "1", "--videos", "1", "--days", "1"]) == 0
    (written,) = (path.stem for path in (tmp_path / "logs" / "watches").iterdir())
    assert date.fromisoformat(written) in (today - timedelta(days=1), today)  # midnight may pass in between
