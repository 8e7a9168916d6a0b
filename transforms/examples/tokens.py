"""Search tokens: what of a query the model sees (paper, 3.3).

    tokens("Köln Dom") == ["köln", "dom", "köln dom"]

A query is brought to NFKC and lower case and cut into words: runs of letters, marks and digits of any script. Scripts
written without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar) have no words to cut: there, every character
is a word, so that their bigrams are the character pairs commonly used for search in them. Tokens are the words and the
pairs of neighbouring words, each as often as it occurs, words first.
"""

from __future__ import annotations

import polars as pl

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[{_UNSPACED}&&[\p{{L}}\p{{N}}]]\p{{M}}*|[\p{{L}}\p{{N}}\p{{M}}--[{_UNSPACED}]]+"
BIGRAM_JOINT = " "


def tokens(query: str) -> list[str]:
    """The tokens of one query; the same ones that training saw."""
    return tokenize(pl.Series([query]))["token"].to_list()


def tokenize(queries: pl.Series) -> pl.DataFrame:
    """Queries (string) -> (`at`: uint32 index of the query, `token`), by query, words first; none for a null query."""
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
