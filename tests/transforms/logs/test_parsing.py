"""Parsing: the same values in every format, and a reason for every mistake, compared with plain Python."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from made_frames import write

from transforms.logs.ingest import parse_log
from transforms.logs.parsing import (
    Parsed,
    ParseRules,
    parse_hidden,
    parse_impressions,
    parse_searches,
    parse_users,
    parse_videos,
    parse_watches,
)
from transforms.logs.schemas import (
    HIDDEN_SCHEMA,
    IMPRESSION_SCHEMA,
    SEARCH_SCHEMA,
    SEARCHES,
    STORED_WATCH_SCHEMA,
    USER_SCHEMA,
    VIDEO_SCHEMA,
    VIDEOS,
    WATCHES,
)

BEFORE = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
RULES = ParseRules(before=BEFORE)
AT = dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)  # epoch second 1,700,000,000


def raw(**columns: Any) -> pl.DataFrame:
    """Return a raw frame of watches with defaults for user, video, time and completed."""
    height = max(len(values) for values in columns.values())
    usual = {"user_id": ["u"] * height, "video_id": ["v"] * height, "time": [AT] * height, "completed": [True] * height}
    frame = pl.DataFrame({**usual, **columns}, strict=False)
    return frame.with_columns(pl.int_range(1, height + 1, dtype=pl.Int64).alias("row"))


def reasons(parsed: Parsed) -> dict[int, str]:
    assert parsed.rejected.schema == {"row": pl.Int64, "reason": pl.String}
    return dict(parsed.rejected.rows())


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ([1, 2**62], ["1", str(2**62)]),
        ([1.0, 2.0**52], ["1", str(2**52)]),
        (["a", " b", "Ü"], ["a", "b", "Ü"]),
        (pl.Series(["x", "y"], dtype=pl.Categorical), ["x", "y"]),
        (pl.Series([2**64 - 1], dtype=pl.UInt64), [str(2**64 - 1)]),
    ],
)
def test_ids_are_converted_to_text(values: Any, ids: list[str]) -> None:
    parsed = parse_watches(raw(user_id=values, video_id=values), RULES)
    assert parsed.valid["user_id"].to_list() == parsed.valid["video_id"].to_list() == ids


CAN_NOT, NULL = "{} cannot be read", "{} is null"
BAD_ROWS = [
    ({"user_id": [None, ""]}, [NULL.format("user_id")] * 2),
    ({"video_id": ["", None]}, [NULL.format("video_id")] * 2),
    ({"user_id": [1.5, float("nan"), 1e300]}, [CAN_NOT.format("user_id")] * 3),
    ({"user_id": [True]}, [CAN_NOT.format("user_id")]),
    ({"time": [None, "", "x"]}, [NULL.format("time"), NULL.format("time"), CAN_NOT.format("time")]),
    (
        {"time": [BEFORE, BEFORE + dt.timedelta(days=900)]},
        ["time lies in the future: not before 2024-06-01 00:00 UTC"] * 2,
    ),
    ({"time": [20240101, "1989-12-31T23:59:59Z", 0, -1]}, ["time lies before 1990"] * 4),
    ({"watch_seconds": [-1, -0.5]}, ["watch_seconds is negative"] * 2),
    ({"watch_seconds": ["-1", "many", "inf"]}, ["watch_seconds is negative"] + [CAN_NOT.format("watch_seconds")] * 2),
    ({"video_seconds": [-2.0, float("inf")]}, ["video_seconds is negative", CAN_NOT.format("video_seconds")]),
    ({"completed": ["perhaps", "2"]}, [CAN_NOT.format("completed")] * 2),
    ({"completed": [2]}, [CAN_NOT.format("completed")]),
    ({"signed_in": [0.5]}, [CAN_NOT.format("signed_in")]),
    ({"user_id": [None], "time": ["x"], "watch_seconds": [-1]}, ["user_id is null"]),
]


@pytest.mark.parametrize(("columns", "expected"), BAD_ROWS)
def test_each_mistake_has_a_reason(columns: dict[str, Any], expected: list[str]) -> None:
    parsed = parse_watches(raw(**columns), RULES)
    assert parsed.valid.is_empty()
    assert reasons(parsed) == dict(enumerate(expected, 1))


def test_last_time_before_the_future_is_valid() -> None:
    parsed = parse_watches(raw(time=[BEFORE - dt.timedelta(microseconds=1)]), RULES)
    assert parsed.valid["time"].to_list() == [BEFORE - dt.timedelta(microseconds=1)]


def test_words_for_true_and_false() -> None:
    words = ["TRUE", "t", "Yes", "y", "1", "1.0", "False", "F", "no", "N", "0", "0.0"]
    assert parse_watches(raw(completed=words), RULES).valid["completed"].to_list() == [True] * 6 + [False] * 6
    for ones in ([1, 0], [1.0, 0.0], [True, False]):
        parsed = parse_watches(raw(signed_in=ones), RULES)
        assert sorted(parsed.valid["signed_in"].to_list()) == [False, True]


def oracle_completed(row: dict[str, Any], length_of: dict[str, float], rules: ParseRules) -> bool:
    """Apply the rule of the contract to one row."""
    if row["completed"] is not None:
        return bool(row["completed"])
    if row["watch_seconds"] is None:
        return False
    length = row["video_seconds"] or length_of.get(row["video_id"])
    if length:
        return bool(row["watch_seconds"] >= rules.completed_fraction * length)
    return bool(row["watch_seconds"] >= rules.completed_seconds)


SECONDS = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 5.0, 10.0, 29.75, 30.0, 60.0, 120.0]))
WATCHED = st.fixed_dictionaries(
    {
        "video_id": st.sampled_from(["known", "empty", "unknown"]),
        "completed": st.sampled_from([None, None, True, False]),
        "watch_seconds": SECONDS,
        "video_seconds": SECONDS,
    }
)


@given(st.lists(WATCHED, max_size=20), st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([5.0, 30.0]), st.booleans())
def test_completed_follows_the_contract(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], fraction: float, seconds: float, known: bool
) -> None:
    lengths = {"known": 20.0, "empty": 0.0} if known else {}
    path = None
    if known:
        catalogue = pl.DataFrame({"video_id": [*lengths, "none"], "video_seconds": [20.0, 0.0, None]})
        path = write(catalogue.cast({"video_seconds": pl.Float32}), tmp_path_factory.mktemp("c") / "videos.parquet")
    rules = ParseRules(before=BEFORE, completed_fraction=fraction, completed_seconds=seconds, catalogue=path)
    kinds = {"video_id": pl.String, "completed": pl.Boolean, "watch_seconds": pl.Float64, "video_seconds": pl.Float64}
    frame = pl.DataFrame(rows, schema=kinds).with_columns(user_id=pl.lit("u"), time=pl.lit(AT)).with_row_index("row", 1)
    parsed = parse_watches(frame.cast({"row": pl.Int64}), rules)
    assert parsed.rejected.is_empty()
    assert parsed.valid["completed"].to_list() == [oracle_completed(row, lengths, rules) for row in rows]


VALUE = st.one_of(
    st.none(), st.sampled_from(["", "x", "1", "0", "-3", "true", "1700000000", "2024-01-01", "2030-01-01"])
)


@given(st.lists(st.tuples(*[VALUE] * 6), max_size=15))
def test_every_row_is_valid_or_rejected(rows: list[tuple[str | None, ...]]) -> None:
    names = ["user_id", "video_id", "time", "completed", "watch_seconds", "country"]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
    frame = frame.with_row_index("row", 1).cast({"row": pl.Int64})
    parsed = parse_watches(frame, RULES)
    assert parsed.valid.schema == STORED_WATCH_SCHEMA
    assert parsed.rejected["row"].is_unique().all()
    kept = frame.filter(~pl.col("row").is_in(parsed.rejected["row"].to_list()))
    assert parsed.valid["user_id"].to_list() == kept["user_id"].to_list()
    known = parsed.valid.drop_nulls(["user_id", "video_id", "time", "completed"])
    assert known.height == parsed.valid.height == kept.height
    assert (parsed.valid["time"] < BEFORE).all()


def test_searches() -> None:
    frame = raw(query=["cats", None, "", "dogs"], time=[AT, AT, AT, BEFORE]).drop("video_id", "completed")
    parsed = parse_searches(frame, RULES)
    assert parsed.valid.schema == SEARCH_SCHEMA
    assert parsed.valid.rows() == [("u", AT, "cats")]
    future = "time lies in the future: not before 2024-06-01 00:00 UTC"
    assert reasons(parsed) == {2: "query is null", 3: "query is null", 4: future}


def test_impressions() -> None:
    frame = raw(
        page_id=[7, 7, 7, None, 8, 8, 9, 9],
        clicked=["1", "no", None, "1", "yes", "yes", "maybe", "1"],
        watch_seconds=[2.5, 9.0, 0.0, 1.0, None, -1.0, 0.0, 1.0],
        position=[3, None, 1, 1, 1, 1, 1, 0],
    ).drop("completed")
    parsed = parse_impressions(frame, RULES)
    assert parsed.valid.schema == IMPRESSION_SCHEMA
    assert parsed.valid.rows() == [("u", AT, "v", "7", True, 2.5, 3), ("u", AT, "v", "7", False, 0.0, None)]
    assert reasons(parsed) == {
        3: "clicked is null",
        4: "page_id is null",
        5: "watch_seconds of a click is null",
        6: "watch_seconds is negative",
        7: "clicked cannot be read",
        8: "position is below 1",
    }
    without = parse_impressions(frame.drop("position"), RULES)
    assert without.valid["position"].to_list() == [None] * 3


def test_the_catalogue() -> None:
    frame = pl.DataFrame(
        {
            "row": [1, 2, 3, 4, 5],
            "video_id": [1, 2, None, 4, 5],
            "upload_time": ["2024-01-01", None, None, "x", None],
            "video_seconds": [1.5, None, 1, 1, -1],
            "title": ["A", "", None, None, None],
            "available": [None, False, None, None, None],
        },
        strict=False,
    )
    parsed = parse_videos(frame, "Europe/Berlin")
    assert parsed.valid.schema == VIDEO_SCHEMA
    assert parsed.valid.rows() == [
        ("1", dt.datetime(2023, 12, 31, 23, tzinfo=dt.UTC), 1.5, "A", None, None, True, None),
        ("2", None, None, None, None, None, False, None),
    ]
    assert reasons(parsed) == {3: "video_id is null", 4: "upload_time cannot be read", 5: "video_seconds is negative"}
    assert parse_videos(frame.select("row", "video_id")).valid["available"].to_list() == [True] * 4


COUNTRIES = {"a": ["at", "DE "], "b": None, "c": [], "d": ["SE"], "e": ["SE", None]}


def test_countries_of_videos_are_texts_or_lists(tmp_path: Path) -> None:
    expected = {"a": "AT,DE", "b": None, "c": None, "d": "SE", "e": "SE"}
    lists = pl.DataFrame({"video_id": list(COUNTRIES), "countries": list(COUNTRIES.values())})
    texts = lists.with_columns(pl.col("countries").list.join(",", ignore_nulls=True))
    lists.write_parquet(tmp_path / "a.parquet")
    texts.write_parquet(tmp_path / "b.parquet")
    texts.write_csv(tmp_path / "c.csv")
    lists.write_ndjson(tmp_path / "d.jsonl")
    texts.write_ndjson(tmp_path / "e.jsonl")
    for path in sorted(tmp_path.iterdir()):
        valid = pl.concat([part.valid for part in parse_log(str(path), VIDEOS, {}, parse_videos)])
        assert dict(valid.select("video_id", "countries").rows()) == expected, path.name


@pytest.mark.parametrize("text", ["DE;AT", "DE|AT", "DE/AT"])
def test_countries_must_be_separated_by_commas(text: str) -> None:
    parsed = parse_videos(pl.DataFrame({"row": [1, 2], "video_id": ["a", "b"], "countries": [text, "DE"]}))
    assert reasons(parsed) == {1: "countries must be separated by commas"} and parsed.valid["countries"].item() == "DE"


def test_hidden_pairs() -> None:
    frame = pl.DataFrame({"row": [1, 2, 3], "user_id": [7, None, 8], "video_id": ["a", "b", ""], "why": ["x"] * 3})
    parsed = parse_hidden(frame)
    assert parsed.valid.schema == HIDDEN_SCHEMA and parsed.valid.rows() == [("7", "a")]
    assert reasons(parsed) == {2: "user_id is null", 3: "video_id is null"}


def test_users_with_additional_categories() -> None:
    frame = pl.DataFrame(
        {"row": [1, 2, 3], "user_id": ["a", "b", "c"], "birth_year": ["1990", "x", None], "plan": [7, 8, 9]}
    )
    parsed = parse_users(frame, ("plan", "gender"))
    assert parsed.valid.schema == {**USER_SCHEMA, "plan": pl.String}
    assert parsed.valid.rows() == [("a", None, 1990, None, None, "7"), ("c", None, None, None, None, "9")]
    assert reasons(parsed) == {2: "birth_year cannot be read"}


def as_files(rows: list[dict[str, Any]]) -> dict[str, bytes]:
    frame = pl.DataFrame(rows)
    lines, parquet = b"".join(json.dumps(row).encode() + b"\n" for row in rows), io.BytesIO()
    frame.write_parquet(parquet)
    text = frame.write_csv().encode()
    return {
        "a.parquet": parquet.getvalue(),
        "a.jsonl": lines,
        "a.csv": text,
        "a.csv.gz": gzip.compress(text),
        "a.jsonl.gz": gzip.compress(lines),
    }


LOG_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from([1, 2, None]),
            "video_id": st.sampled_from([10, 11]),
            "time": st.sampled_from([1_700_000_000, 1_700_000_000_500, 1_900_000_000, None]),
            "completed": st.sampled_from([True, False, None]),
            "watch_seconds": st.sampled_from([0.5, -1.0, 31.25, None]),
            "country": st.sampled_from(["SE", 'a "b", c\nd', None]),
        }
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=fewer(25))
@given(LOG_ROWS, st.booleans())
def test_all_formats_give_the_same_frames(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], numbers: bool
) -> None:
    if not numbers:
        rows = [{**row, "user_id": row["user_id"] and f"user {row['user_id']}"} for row in rows]
    if all(row["user_id"] is None or row["time"] is None for row in rows):
        rows = [*rows, {**rows[0], "user_id": 1 if numbers else "user 1", "time": 1}]
    rows = [{**rows[0], "completed": True, "watch_seconds": 1.0, "country": "DE"}, *rows]  # no column is all null
    folder, found = tmp_path_factory.mktemp("formats"), []
    for name, content in as_files(rows).items():
        (folder / name).write_bytes(content)
        parts = list(parse_log(str(folder / name), WATCHES, {}, partial(parse_watches, rules=RULES)))
        valid, rejected = (pl.concat([getattr(part, kind) for part in parts]) for kind in ("valid", "rejected"))
        assert valid.height + rejected.height == len(rows)
        assert set(rejected["file"]) <= {str(folder / name)}
        found.append((valid.rows(), rejected.select("row", "reason").rows()))
    assert all(other == found[0] for other in found)


def test_rejected_rows_have_their_file_and_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user_id,time,query,more\n,1700000000,cats,1\na,b\na,1700000000,dogs,2\n")
    (parsed, *rest) = parse_log(str(path), SEARCHES, {}, partial(parse_searches, rules=RULES))
    assert all(part.valid.is_empty() and part.rejected.is_empty() for part in rest)
    assert parsed.valid.rows() == [("a", AT, "dogs")]
    assert parsed.rejected.sort("row").rows() == [
        ("searches", str(path), 1, "user_id is null", '{"user_id":null,"time":"1700000000","query":"cats"}'),
        ("searches", str(path), 2, "2 values under a header of 4", "a,b"),
    ]


def test_rejected_rows_of_any_type_have_a_text(tmp_path: Path) -> None:
    path = write(
        raw(user_id=[None], signed_in=[True], country=[b"x"], device=[1.5]).drop("row"), tmp_path / "a.parquet"
    )
    (parsed,) = parse_log(path, WATCHES, {}, partial(parse_watches, rules=RULES))
    assert parsed.rejected["reason"].to_list() == ["user_id is null"]
    assert '"country":"x","device":1.5' in parsed.rejected["text"].item()
