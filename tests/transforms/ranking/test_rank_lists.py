"""Ranked lists: the first videos by expected seconds, the others unchanged; no video is lost, and scores fall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, watch, write
from shown import CATALOGUE, USERS, events_of, impression

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.files import FileEntry
from transforms.core.records import Counts, WriteRecords, pop_records
from transforms.logs.event_window import BucketFiles, Window
from transforms.ranking import rank_lists
from transforms.ranking.calibration import user_halves
from transforms.ranking.generator_features import GeneratorNight
from transforms.ranking.order import ChosenOrder
from transforms.ranking.rank_lists import (
    RANKED_LISTS,
    HeldOutRanking,
    ListRanking,
    RankCandidates,
    explain_candidates,
    list_candidates,
    reorder_lists,
    score_lists,
)
from transforms.ranking.records import RankingBucket, RankingInputs
from transforms.search.neighbours import LISTS

SPEC = RankingSpec(
    videos=4,
    watch_history=2,
    numbers=["score", "rank", "similarity_last", "video_watches", "user_watches"],
    query=["user_watches"],
)
VIDEO_IDS = ["v", "w", "x", "y"]
ROWS = {"b": (["w", "v", "x"], [3.0, 2.0, 1.0]), "a": (["x", "v", "y", "w"], [4.0, 3.0, 2.0, 1.0]), "c": ([], [])}
WATCHES = [watch("a", 1, "v", watch_seconds=9.0), watch("b", 2, "x"), watch("a", 30, "y", watch_seconds=40.0)]
END = hours(24)


def lists_of(rows: dict[str, tuple[list[str], list[float]]]) -> pl.DataFrame:
    return pl.DataFrame([(user, *of) for user, of in rows.items()], schema=LISTS, orient="row")


class ByHand:
    """A ranker that expects e^-rank seconds, and many more for videos that the user has watched."""

    spec = SPEC

    def score(self, request: Any, query: dict[str, Any], impressions: dict[str, Any]) -> Any:
        assert set(query) == {"watches", "user_watches"} and len(query["user_watches"]) == request.max(initial=-1) + 1
        return (10 * impressions["video_watches"] - impressions["rank"]).astype(np.float32)

    def explain(self, request: Any, query: dict[str, Any], impressions: dict[str, Any]) -> Any:
        return np.repeat(impressions["score"][:, None], len(SPEC.features), axis=1)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_lists, "load_ranker", lambda folder: ByHand())


def inputs_in(folder: Path) -> RankingInputs:
    vocabulary = pl.DataFrame({"token": VIDEO_IDS, "count": [4, 3, 2, 1]})
    return RankingInputs(
        window=Window(start=hours(0), end=END),
        spec=SPEC,
        zone="UTC",
        videos=write(vocabulary, folder / "videos.parquet"),
        channels="",
        tokens="",
        catalogue=write(CATALOGUE, folder / "catalogue.parquet"),
    )


def ranking_in(folder: Path, count: int = 3, **fields: Any) -> ListRanking:
    fields = {"weights": (0.0, 0.0, 0.0)} | fields
    return ListRanking(inputs=inputs_in(folder), ranker="ranker", count=count, **fields)


def vectors_in(folder: Path) -> str:
    vectors = pl.DataFrame({"video_id": VIDEO_IDS, "vector": [[1.0, 0.0, 0.0]] * 4})
    return write(vectors, folder / "vectors.parquet")


def files_in(folder: Path) -> BucketFiles:
    events = events_of(WATCHES, impressions=[impression("a", 3, "w"), impression("a", 40, "x")])
    return BucketFiles(
        bucket=5,
        watches=(write(events.watches, folder / "w"),),
        impressions=(write(events.impressions, folder / "i"),),
        users=(write(USERS, folder / "u"),),
    )


def test_candidates_are_the_first_videos_of_each_list() -> None:
    found = list_candidates(lists_of(ROWS), 2, END)
    assert found.select("list", "user_id", "video_id", "rank", "score").rows() == [
        (0, "b", "w", 1.0, 3.0),
        (0, "b", "v", 2.0, 2.0),
        (1, "a", "x", 1.0, 4.0),
        (1, "a", "v", 2.0, 3.0),
    ]
    assert found["time"].unique().to_list() == [END]


@given(
    st.lists(st.lists(st.sampled_from("vwxyz"), unique=True), max_size=4),
    st.integers(0, 6),
    st.randoms(use_true_random=False),
)
def test_no_video_is_lost_and_scores_fall(videos: list[list[str]], count: int, random: Any) -> None:
    lists = lists_of({f"u{n}": (of, [-float(i) for i in range(len(of))]) for n, of in enumerate(videos)})
    candidates = list_candidates(lists, count, END)
    scores = np.array([random.choice([-0.5, 1.0, 7.0]) for _ in range(candidates.height)], np.float32)
    seconds = np.arange(candidates.height, dtype=np.float32)
    order = list(range(candidates.height))
    random.shuffle(order)
    found = reorder_lists(lists, candidates[order], scores[order], seconds[order], count)
    assert found.schema == RANKED_LISTS and found["user_id"].to_list() == lists["user_id"].to_list()
    keys = list(candidates.select("list", "video_id").iter_rows())
    expected, times = (dict(zip(keys, values.tolist(), strict=True)) for values in (scores, seconds))
    for row, (of, (_, shown, own, own_seconds)) in enumerate(zip(videos, found.iter_rows(), strict=True)):
        ranked = sorted((-expected[row, video], place, video) for place, video in enumerate(of[:count]))
        head = [video for _, _, video in ranked]
        assert list(shown) == head + of[count:]
        lowest = -ranked[-1][0] if ranked else 0
        assert list(own[len(head) :]) == [lowest - n for n in range(1, len(of) - len(head) + 1)]
        assert list(own[: len(head)]) == [expected[row, video] for video in head]
        assert sorted(own, reverse=True) == list(own)
        assert list(own_seconds) == [times[row, video] for video in head] + [None] * (len(of) - len(head))


@pytest.mark.usefixtures("by_hand")
def test_a_bucket_s_lists_are_ranked_by_the_history_of_its_users(tmp_path: Path) -> None:
    path = write(lists_of(ROWS), tmp_path / "lists.parquet")
    night = GeneratorNight(start=hours(0), videos=vectors_in(tmp_path))
    bucket = RankingBucket(files=files_in(tmp_path), nights=(night,), lists=(path,))
    rank = RankCandidates(ranking_in(tmp_path), str(tmp_path / "out"), "{bucket:05d}.parquet")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([bucket]) | rank | WriteRecords(str(tmp_path / "records"))
    records = pop_records(str(tmp_path / "records"), FileEntry, Counts)
    assert records.of(Counts) == [Counts({"users": 3, "candidates": 6})]
    (entry,) = records.of(FileEntry)
    found = pl.read_parquet(tmp_path / "out" / entry.name)
    assert entry.name == "00005.parquet" and entry.rows == 3
    assert found["user_id"].to_list() == ["b", "a", "c"]
    assert found["video_ids"].to_list() == [["x", "w", "v"], ["v", "x", "y", "w"], []]
    # e^8 seconds of a video of one minute; the last one is not ranked.
    *seconds, last = found["expected_seconds"].to_list()[1]
    assert seconds == pytest.approx([60, np.exp(-1), np.exp(-3)], rel=1e-6) and last is None
    assert found["scores"].to_list()[1] == pytest.approx([np.log(60), -1.0, -3.0, -4.0], rel=1e-6)


def test_candidates_have_the_features_of_the_list_and_the_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, files = inputs_in(tmp_path), files_in(tmp_path)
    bucket = RankingBucket(files=files, nights=(GeneratorNight(start=hours(0), videos=vectors_in(tmp_path)),))
    events = inputs.window.events_with_impressions(files)
    ranker: Any = ByHand()
    ranking = ranking_in(tmp_path, count=2)
    monkeypatch.setattr(rank_lists, "load_ranker", lambda folder: ranker)
    monkeypatch.setattr(rank_lists, "LISTS_AT_ONCE", 1)
    parts = list(score_lists(lists_of(ROWS), bucket, events, ranking))
    assert [part["user_id"].to_list() for part, _ in parts] == [["b"], ["a"], ["c"]]
    monkeypatch.setattr(rank_lists, "LISTS_AT_ONCE", 9)
    ((_, scored),) = score_lists(lists_of(ROWS), bucket, events, ranking)
    alone = np.concatenate([part.seconds for _, part in parts])
    assert sorted(alone.tolist()) == sorted(scored.seconds.tolist())
    numbers = scored.encoded.impressions
    assert scored.encoded.shown.select("user_id", "video_id").rows() == [("a", "v"), ("a", "x"), ("b", "v"), ("b", "w")]
    assert numbers["score"].tolist() == [3.0, 4.0, 2.0, 3.0] and numbers["rank"].tolist() == [2.0, 1.0, 2.0, 1.0]
    assert numbers["video_watches"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert numbers["similarity_last"].tolist() == [1.0] * 4
    assert scored.encoded.query["user_watches"].tolist() == [1.0, 1.0]
    assert explain_candidates(scored, ranker)[:, 0].tolist() == [3.0, 4.0, 2.0, 3.0]


@pytest.mark.usefixtures("by_hand")
def test_held_out_users_are_measured_in_both_orders(tmp_path: Path) -> None:
    held_out = HeldOutRanking(ranking=ranking_in(tmp_path), videos=vectors_in(tmp_path), cut=1)
    then = pl.DataFrame(
        {
            "user_id": ["a", "a", "b", "stranger"],
            "video_id": ["v", "x", "w", "v"],
            "completed": [True, True, True, True],
            "watch_seconds": [50.0, 30.0, 20.0, 99.0],
        }
    )
    lists = lists_of(ROWS)
    ranked = held_out.rank(lists, files_in(tmp_path))
    assert dict(ranked.select("user_id", "video_ids").iter_rows()) == {
        "b": ["x", "w", "v"],
        "a": ["v", "x", "y", "w"],
        "c": [],
    }
    found = held_out.watch_time(lists, ranked, then).compute()
    assert (found.users, found.wanted_seconds) == (3, 100)
    assert found.neighbours and found.neighbours.recall == 0.5
    assert found.ranking and found.ranking.recall == 0.5
    then = then.with_columns(completed=pl.col("video_id") != "w")
    found = held_out.watch_time(lists, ranked, then).compute()
    assert found.neighbours and found.ranking and found.difference
    assert (found.neighbours.recall, found.ranking.recall) == (30 / 80, 50 / 80)
    assert found.difference.value == pytest.approx(20 / 80)


@pytest.mark.usefixtures("by_hand")
def test_held_out_users_have_the_weight_of_their_half(tmp_path: Path) -> None:
    halves = dict(zip("ab", user_halves(pl.Series(["a", "b"])), strict=True))
    order = ChosenOrder(weight=0.0, halves=(0.0, "neighbours"), reason="")
    ranking = ranking_in(tmp_path, weights=order.weights, held_out=True)
    held_out = HeldOutRanking(ranking=ranking, videos=vectors_in(tmp_path), cut=1)
    found = dict(held_out.rank(lists_of(ROWS), files_in(tmp_path)).select("user_id", "video_ids").iter_rows())
    by_seconds = {"a": ["v", "x", "y", "w"], "b": ["x", "w", "v"]}
    assert {user: found[user] for user in "ab"} == {
        user: by_seconds[user] if halves[user] == 0 else ROWS[user][0] for user in "ab"
    }


@pytest.mark.usefixtures("by_hand")
def test_orders_are_measured_on_what_was_completed_later(tmp_path: Path) -> None:
    later = [watch("a", 25, "v", watch_seconds=50.0), watch("a", 26, "x", watch_seconds=30.0), watch("b", 27, "w")]
    events = events_of([*WATCHES, *later, watch("stranger", 28, "v")])
    bucket = BucketFiles(bucket=5, watches=(write(events.watches, tmp_path / "w"),))
    held_out = HeldOutRanking(ranking=ranking_in(tmp_path), videos=vectors_in(tmp_path), cut=1)
    (found,) = held_out.orders(lists_of(ROWS), bucket, Window(start=hours(0), end=hours(48)))
    completed = {
        (row["user_id"], row["video_id"])
        for row in events.watches.filter("completed", pl.col("time") >= END).to_dicts()
    }
    wanted = {pair for pair in completed if pair[0] in ROWS}
    curve = found.curve((0, 1))
    first = {"a": "v", "b": "x"}, {"a": "x", "b": "w"}  # by seconds, as neighbours
    for of, shown in zip((curve[0], curve[-1]), first, strict=True):
        assert of.recall == sum(pair in wanted for pair in shown.items()) / len(wanted)
    assert sum(found.users) == len({user for user, _ in wanted})
