"""Lists with transitions compared with a mixture computed for every video in plain Python."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from made_index import use_made_tower, write_made_index

from transforms.contracts.transitions import DECAY, LAGS
from transforms.logs.event_window import BucketFiles, Window
from transforms.search.exact_search import ExactIndex
from transforms.search.exclusions import ChannelCap, Excluded
from transforms.search.neighbours import WriteNeighbours
from transforms.search.top_k import top_k
from transforms.search.tower import UserBatch
from transforms.search.transitions import SHARPNESS, TransitionSource, add_transitions, read_transitions
from transforms.search.user_limits import BucketRecords, SearchInputs

VIDEOS, USERS, DEPTH, SHARE = 40, 30, 12, 0.3


class World:
    """Random vectors, followers and exclusions. The video of id i is at position i - 3: ids 1 and 2 are not shown."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.vectors = draw.normal(size=(VIDEOS, 6)).astype(np.float32)
        self.users = draw.normal(size=(USERS, 6)).astype(np.float32)
        self.recent = draw.integers(0, VIDEOS + 3, (USERS, LAGS)).astype(np.int32)
        self.recent[:5] = 0
        ids = range(1, VIDEOS + 3)
        followers = [draw.permutation(np.arange(1, VIDEOS + 3))[: draw.integers(0, 7)].tolist() for _ in ids]
        self.shares = {
            id: dict(zip(found, (draw.dirichlet(np.ones(len(found) + 1))[:-1]).tolist(), strict=True))
            for id, found in zip(ids, followers, strict=True)
        }
        rows = {
            "id": list(ids),
            "followers": [list(self.shares[id]) for id in ids],
            "shares": [list(self.shares[id].values()) for id in ids],
        }
        schema: dict[str, Any] = {"id": pl.Int64, "followers": pl.List(pl.Int32), "shares": pl.List(pl.Float32)}
        pl.DataFrame(rows, schema=schema).write_parquet(folder / "transitions.parquet")
        names = [f"v{position:03d}" for position in range(VIDEOS)]
        self.folders, videos = write_made_index(folder, self.vectors, names)
        pl.read_parquet(videos).with_columns(pl.col("id") + 2).write_parquet(videos)
        self.source = TransitionSource(path=str(folder / "transitions.parquet"), videos=videos, share=SHARE)
        watched = [draw.permutation(VIDEOS)[: draw.integers(0, 9)] for _ in range(USERS)]
        self.excluded = Excluded(
            offsets=np.cumsum([0, *map(len, watched)]), positions=np.concatenate(watched).astype(np.int32)
        )
        self.watched = [set(found.tolist()) for found in watched]
        self.channel = draw.integers(-1, 6, VIDEOS).astype(np.int32)

    @property
    def batch(self) -> UserBatch:
        return UserBatch(user_ids=[f"u{i}" for i in range(USERS)], vectors=self.users, recent=self.recent)

    def chain(self, user: int) -> dict[int, float]:
        """Return the probability of each position by the chain."""
        weights = [DECAY ** (LAGS - 1 - column) * (id > 0) for column, id in enumerate(self.recent[user])]
        found: dict[int, float] = {}
        for id, weight in zip(self.recent[user].tolist(), weights, strict=True):
            for follower, share in self.shares.get(id, {}).items():
                if follower > 2:
                    found[follower - 3] = found.get(follower - 3, 0) + weight * share / sum(weights)
        return found

    def expected(self, user: int, listed: list[int], cap: ChannelCap | None) -> list[tuple[int, float]]:
        """Return positions and scores of the list, from the positions that the search found."""
        scores = (self.vectors @ self.users[user]).astype(float)
        odds = {position: math.exp(SHARPNESS * scores[position]) for position in range(VIDEOS)}
        chain, total = self.chain(user), sum(odds[position] for position in listed)
        mixed = {
            p: math.log((1 - SHARE * sum(chain.values())) * odds[p] + SHARE * chain.get(p, 0) * total) / SHARPNESS
            for p in {*listed, *chain} - self.watched[user]
        }
        kept: list[tuple[int, float]] = []
        for position in sorted(mixed, key=lambda p: (-round(mixed[p], 5), p)):
            channel = self.channel[position]
            same = sum(self.channel[other] == channel for other, _ in kept)
            if cap is None or channel < 0 or same < cap.limit:
                kept.append((position, mixed[position]))
        return kept[: min(DEPTH, len(kept))]


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("seed", range(3))
def test_lists_are_those_of_the_mixture(tmp_path: Path, seed: int, limit: int | None) -> None:
    world = World(tmp_path, seed=seed)
    cap = None if limit is None else ChannelCap(channel=world.channel, limit=limit)
    index = ExactIndex(vectors=world.vectors)
    found = top_k(index, world.users, k=DEPTH, excluded=world.excluded, cap=cap)
    mixed = add_transitions(
        found, world.batch, read_transitions(world.source), world.vectors, excluded=world.excluded, cap=cap
    )
    added = 0
    for user in range(USERS):
        listed = [p for p in found.positions[user].tolist() if p >= 0]
        expected = world.expected(user, listed, cap)
        kept = mixed.lengths[user]
        assert mixed.positions[user, :kept].tolist() == [position for position, _ in expected]
        assert mixed.scores[user, :kept] == pytest.approx([score for _, score in expected], abs=1e-4)
        added += len(set(mixed.positions[user, :kept].tolist()) - set(listed))
    assert added > USERS


def test_without_known_last_watches_nothing_changes(tmp_path: Path) -> None:
    world = World(tmp_path, seed=1)
    found = top_k(ExactIndex(vectors=world.vectors), world.users, k=DEPTH, excluded=world.excluded)
    transitions = read_transitions(world.source)

    def mix(recent: np.ndarray) -> Any:
        users = replace(world.batch, recent=recent.astype(np.int32))
        return add_transitions(found, users, transitions, world.vectors, excluded=world.excluded, cap=None)

    assert mix(np.zeros((USERS, LAGS))) is found
    unknown = mix(np.full((USERS, LAGS), 10 * VIDEOS))  # a newer vocabulary than that of the transitions
    assert unknown is found
    some = mix(np.where(np.arange(USERS)[:, None] < 20, 0, world.recent))
    assert (some.positions[:20] == found.positions[:20]).all()
    assert some.scores[:20] == pytest.approx(found.scores[:20], abs=1e-5)


def test_empty_lists_stay_empty_unless_a_follower_is_allowed(tmp_path: Path) -> None:
    world = World(tmp_path, seed=2)
    every = Excluded(offsets=np.arange(USERS + 1) * VIDEOS, positions=np.tile(np.arange(VIDEOS, dtype=np.int32), USERS))
    found = top_k(ExactIndex(vectors=world.vectors), world.users, k=DEPTH, excluded=every)
    mixed = add_transitions(found, world.batch, read_transitions(world.source), world.vectors, excluded=every, cap=None)
    assert mixed.lengths.tolist() == [0] * USERS


def test_shards_have_the_lists_of_one_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_made_tower(monkeypatch)
    written = []
    for shards in (1, 3):
        folder = tmp_path / f"{shards}"
        (folder / "index").mkdir(parents=True)
        world = World(folder, seed=5)
        names = [f"v{position:03d}" for position in range(VIDEOS)]
        folders, videos = write_made_index(folder / "index", world.vectors, names, shards=shards)
        pl.read_parquet(videos).with_columns(pl.col("id") + 2).write_parquet(videos)
        records = {"user_id": world.batch.user_ids, "vector": world.users.tolist(), "recent": world.recent.tolist()}
        pl.DataFrame(records).write_parquet(folder / "records.parquet")
        written.append(lists_of(folder, folders, replace(world.source, videos=videos)))
    assert written[0].equals(written[1])
    assert written[0]["video_ids"].list.len().to_list() == [DEPTH] * USERS


def lists_of(folder: Path, index: tuple[str, ...], source: TransitionSource) -> pl.DataFrame:
    """Return the lists that the transform writes."""
    ever = Window(start=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), end=dt.datetime(2026, 2, 1, tzinfo=dt.UTC))
    inputs = SearchInputs(
        tower="",
        index=index,
        videos=source.videos,
        k=DEPTH,
        exclude="none",
        watched_window=ever,
        window=ever,
        transitions=source,
    )
    bucket = BucketRecords(files=BucketFiles(bucket=0), records=str(folder / "records.parquet"))
    with beam.Pipeline() as pipeline:
        _ = pipeline | beam.Create([bucket]) | WriteNeighbours(inputs, str(folder / "out"), "{bucket}.parquet")
    return pl.read_parquet(folder / "out/0.parquet")
