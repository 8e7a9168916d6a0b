"""Vocabularies, compared with a Counter for any split of the counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, search, searches_frame, watch, watches_frame, write

from transforms.core.records import WriteRecords, pop_records
from transforms.examples.tokens import tokens
from transforms.examples.vocabulary import (
    COUNTS,
    CountTokens,
    VocabularyFile,
    WindowSummary,
    WriteVocabulary,
    add_counts,
    count_search_tokens,
    count_videos,
    count_window,
    merge_window_counts,
    shard_top_n,
    write_vocabulary,
)
from transforms.logs.event_window import BucketFiles, Holdout, Window

WATCHES = st.lists(
    st.builds(watch, st.sampled_from("ab"), st.integers(0, 9), st.sampled_from("uvwxyz"), st.booleans()), max_size=30
)


def counts_frame(counts: dict[str, int]) -> pl.DataFrame:
    return pl.DataFrame(list(counts.items()), schema=COUNTS, orient="row")


def most_common(counts: Counter[str], n: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]


@given(WATCHES)
def test_videos_are_counted_by_completed_watches(rows: list[dict[str, Any]]) -> None:
    found = count_videos(watches_frame(rows))
    assert found.schema == COUNTS
    assert dict(found.rows()) == Counter(row["video_id"] for row in rows if row["completed"])


@given(st.lists(st.sampled_from(["cats", "Cats and dogs", "dogs", "", "..."]), max_size=12))
def test_tokens_are_counted_by_occurrence(queries: list[str]) -> None:
    found = count_search_tokens(searches_frame([search("a", 1, query) for query in queries]))
    assert found.schema == COUNTS
    assert dict(found.rows()) == Counter(token for query in queries for token in tokens(query))


PARTS = st.lists(st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 5), max_size=8), min_size=1, max_size=6)


@given(PARTS, st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_the_split(parts: list[dict[str, int]], chance: Any) -> None:
    total: Counter[str] = sum(map(Counter, parts), Counter())
    frames = [counts_frame(part) for part in parts]
    assert dict(add_counts(chance.sample(frames, len(frames))).rows()) == total
    assert dict(add_counts([add_counts(frames[:1]), *frames[1:]]).rows()) == total


@given(PARTS, st.integers(1, 12))
def test_top_of_all_shards_is_the_top_of_all_tokens(
    tmp_path_factory: pytest.TempPathFactory, parts: list[dict[str, int]], n: int
) -> None:
    """Each token is in one shard only, so the n largest of each shard suffice."""
    folder = tmp_path_factory.mktemp("vocabulary")
    by_shard = [{t: c for part in parts for t, c in part.items() if ord(t) % 3 == s} for s in range(3)]
    total = sum(map(Counter, by_shard), Counter())
    shards = pl.concat(
        [shard_top_n(counts_frame(shard), n) for shard in by_shard if shard] or [shard_top_n(counts_frame({}), n)]
    )
    record = write_vocabulary(shards, n, str(folder), "v.parquet")
    assert pl.read_parquet(folder / "v.parquet").rows() == most_common(total, n)
    assert (record.distinct, record.occurrences) == (len(total), total.total())
    assert record.occurrences_kept == sum(count for _, count in most_common(total, n))


@pytest.mark.parametrize("n", [1, 40, 10_000])
def test_vocabulary_equals_most_common_of_a_counter(n: int, tmp_path: Path) -> None:
    parts = [{f"video {i}": 1 + (i * seed) % 7 for i in range(seed, 60 + seed)} for seed in range(1, 5)]
    total: Counter[str] = sum(map(Counter, parts), Counter())
    records = str(tmp_path / "records.json")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        counts = pipeline | beam.Create([*map(counts_frame, parts), counts_frame({})])
        counts | WriteVocabulary(n, str(tmp_path), "v.parquet") | WriteRecords(records)
    (record,) = pop_records(records, VocabularyFile).of(VocabularyFile)
    assert pl.read_parquet(tmp_path / "v.parquet").rows() == most_common(total, n)
    assert record.file.rows == min(n, len(total))
    assert (record.distinct, record.occurrences) == (len(total), total.total())


def test_no_counts_write_no_vocabulary(tmp_path: Path) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        counts = pipeline | beam.Create([counts_frame({})])
        assert_that(counts | WriteVocabulary(5, str(tmp_path), "v.parquet"), equal_to([]))
    assert list(tmp_path.iterdir()) == []


def test_window_counts_are_merged() -> None:
    users = pl.DataFrame({"user_id": ["a", "b", "idle"], "gender": ["f", None, "m"], "birth_year": [1990, None, 1970]})
    one = count_window(
        watches_frame([watch("a", 1, "v", country="SE"), watch("a", 7, "v", False, country="DE", signed_in=True)]),
        searches_frame([search("b", 1, "q")]),
        users,
        (),
        robot_watches=5,
    )
    two = count_window(
        watches_frame([watch("b", 2, "v", country="DE")]),
        searches_frame([]),
        pl.DataFrame(schema={"user_id": pl.String}),
        (),
        robot_watches=2,
        held_out_watches=4,
    )
    nothing = count_window(watches_frame([]), searches_frame([]), users, ())
    expected = WindowSummary(
        watches=3,
        robot_watches=7,
        held_out_watches=4,
        completed=2,
        searches=1,
        users=3,
        newest=hours(2).isoformat(),
        birth_years=1,
        categories={"country": ["DE", "SE"], "gender": ["f"], "signed_in": ["true"]},
    )
    assert merge_window_counts([one, two, nothing]) == merge_window_counts([nothing, two, one]) == expected
    assert merge_window_counts([]).newest == ""


def test_held_out_events_are_not_counted(tmp_path: Path) -> None:
    watches = [watch("a", hour, video) for hour, video in ((1, "old"), (30, "held out"))]
    searches = [search("a", 1, "before"), search("a", 30, "after")]
    bucket = BucketFiles(
        bucket=0,
        watches=(write(watches_frame(watches), tmp_path / "w"),),
        searches=(write(searches_frame(searches), tmp_path / "s"),),
    )
    window = Window(start=hours(0), end=hours(48))
    for share, expected in ((1.0, ["before", "old"]), (0.0, ["after", "before", "held out", "old"])):
        count = CountTokens(window, Holdout(start=hours(24), share=share, seed=1), ())
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            found = pipeline | beam.Create([bucket, BucketFiles(bucket=1)]) | count
            both = (found["videos"], found["search_tokens"]) | beam.Flatten()
            assert_that(both | beam.FlatMap(lambda frame: frame["token"].to_list()), equal_to(expected))
            newest = found["window"] | beam.Map(lambda counts: counts.newest)
            assert_that(newest, equal_to(["", hours(1 if share else 30).isoformat()]), label="newest")
