"""Search tokens, compared with a tokenizer in plain Python."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.examples.tokens import tokenize, tokens

# Latin, Greek, Cyrillic, full width, digits, a ligature, Han, kana, symbols and spaces: both ways of cutting meet.
ALPHABET = "abÄßéΣИйZ１Ａ٣²ﬁ漢字かナ🎬& .,-'\t"  # noqa: RUF001
UNSPACED = re.compile("[\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff]")


def oracle(query: str) -> list[str]:
    """Tokenize one character at a time."""
    words: list[str] = []
    going = False  # whether the last word may go on
    for character in unicodedata.normalize("NFKC", query).lower():
        unspaced = bool(UNSPACED.match(character))
        if unicodedata.category(character)[0] not in "LNM":
            going = False
        elif going and not unspaced:
            words[-1] += character
        else:
            words.append(character)
            going = not unspaced
    return words + [f"{a} {b}" for a, b in pairwise(words)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Köln Dom", ["köln", "dom", "köln dom"]),
        ("", []),
        (" .,- ", []),
        ("CATS cats", ["cats", "cats", "cats cats"]),
        ("ＡＢＣ１２", ["abc12"]),  # noqa: RUF001 - full width
        ("don't-stop", ["don", "t", "stop", "don t", "t stop"]),
        ("猫が好き", ["猫", "が", "好", "き", "猫 が", "が 好", "好 き"]),
        ("cat猫2024", ["cat", "猫", "2024", "cat 猫", "猫 2024"]),
        ("हिन्दी", ["हिन्दी"]),
        ("cafe\u0301", ["café"]),
    ],
)
def test_tokens_of_a_query(query: str, expected: list[str]) -> None:
    assert tokens(query) == expected


@given(st.lists(st.one_of(st.none(), st.text(ALPHABET, max_size=12)), max_size=6))
def test_tokens_of_many_queries_equal_those_of_each(queries: list[str | None]) -> None:
    found = tokenize(pl.Series(queries, dtype=pl.String))
    assert found.schema == {"at": pl.UInt32, "token": pl.String}
    assert found.rows() == [(at, token) for at, query in enumerate(queries) for token in oracle(query or "")]
    assert [token for query in queries if query is not None for token in tokens(query)] == found["token"].to_list()


# Characters this Python does not know yet may be letters or marks to a newer Unicode.
KNOWN = st.characters(exclude_categories=["Cs", "Cn"])


@given(st.text(KNOWN, max_size=20))
def test_tokens_are_normalised_and_words_contain_no_joint(query: str) -> None:
    found = tokens(query)
    words = [token for token in found if " " not in token]
    assert len(found) == max(0, 2 * len(words) - 1)
    assert found[len(words) :] == [f"{a} {b}" for a, b in pairwise(words)]
    assert all(word and not any(unicodedata.category(c)[0] in "PSZC" for c in word) for word in words)
