from __future__ import annotations

import pytest

from pipelines.checks.column_names import nearest, renaming


@pytest.mark.parametrize(
    ("ours", "columns", "theirs"),
    [
        ("user_id", ["uid", "item_id", "ts"], "uid"),
        ("video_id", ["uid", "item_id", "ts"], "item_id"),
        ("time", ["uid", "item_id", "ts"], "ts"),
        ("user_id", ["USER-ID"], "USER-ID"),
        ("user_id", ["userId", "uid"], "userId"),
        ("watch_seconds", ["watch_secs", "x"], "watch_secs"),
        ("query", ["Search Query"], "Search Query"),
        ("user_id", ["title", "colour"], None),
        ("user_id", [], None),
        ("activity", ["activty"], "activty"),
    ],
)
def test_the_nearest_column_is_found_by_spelling_or_by_a_usual_name(
    ours: str, columns: list[str], theirs: str | None
) -> None:
    assert nearest(ours, columns) == theirs


def test_renaming_says_what_to_write_into_the_job_file() -> None:
    said = renaming("watches", ["user_id", "time"], ["uid", "ts", "x"])
    assert said.endswith('below [logs.columns.watches]: user_id = "uid"; time = "ts"')


def test_without_a_likely_column_it_says_where_to_name_one() -> None:
    said = renaming("searches", ["query", "user_id"], ["x"])
    assert said == 'name the columns that hold query, user_id below [logs.columns.searches], such as query = "..."'
