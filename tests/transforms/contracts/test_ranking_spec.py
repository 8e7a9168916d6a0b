from __future__ import annotations

from ranking_records import BARE, SPEC

from transforms.contracts.ranking_spec import NUMBERS, QUERY_FEATURES, RankingSpec


def test_a_spec_reads_back_from_json() -> None:
    assert RankingSpec.from_json(SPEC.to_json()) == SPEC


def test_features_are_the_query_s_or_the_impression_s() -> None:
    assert SPEC.query_features == ["watches", "tokens", "country", "age"]
    impression = ["video", "channel", "video_language", "score", "video_seconds", "seconds_since_video"]
    assert SPEC.impression_features == impression
    assert SPEC.features == [*SPEC.query_features, *impression]


def test_what_the_logs_do_not_have_is_absent() -> None:
    assert BARE.features == ["watches", "video"]


def test_numbers_of_the_query_are_numbers() -> None:
    assert {"user_watches", "user_mean_watch_seconds", "age"} == set(QUERY_FEATURES) & NUMBERS.keys()
