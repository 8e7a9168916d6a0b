"""Ids of forgotten users in texts of rejected rows, in all spellings of JSON, CSV and numbers."""

from __future__ import annotations

import csv
import io
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.logs.privacy import redact_texts

# Of the letters that are written as escapes, and of some that are not.
IDS = st.text(st.sampled_from('ab"\\/\n\u00eb\U0001f600,'), min_size=3, max_size=5)


def kept(text: str, *ids: str) -> bool:
    (found,) = redact_texts(pl.DataFrame({"text": [text]}), pl.Series("user_id", list(ids)))["text"]
    assert found in (text, None)
    return found is not None


@given(IDS, st.booleans())
def test_id_in_json_is_found_at_any_depth(user: str, ascii_only: bool) -> None:
    for value in ({"user_id": user}, {"a": [{"b": {"c": user}}]}, {user: 1}, {"page": json.dumps({"u": user})}):
        assert not kept(json.dumps(value, ensure_ascii=ascii_only), user)


@given(IDS)
def test_id_in_csv_is_found(user: str) -> None:
    written = io.StringIO()
    csv.writer(written).writerow([user, "v1", "never"])
    assert not kept(written.getvalue(), user)
    csv.writer(written, quoting=csv.QUOTE_ALL).writerow([json.dumps({"user": user})])
    assert not kept(written.getvalue(), user)


@given(IDS)
def test_truncated_json_with_escapes_is_removed(user: str) -> None:
    assert not kept('{"video_id": "v1", "user_id": ' + json.dumps(user)[:-1], user)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ('{"user_id": 2e1}', "20"),
        ('{"user_id": 2.50E+3}', "2500"),
        ("2e1,v1", "20"),
        ('{"user_id": 20.0}', "20"),
        ('"1.5e1",v', "15"),
        ('{"user_id": "\\u0061nn", "user_id": "bob"}', "ann"),
        ("{'user': '\\u0061nn'}", "ann"),
        ('{"page": "{\\"user\\": \\"\\\\u0061nn\\"}"}', "ann"),
        ('{"u": "\\ud83d\\ude00x"}', "\U0001f600x"),
    ],
)
def test_other_spellings_of_an_id_are_found(text: str, user: str) -> None:
    assert not kept(text, user)


@pytest.mark.parametrize(
    "text",
    [
        "bob,v1",
        '{"user_id": "bob"}',
        '{"query": "caf\\u00e9", "user_id": "bob"}',
        '{"q": "\\ud800", "n": 1e400, "m": 1e999999999, "x": NaN}',
        '"b""b",v1',
        "3e400,v1",
        "",
        "[" * 100_000,
    ],
)
def test_texts_of_other_users_are_kept(text: str) -> None:
    assert kept(text, "ann", "20")


def test_rows_keep_their_order_and_null_texts() -> None:
    rejected = pl.DataFrame({"row": [3, 1, 2], "text": [None, "ann", "bob"]})
    found = redact_texts(rejected, pl.Series("user_id", ["ann"]))
    assert found.rows() == [(3, None), (1, None), (2, "bob")]
    assert redact_texts(rejected, pl.Series("user_id", [], pl.String)).equals(rejected)
