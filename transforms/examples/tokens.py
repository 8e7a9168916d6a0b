"""Tokenize search queries to unigrams and bigrams (paper, 3.3).

    tokens("Köln Dom") == ["köln", "dom", "köln dom"]

A query is normalised to NFKC and lower case and split into words, which are runs of letters, marks and digits of any
script. In scripts written without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar) every character is a
word, so that bigrams are pairs of characters, which are common in search for these scripts. The tokens are the words,
followed by the pairs of adjacent words, with repetitions.
"""

from __future__ import annotations

import polars as pl

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[{_UNSPACED}&&[\p{{L}}\p{{N}}]]\p{{M}}*|[\p{{L}}\p{{N}}\p{{M}}--[{_UNSPACED}]]+"
BIGRAM_JOINT = " "


def tokens(query: str) -> list[str]:
    """Return the tokens of one query, as in training."""
    return tokenize(pl.Series([query]))["token"].to_list()


def tokenize(queries: pl.Series) -> pl.DataFrame:
    """Tokenize queries -> `at` (UInt32, index of the query) and `token`, in order of queries; none for a null query."""
    words = (
        pl.DataFrame({"words": queries.str.normalize("NFKC").str.to_lowercase().str.extract_all(_WORD)})
        .with_row_index("at")
        .explode("words", empty_as_null=False, keep_nulls=False)
        .rename({"words": "token"})
    )
    following = words.with_columns(next_at=pl.col("at").shift(-1), next_token=pl.col("token").shift(-1))
    pairs = following.filter(pl.col("at") == pl.col("next_at")).select(
        "at", token=pl.concat_str("token", pl.lit(BIGRAM_JOINT), "next_token")
    )
    return pl.concat([words, pairs]).sort("at", maintain_order=True)
