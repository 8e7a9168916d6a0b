"""Ids as text: one rule for all formats and tables.

White space around an id is stripped; a whole number is its integer ("2.0" and "2.00" are "2"); what databases and
pandas write for null is null, and so is an empty id; leading zeros stay. Ids with control characters are refused by
whoever reads them: no screen shows them, so two ids look like one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

NULL_WORDS = (
    *("", "\\N", "nan", "NaN", "NAN", "null", "NULL", "Null", "(null)", "none", "None", "NONE"),
    *("NA", "N/A", "n/a", "<NA>", "#N/A", "undefined"),
)
_LONGEST_WORD = max(map(len, NULL_WORDS))
_FIRST_LETTERS = np.isin(np.arange(256), [ord(word[0]) for word in NULL_WORDS if word])
_WHOLE = r"^(-?\d+)\.0+$"
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]"


def read_ids(values: pl.Series) -> tuple[pl.Series, pl.Series | None]:
    """(ids as text in the one form in which ids are compared, null for none; which of them hold control characters).

    The second is None if no id does.
    """
    codes, offsets = _text(values)
    if not len(codes):
        return values.replace("", None), None
    lowest, highest = int(codes.min()), int(codes.max())
    if lowest >= ord("0") and highest <= ord("9"):  # numbers, as many logs have them
        return values.replace("", None) if (np.diff(offsets) == 0).any() else values, None
    if lowest <= ord(" ") or highest >= 0x7F:
        values = values.str.strip_chars()
        codes, offsets = _text(values)
    if lowest <= ord(".") and (codes == ord(".")).any():
        whole = values.str.extract(_WHOLE, 1).replace("-0", "0")
        values = whole.fill_null(values)
    values = _without_null_words(values, codes, offsets)
    if lowest >= ord(" ") and highest < 0x7F:
        return values, None
    hidden = values.str.contains(_CONTROL).fill_null(False)
    return values, hidden if hidden.any() else None


def clean_ids(values: pl.Series) -> pl.Series:
    """Ids as text in the one form in which ids are compared; null for none, and for one with control characters."""
    ids, hidden = read_ids(values)
    return ids if hidden is None else ids.set(hidden, None)


def clean_id(text: str) -> str | None:
    """One id in the form in which ids are compared; None if it is none."""
    found: str | None = clean_ids(pl.Series([text], dtype=pl.String))[0]
    return found


def has_byte(values: pl.Series, byte: str) -> bool:
    """Whether this character of ASCII occurs anywhere in a column of text."""
    return bool((_text(values)[0] == ord(byte)).any())


def _without_null_words(values: pl.Series, codes: Any, offsets: Any) -> pl.Series:
    """Null for each null word; most columns are done by the lengths and first letters of their values."""
    first = codes[np.minimum(offsets[:-1], len(codes) - 1)] if len(codes) else np.zeros(len(values), np.uint8)
    lengths = np.diff(offsets)
    if not ((lengths <= _LONGEST_WORD) & (_FIRST_LETTERS[first] | (lengths == 0))).any():
        return values
    is_null = values.is_in(NULL_WORDS)
    return values.set(is_null, None) if is_null.any() else values


def _text(values: pl.Series) -> tuple[Any, Any]:
    """(the bytes of all values of a column of text as one array, where in it each value starts and the last ends)."""
    array = values.rechunk().to_arrow()
    _, starts, data = array.buffers()
    if data is None or not len(array):
        return np.empty(0, np.uint8), np.zeros(len(array) + 1, np.int64)
    offsets = np.frombuffer(starts, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]
