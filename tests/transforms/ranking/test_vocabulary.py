"""Counts of training impressions, and the features that the logs have values for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, watch, write
from shown import CATALOGUE, USERS, events_of, impression

from transforms.core.files import FileEntry
from transforms.core.records import WriteRecords, pop_records
from transforms.examples.vocabulary import COUNTS, VocabularyFile, WriteVocabulary
from transforms.logs.event_window import BucketFiles, Holdout, Window
from transforms.logs.parsing import CompletionRule
from transforms.ranking.features import NUMBERS, POSITION, QUERY_NUMBERS
from transforms.ranking.generator_features import GENERATOR_NUMBERS
from transforms.ranking.outcome_features import OUTCOME_NUMBERS
from transforms.ranking.outcomes import WriteOutcomes
from transforms.ranking.vocabulary import (
    CountedDays,
    CountImpressions,
    ImpressionCounts,
    build_spec,
    covered_share,
    extend_spec,
    extend_vocabulary,
    merge_counts,
)

SHOWN = [
    impression("a", 1, "v", seconds=3.0, position=1),
    impression("a", 2, "w", "began before the night", seconds=4.0),
    impression("a", 3, "y", "began before the night"),
    impression("a", 3, "x", "began with the night", position=7),
    impression("b", 4, "v", seconds=5.0),
    impression("b", 30, "x", seconds=9.0, position=1),
]
FOUND = ImpressionCounts(
    impressions=5,
    longest_seconds=5.0,
    clicked=3,
    watch_seconds=12.0,
    covered=2,
    watches_with_seconds=1,
    birth_year=1,
    positions=2,
    upload_time=3,
    video_seconds=3,
    values={"video_language": {"sv": 2}, "language": {}},
)
SIZES: dict[str, Any] = {
    "videos": 3,
    "channels": 1,
    "tokens": 2,
    "outcomes": OUTCOME_NUMBERS,
    "watch_history": 5,
    "search_history": 6,
}


def test_held_out_impressions_are_not_counted(tmp_path: Path) -> None:
    events = events_of([watch("a", 1, "v", watch_seconds=2.0), watch("a", 2, "v")], impressions=SHOWN)
    bucket = BucketFiles(
        bucket=0,
        watches=(write(events.watches, tmp_path / "w"),),
        impressions=(write(events.impressions, tmp_path / "i"),),
        users=(write(USERS, tmp_path / "u"),),
    )
    count = CountImpressions(
        Window(start=hours(0), end=hours(48)),
        Holdout(start=hours(24), share=1.0, seed=1),
        write(CATALOGUE, tmp_path / "catalogue.parquet"),
        hours(3),
        CountedDays(days=(hours(0).date(), hours(24).date()), rule=CompletionRule()),
    )
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        counted = pipeline | beam.Create([bucket, BucketFiles(bucket=1)]) | count
        written = [
            counted[name] | name >> WriteVocabulary(2, str(tmp_path), f"{name}.parquet")
            for name in ("videos", "channels")
        ]
        outcomes = counted["outcomes"] | WriteOutcomes(str(tmp_path), (hours(0).date(), hours(24).date()))
        (*written, outcomes, counted["shown"]) | beam.Flatten() | WriteRecords(str(tmp_path / "records"))
    records = pop_records(str(tmp_path / "records"), VocabularyFile, ImpressionCounts, FileEntry)
    assert merge_counts(records.of(ImpressionCounts)) == FOUND
    assert pl.read_parquet(tmp_path / "videos.parquet").rows() == [("v", 2), ("w", 1)]
    assert pl.read_parquet(tmp_path / "channels.parquet").rows() == [("c", 3)]
    assert {entry.name for entry in records.of(FileEntry)} == {
        f"outcomes/{hours(day * 24).date()}.parquet" for day in (0, 1)
    }
    late = pl.read_parquet(tmp_path / "outcomes" / f"{hours(24).date()}.parquet")
    assert late.rows() == [("x", "", "", 1, 1, 0, 9000, 81)], "the outcomes of held-out impressions are counted"


def test_a_spec_has_the_features_of_the_logs() -> None:
    spec = build_spec(FOUND, categories={"country": ["SE", "DE"]}, **SIZES)
    assert spec.numbers == [*GENERATOR_NUMBERS, *NUMBERS, POSITION, *OUTCOME_NUMBERS, *QUERY_NUMBERS]
    assert list(spec.categories) == ["country", "hour", "video_language"]
    assert spec.query_categories == ["country", "hour"] and spec.impression_categories == ["video_language"]
    assert spec.query_numbers == list(QUERY_NUMBERS)
    assert (spec.videos, spec.channels, spec.tokens, spec.watch_history, spec.search_history) == (3, 1, 2, 5, 6)


@pytest.mark.parametrize(
    ("changed", "sizes", "gone"),
    [
        ({"covered": 0}, {}, set(GENERATOR_NUMBERS)),
        ({"birth_year": 0}, {}, {"age"}),
        ({"watches_with_seconds": 0}, {}, {"user_mean_watch_seconds"}),
        ({"upload_time": 0}, {}, {"video_age_seconds"}),
        ({"video_seconds": 0}, {}, {"video_seconds"}),
        ({"positions": 0}, {}, {"position"}),
        ({}, {"outcomes": OUTCOME_NUMBERS[:2]}, {*OUTCOME_NUMBERS[2:]}),
        ({}, {"channels": 0}, {"channel_watches", "seconds_since_channel", "channel_unclicked"}),
    ],
)
def test_features_without_values_are_omitted(changed: dict[str, Any], sizes: dict[str, Any], gone: set[str]) -> None:
    spec = build_spec(replace(FOUND, **changed), categories={}, **{**SIZES, **sizes})
    assert {*GENERATOR_NUMBERS, *NUMBERS, POSITION, *OUTCOME_NUMBERS, *QUERY_NUMBERS} - set(spec.numbers) == gone


def test_values_are_ordered_by_frequency() -> None:
    values = {"video_language": {"b": 2, "a": 2, "c": 9}, "language": {"sv": 1}}
    spec = build_spec(replace(FOUND, values=values), categories={}, **SIZES)
    assert spec.categories["video_language"] == ["c", "a", "b"] and spec.categories["language"] == ["sv"]
    spec = build_spec(replace(FOUND, values=values), categories={"language": ["de"]}, **SIZES)
    assert spec.categories["language"] == ["de"], "the generator's values take precedence"


COUNTED = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 5), max_size=8)


def vocabulary(counts: dict[str, int]) -> pl.DataFrame:
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return pl.DataFrame(rows, schema=COUNTS, orient="row")


@given(COUNTED, COUNTED, st.integers(0, 10))
def test_a_vocabulary_only_grows(earlier: dict[str, int], counts: dict[str, int], n: int) -> None:
    """Compared with plain Python: earlier names first, then new ones by frequency, as long as there is room."""
    found = extend_vocabulary(vocabulary(earlier), vocabulary(counts), n)
    names = vocabulary(earlier)["token"].to_list()
    new = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if name not in earlier]
    expected = names + new[: max(0, n - len(names))]
    assert found.rows() == [(name, earlier.get(name, 0) + counts.get(name, 0)) for name in expected]
    total = sum(counts.values())
    covered = sum(count for name, count in counts.items() if name in expected)
    assert covered_share(found, vocabulary(counts), total) == (covered / total if total else 1.0)


def test_a_spec_keeps_the_features_of_the_chain_and_their_order() -> None:
    earlier = build_spec(replace(FOUND, covered=0), categories={"country": ["SE", "DE"], "device": ["tv"]}, **SIZES)
    sizes = SIZES | {"videos": 9, "channels": 0}
    now = build_spec(replace(FOUND, birth_year=0), categories={"country": ["FR", "DE"]}, **sizes)
    found = extend_spec(now, earlier)
    assert found.categories["country"] == ["SE", "DE", "FR"] and found.categories["device"] == ["tv"]
    assert found.numbers == [*earlier.numbers, *GENERATOR_NUMBERS] and "age" in found.numbers
    assert found.query == list(dict.fromkeys([*earlier.query, *now.query])) and found.videos == 9
    assert set(earlier.features) - {"channel"} < set(found.features)
