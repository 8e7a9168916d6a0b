"""Lists under all rules compared with a search in plain Python: watched, hidden, countries, channels, new videos.

Runs all of `WriteNeighbours`, with artificial indexes of one shard and of several, and an artificial tower.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_frames import hours, watch, watches_frame, write
from made_index import use_made_tower, write_made_index

from transforms.core.records import Counts, add_counts
from transforms.logs.event_window import BucketFiles, Window
from transforms.logs.schemas import HIDDEN_SCHEMA, USER_SCHEMA
from transforms.search import shard_search
from transforms.search.diversity import diversify
from transforms.search.exact_search import Candidates
from transforms.search.neighbours import WriteNeighbours
from transforms.search.new_videos import NEW_VIDEOS, NewVideos
from transforms.search.user_limits import BucketRecords, SearchInputs

START, END = hours(100), hours(200)
COUNTRIES = ["DE", "AT", "SE"]
EXCLUDES: list[Any] = ["completed", "watched", "none"]


@pytest.fixture(scope="module", autouse=True)
def tower() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_made_tower(patch)
        yield


@dataclass(frozen=True, kw_only=True)
class World:
    """Two buckets of users with their watches and countries, and videos with their rules, in plain Python."""

    users: dict[str, list[float]]  # their vectors
    videos: dict[str, list[float]]
    catalogue: dict[str, dict[str, Any]]
    watches: list[dict[str, Any]]
    hidden: list[tuple[str, str]]
    countries: dict[str, str | None]
    k: int
    exclude: Any
    since: float  # hours: `exclude` applies to watches from then on
    share: float

    def country(self, user: str) -> str | None:
        rows = [w for w in self.watches if w["user_id"] == user and START <= w["time"] < END]
        rows = [w for w in rows if (w["country"] or "").strip()]
        last = max(rows, key=lambda w: (w["time"], w["country"].strip().upper()), default=None)
        return (last["country"] if last else self.countries[user] or "").strip().upper() or None

    def may_be_shown(self, user: str) -> set[str]:
        had = {
            w["video_id"]
            for w in self.watches
            if w["user_id"] == user and hours(self.since) <= w["time"] < END
            if self.exclude == "watched" or (self.exclude == "completed" and w["completed"])
        }
        had |= {video for who, video in self.hidden if who == user}
        return {v for v, row in self.catalogue.items() if _shown_in(row, self.country(user)) and v not in had}

    def expected(self, user: str, depth: int = 0) -> list[tuple[str, float]]:
        """Return the user's list, or the first `depth` videos: repeatedly the best video that every rule allows."""
        scores = {v: float(np.dot(self.videos[v], self.users[user])) for v in self.may_be_shown(user)}
        return self._first(scores, depth or self.k)

    def expected_with_new(self, user: str, new: dict[str, list[float]], share: Fraction) -> list[tuple[str, float]]:
        """Return the user's list with the best new videos at the places that are due, or at its end. They have the
        score of the video before them, unless all are new."""
        scores = {v: float(np.dot((self.videos | new)[v], self.users[user])) for v in self.may_be_shown(user)}
        best = self._first({v: scores[v] for v in scores if v in new}, int(share * self.k))
        taken = [self.catalogue[v]["channel"] for v, _ in best]
        others = self._first({v: scores[v] for v in scores if v not in new}, self.k - len(best), taken)
        found, total = list[tuple[str, float]](), len(best) + len(others)
        while len(found) < total:
            placed = sum(v in new for v, _ in found)
            due = placed < len(best) and (len(found) + 1) * share >= placed + 1
            at_the_end = total - len(found) == len(best) - placed
            video, score = best[placed] if due or at_the_end else others[len(found) - placed]
            found.append((video, found[-1][1] if others and video in new else score))
        return found

    def _first(
        self, scores: dict[str, float], depth: int, channels: Sequence[str | None] = ()
    ) -> list[tuple[str, float]]:
        most, taken, found = max(1, int(self.share * self.k + 1e-9)), Counter(channels), list[tuple[str, float]]()
        for video, score in sorted(scores.items(), key=lambda item: (-item[1], item[0])):
            channel = self.catalogue[video]["channel"]
            if len(found) < depth and (channel is None or taken[channel] < most):
                found.append((video, score))
                taken[channel] += 1
        return found

    def expected_default(self, country: str | None) -> list[tuple[str, float]]:
        vector = self.users["nobody"]
        shown = [v for v, row in self.catalogue.items() if _shown_in(row, country)]
        return self._first({v: float(np.dot(self.videos[v], vector)) for v in shown}, self.k)


def _shown_in(row: dict[str, Any], country: str | None) -> bool:
    return row["countries"] is None or country in row["countries"].split(",")


def world_of(seed: int) -> World:
    draw = np.random.default_rng(seed)
    users, videos = [f"u{i}" for i in range(5)], [f"v{i:02d}" for i in range(int(draw.integers(1, 24)))]

    def vector() -> list[float]:
        return [float(x) for x in draw.integers(-2, 3, 3)]  # whole numbers, so that scores are exact and many tie

    def one_of(*values: Any) -> Any:
        return values[int(draw.integers(len(values)))]

    catalogue = {
        v: {
            "channel": one_of(None, "c1", "c2", "c3"),
            "countries": one_of(None, None, "AT,DE", "SE", "DE", "NO", "AT,SE"),
        }
        for v in videos
    }
    watches = [
        watch(one_of(*users), int(draw.integers(200)), one_of(*videos, "gone"), one_of(True, False))
        | {"country": one_of(None, None, "de", "AT ", "SE", "FI", " ")}
        for _ in range(int(draw.integers(40)))
    ]
    return World(
        users={user: vector() for user in (*users, "nobody")},
        videos={v: vector() for v in videos},
        catalogue=catalogue,
        watches=watches,
        hidden=[(one_of(*users), one_of(*videos, "gone")) for _ in range(int(draw.integers(6)))],
        countries={user: one_of(None, "se", "DE", "FR") for user in users},
        k=int(draw.integers(1, 30)),
        exclude=one_of(*EXCLUDES),
        since=float(one_of(0, 100, 180)),
        share=float(one_of(1.0, 0.5, 0.1, 0.01)),
    )


def write_world(world: World, folder: Path, shards: int) -> tuple[SearchInputs, list[BucketRecords]]:
    """Return the inputs of the search and its buckets: two with users, one without, and the default lists."""
    catalogue = pl.DataFrame(
        [{"video_id": v, **row} for v, row in world.catalogue.items()],
        schema=dict.fromkeys(("video_id", "channel", "countries"), pl.String),
    )
    index, videos = write_made_index(folder, np.array(list(world.videos.values())), list(world.videos), shards=shards)
    inputs = SearchInputs(
        tower="made",
        index=index,
        videos=videos,
        k=world.k,
        exclude=world.exclude,
        watched_window=Window(start=hours(world.since), end=END),
        window=Window(start=START, end=END),
        catalogue=write(catalogue.sample(fraction=1, shuffle=True, seed=1), folder / "catalogue"),
        max_share_per_channel=world.share,
    )
    names = [user for user in world.users if user != "nobody"]
    parts = [bucket(world, names[:3], folder, 0), bucket(world, names[3:], folder, 1)]
    parts.append(BucketRecords(files=BucketFiles(bucket=2), records=""))
    nobody = {"user_id": ["", *COUNTRIES], "vector": [world.users["nobody"]] * (1 + len(COUNTRIES))}
    records = write(pl.DataFrame(nobody, schema_overrides={"vector": pl.List(pl.Float32)}), folder / "nobody")
    return inputs, [*parts, BucketRecords(files=BucketFiles(bucket=3), records=records, defaults=True)]


def bucket(world: World, users: list[str], folder: Path, number: int) -> BucketRecords:
    vectors = pl.DataFrame({"user_id": users, "vector": [world.users[user] for user in users]})
    watches = [w for w in world.watches if w["user_id"] in users]
    within = [w for w in watches if w["time"] >= START]
    known = pl.DataFrame([{"user_id": user, "country": world.countries[user]} for user in users], schema=USER_SCHEMA)
    hidden = pl.DataFrame([p for p in world.hidden if p[0] in users], schema=HIDDEN_SCHEMA, orient="row")
    files = BucketFiles(
        bucket=number,
        watches=(write(watches_frame(within), folder / f"{number}/window"),),
        users=(write(known, folder / f"{number}/users"),),
        hidden=(write(hidden, folder / f"{number}/hidden"),),
    )
    records = write(vectors.cast({"vector": pl.List(pl.Float32)}), folder / f"{number}/records")
    return BucketRecords(
        files=files, records=records, watched=(write(watches_frame(watches), folder / f"{number}/all"),)
    )


def lists_of(folder: Path) -> dict[str, list[tuple[str, float]]]:
    rows = pl.concat([pl.read_parquet(folder / f"n/{number}") for number in range(3)])
    assert rows["user_id"].is_unique().all(), "each user in exactly one file"
    return {user: list(zip(videos, scores, strict=True)) for user, videos, scores in rows.iter_rows()}


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]))
def test_lists_keep_to_every_rule(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shards: int, threads: int
) -> None:
    folder, world = tmp_path_factory.mktemp("world"), world_of(seed)
    shards = min(shards, len(world.videos))
    inputs, buckets = write_world(world, folder, shards)
    found = buckets | WriteNeighbours(inputs, str(folder / "n"), "{bucket}", "defaults", threads)
    users = [user for user in world.users if user != "nobody"]
    expected = {user: world.expected(user) for user in users}
    assert lists_of(folder) == expected
    defaults = {
        country: list(zip(videos, scores, strict=True))
        for country, videos, scores in pl.read_parquet(folder / "defaults/defaults").iter_rows()
    }
    assert defaults == {country: world.expected_default(country) for country in (None, *COUNTRIES)}
    check_counts(world, expected, add_counts(record for record in found if isinstance(record, Counts)))


@settings(max_examples=6)
@given(st.integers(0, 2**32), st.sampled_from([1, 3]))
def test_lists_of_diverse_videos_keep_to_every_rule(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shards: int
) -> None:
    """The lists are the re-ranked 2k videos that the rules allow, those of the channel limit of a list of k."""
    folder, world = tmp_path_factory.mktemp("world"), world_of(seed)
    inputs, buckets = write_world(world, folder, min(shards, len(world.videos)))
    list(buckets | WriteNeighbours(replace(inputs, diversity=0.5), str(folder / "n"), "{bucket}", "defaults"))
    names, vectors = list(world.videos), np.array(list(world.videos.values()), np.float32)
    found = lists_of(folder)
    assert set(found) == set(world.users) - {"nobody"}
    for user, shown in found.items():
        first = world.expected(user, depth=2 * world.k)
        padding = 2 * world.k - len(first)
        candidates = Candidates(
            positions=np.array([[names.index(v) for v, _ in first] + [-1] * padding], np.int32),
            scores=np.array([[score for _, score in first] + [-np.inf] * padding], np.float32),
        )
        top = diversify(candidates, vectors, k=world.k, diversity=0.5)
        assert shown == [
            (names[p], score)
            for p, score in zip(top.positions[0].tolist(), top.scores[0].tolist(), strict=True)
            if p >= 0
        ]
        assert len(shown) == len(world.expected(user))


@settings(max_examples=20)
@given(
    st.integers(0, 2**32), st.sampled_from([1, 3]), st.sampled_from([Fraction(1, 20), Fraction(3, 10), Fraction(1, 2)])
)
def test_lists_with_new_videos_keep_to_every_rule(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shards: int, share: Fraction
) -> None:
    folder, drawn = tmp_path_factory.mktemp("world"), world_of(seed)
    names = list(drawn.videos)
    new = {name: drawn.videos[name] for name in names[2::3]}
    world = replace(drawn, videos={name: drawn.videos[name] for name in names if name not in new})
    inputs, buckets = write_world(world, folder, min(shards, len(world.videos)))
    inputs = replace(inputs, new=write_new(new, folder / "new", share=float(share)))
    list(buckets | WriteNeighbours(inputs, str(folder / "n"), "{bucket}", "defaults"))
    users = [user for user in world.users if user != "nobody"]
    assert lists_of(folder) == {user: world.expected_with_new(user, new, share) for user in users}


def write_new(vectors: dict[str, list[float]], path: Path, *, share: float) -> NewVideos:
    """Write the vectors of videos uploaded a moment before the end of the window."""
    columns = {"video_id": list(vectors), "id": None, "upload_time": hours(199), "count": 0}
    rows = pl.DataFrame({**columns, "vector": list(vectors.values())}, schema=NEW_VIDEOS)
    return NewVideos(path=write(rows, path), share=share, since=hours(176), until=END)


def check_counts(world: World, expected: dict[str, list[tuple[str, float]]], counts: dict[str, int]) -> None:
    limited = {code for row in world.catalogue.values() if row["countries"] for code in row["countries"].split(",")}
    listed = {
        "users": len(expected),
        "short_lists": sum(len(found) < world.k for found in expected.values()),
        "empty_lists": sum(not found for found in expected.values()),
        "default_lists": 1 + len(COUNTRIES),
        "users_with_hidden_videos": len({user for user, _ in world.hidden}),
    }
    if limited:
        listed["users_without_a_listed_country"] = sum(world.country(user) not in limited for user in expected)
    assert {name: n for name, n in counts.items() if n} == {name: n for name, n in listed.items() if n}


@pytest.mark.slow
def test_a_user_with_5_000_watches_and_a_k_above_the_catalogue(tmp_path: Path) -> None:
    draw, n = np.random.default_rng(1), 6_000
    world = replace(
        world_of(1),
        videos={f"v{i:04d}": [float(x) for x in draw.integers(-9, 9, 3)] for i in range(n)},
        catalogue={f"v{i:04d}": {"channel": None, "countries": None} for i in range(n)},
        watches=[watch("u1", 150, f"v{i:04d}") | {"country": None} for i in draw.permutation(n)[:5_000]],
        hidden=[],
        since=100.0,
        exclude="completed",
        k=n + 1,
    )
    inputs, buckets = write_world(world, tmp_path, 2)
    list(buckets | WriteNeighbours(inputs, str(tmp_path / "n"), "{bucket}", "defaults"))
    found = lists_of(tmp_path)
    assert found == {user: world.expected(user) for user in found}
    assert len(found["u1"]) == 1_000 and len(found["u0"]) == n


def test_videos_uploaded_after_as_of_are_not_shown(tmp_path: Path) -> None:
    world = replace(world_of(2), videos={"a": [1, 0, 0], "b": [1, 0, 0], "c": [1, 0, 0]}, watches=[], hidden=[])
    world = replace(world, catalogue={v: {"channel": None, "countries": None} for v in world.videos})
    inputs, buckets = write_world(world, tmp_path, 1)
    uploads = pl.Series([hours(149), hours(150), None], dtype=pl.Datetime("us", "UTC"))
    rows = pl.read_parquet(inputs.videos).with_columns(upload_time=uploads)
    rows.write_parquet(inputs.videos)
    as_of = replace(inputs, as_of=hours(150), k=3)
    list(buckets | WriteNeighbours(as_of, str(tmp_path / "n"), "{bucket}", "defaults"))
    assert {tuple(video for video, _ in found) for found in lists_of(tmp_path).values()} == {("a", "c")}


def test_each_shard_is_loaded_once_for_all_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, buckets = write_world(world_of(3), tmp_path, 2)
    further = [BucketRecords(files=BucketFiles(bucket=number), records="") for number in range(64, 200, 5)]
    loaded, load = list[str](), shard_search.load_index

    def recorded(folder: Path) -> Any:
        loaded.append(folder.name)
        return load(folder)

    monkeypatch.setattr(shard_search, "load_index", recorded)
    search = WriteNeighbours(inputs, str(tmp_path / "n"), "{bucket}", "defaults", threads=2)
    list([*buckets, *further] | search)
    assert loaded == ["00000-of-00002", "00001-of-00002"]
