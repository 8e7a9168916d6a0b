"""Normalisation of ids, the same for all formats and tables."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.logs.id_text import NULL_WORDS, clean_id, clean_ids
from transforms.logs.ingest import parse_log
from transforms.logs.parsing import ParseRules, parse_searches, parse_watches
from transforms.logs.privacy import ForgetList, PrivacyFilter
from transforms.logs.readers import LogError
from transforms.logs.schemas import SEARCHES, WATCHES

RULES = ParseRules(before=dt.datetime(2026, 11, 22, tzinfo=dt.UTC))
SPELLINGS = {
    "2": "2",
    "2.0": "2",
    "2.00": "2",
    "2.5": "2.5",
    " 3\t": "3",
    "0004": "0004",
    "-7.0": "-7",
    "a b": "a b",
    "\u00a0x\u3000": "x",
    "v1.0": "v1.0",
    "nano": "nano",
    "Nullius": "Nullius",
    "  ": None,
    "a\x00b": None,
    "a\nb": None,
}


def test_every_spelling_is_normalised() -> None:
    texts = pl.Series([*SPELLINGS, *NULL_WORDS, f" {NULL_WORDS[1]} ", None])
    assert clean_ids(texts).to_list() == [*SPELLINGS.values(), *[None] * (len(NULL_WORDS) + 2)]
    assert {text: clean_id(text) for text in SPELLINGS} == SPELLINGS


LETTERS = st.text(st.sampled_from("0123. aN\\\u00a0\u00f6\x00-"), max_size=5)


@given(st.lists(st.one_of(st.none(), LETTERS, st.sampled_from(NULL_WORDS)), max_size=12))
def test_id_is_read_the_same_in_any_column(texts: list[str | None]) -> None:
    """Reading a column gives the same as reading each id, and reading is idempotent."""
    found = clean_ids(pl.Series(texts, dtype=pl.String))
    assert found.to_list() == [None if text is None else clean_id(text) for text in texts]
    assert clean_ids(found).to_list() == found.to_list()


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pa.array([2.0, 7.0]), ["2", "7"]),
        (pa.array([Decimal("2.00"), Decimal("7.00")]), ["2", "7"]),
        (pa.array(["2.0", " 7 "]), ["2", "7"]),
        (pa.array([b"2", b"7"]), ["2", "7"]),
        (pa.array([2, 7]).dictionary_encode(), ["2", "7"]),
        (pa.array(["2.0", "7"]).dictionary_encode(), ["2", "7"]),
        (
            pa.array([uuid.UUID(int=2**127).bytes, b"sixteen letters!"], pa.binary(16)),
            [str(uuid.UUID(int=2**127)), "sixteen letters!"],
        ),
        (pa.array([uuid.UUID(int=2**127).bytes, b"7"], pa.binary()), [str(uuid.UUID(int=2**127)), "7"]),
        (pa.array([uuid.UUID(int=7).bytes, bytes(16)], pa.uuid()), [str(uuid.UUID(int=7)), str(uuid.UUID(int=0))]),
    ],
)
def test_ids_of_every_type(values: pa.Array, ids: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pa_parquet.write_table(pa.table({"user_id": values}), path)
    assert sorted(ForgetList(paths=(str(path),), digest=str(values)).ids()) == sorted(ids)


def test_fractional_numbers_are_not_ids(tmp_path: Path) -> None:
    for at, values in enumerate((pa.array([2.5]), pa.array([Decimal("2.5")]))):
        path = tmp_path / f"{at}.parquet"
        pa_parquet.write_table(pa.table({"user_id": values}), path)
        with pytest.raises(LogError, match="row 1 has no readable user_id"):
            ForgetList(paths=(str(path),)).ids()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_null_words_are_queries_but_not_ids(ending: str, tmp_path: Path) -> None:
    """In a query, which a person typed, null is an ordinary word, quoted or not."""
    words = [word for word in NULL_WORDS if word]
    rows = [{"user_id": word, "time": "2026-11-20T10:00:00Z", "query": "cats"} for word in words]
    rows += [{"user_id": "7", "time": "2026-11-20T10:00:00Z", "query": word} for word in ["null", "NULL", "\\N", "nan"]]
    frame = pl.DataFrame(rows)
    path = tmp_path / f"s.{ending}"
    write: dict[str, Callable[[Path], None]]
    write = {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}
    write[ending](path)
    parts = list(parse_log(str(path), SEARCHES, {}, partial(parse_searches, rules=RULES)))
    assert [query for part in parts for query in part.valid["query"]] == ["null", "NULL", "\\N", "nan"]
    assert [reason for part in parts for reason in part.rejected["reason"]] == ["user_id is null"] * len(words)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_null_words_of_databases_are_null_in_other_text(ending: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"user_id": "7", "video_id": f"v{at}", "time": "2026-11-20T10:00:00Z", "completed": word, "watch_seconds": word}
        | {"country": word}
        for at, word in enumerate(["null", "NULL", "\\N", ""])
    ]
    frame, path = pl.DataFrame(rows), tmp_path / f"w.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif ending == "csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    parts = list(parse_log(str(path), WATCHES, {}, partial(parse_watches, rules=RULES)))
    found = pl.concat(part.valid for part in parts)
    assert found.select("completed", "watch_seconds", "country").rows() == [(False, None, None)] * 4


def test_ids_with_control_characters_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    users = ["a\u0000", "b", "\u009f", "\\N"]
    rows = [{"user_id": user, "video_id": "v", "time": "2026-11-20T10:00:00Z", "completed": 1} for user in users]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (parsed,) = parse_log(str(path), WATCHES, {}, partial(parse_watches, rules=RULES))
    assert parsed.valid["user_id"].to_list() == ["b"]
    control = "user_id holds control characters"
    assert parsed.rejected.select("row", "reason").rows() == [(1, control), (3, control), (4, "user_id is null")]


def test_forgotten_users_include_ids_of_earlier_versions(tmp_path: Path) -> None:
    """Earlier versions stored `2.0` and ` 3` of a CSV file as separate ids."""
    path = tmp_path / "forget.csv"
    path.write_text("user_id\n2.0\n 3\nx1\n", encoding="utf-8")
    privacy_filter = PrivacyFilter(forget=ForgetList(paths=(str(path),)))
    assert privacy_filter.forgotten_users().to_list() == ["2", "3", "x1"]
    assert privacy_filter.stored_names().to_list() == [" 3", "2", "2.0", "3", "3.0", "x1"]
