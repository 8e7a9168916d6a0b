from __future__ import annotations

from ranking_records import BARE, SPEC

from transforms.contracts.ranking_spec import NUMBERS, QUERY_FEATURES, RankingSpec


def test_a_spec_round_trips_through_json() -> None:
    assert RankingSpec.from_json(SPEC.to_json()) == SPEC


def test_features_belong_to_the_query_or_the_impression() -> None:
    assert SPEC.query_features == ["watches", "tokens", "country", "age"]
    impression = ["video", "channel", "video_language", "score", "video_seconds", "seconds_since_video"]
    assert SPEC.impression_features == impression
    assert SPEC.features == [*SPEC.query_features, *impression]


def test_missing_features_are_absent() -> None:
    assert BARE.features == ["watches", "video"]


def test_numbers_of_the_query_are_known_numbers() -> None:
    assert {"user_watches", "user_mean_watch_seconds", "age"} == set(QUERY_FEATURES) & NUMBERS.keys()
