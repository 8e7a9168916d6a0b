"""Normalise ids that are text, in the same way for all formats and tables.

Surrounding white space is stripped. Whole numbers become integers ("2.0" and "2.00" become "2"); leading zeros stay.
Empty ids and the words that databases and pandas write for null become null. Ids with control characters are reported,
so that readers reject them: two such ids may look the same.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

NULL_WORDS = (
    *("", "\\N", "nan", "NaN", "NAN", "null", "NULL", "Null", "(null)", "none", "None", "NONE"),
    *("NA", "N/A", "n/a", "<NA>", "#N/A", "undefined"),
)
_MAX_WORD_LENGTH = max(map(len, NULL_WORDS))
_FIRST_LETTERS = np.isin(np.arange(256), [ord(word[0]) for word in NULL_WORDS if word])
_WHOLE = r"^(-?\d+)\.0+$"
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]"


def read_ids(values: pl.Series) -> tuple[pl.Series, pl.Series | None]:
    """Return normalised ids (null if missing), and a mask of those with control characters, None if there are none."""
    codes, offsets = _text(values)
    if not len(codes):
        return values.replace("", None), None
    lowest, highest = int(codes.min()), int(codes.max())
    if lowest >= ord("0") and highest <= ord("9"):  # only digits, which is common
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
    has_control = values.str.contains(_CONTROL).fill_null(False)
    return values, has_control if has_control.any() else None


def clean_ids(values: pl.Series) -> pl.Series:
    """Return normalised ids; null if an id is missing or has control characters."""
    ids, has_control = read_ids(values)
    return ids if has_control is None else ids.set(has_control, None)


def clean_id(text: str) -> str | None:
    """Return one normalised id; None if it is missing or has control characters."""
    cleaned: str | None = clean_ids(pl.Series([text], dtype=pl.String))[0]
    return cleaned


def has_byte(values: pl.Series, byte: str) -> bool:
    """Return whether an ASCII character occurs anywhere in a column of text."""
    return bool((_text(values)[0] == ord(byte)).any())


def _without_null_words(values: pl.Series, codes: NDArray[np.uint8], offsets: NDArray[np.int64]) -> pl.Series:
    """Replace null words with null. The lengths and first letters of values show that most columns have none."""
    first = codes[np.minimum(offsets[:-1], len(codes) - 1)] if len(codes) else np.zeros(len(values), np.uint8)
    lengths = np.diff(offsets)
    if not ((lengths <= _MAX_WORD_LENGTH) & (_FIRST_LETTERS[first] | (lengths == 0))).any():
        return values
    is_null = values.is_in(NULL_WORDS)
    return values.set(is_null, None) if is_null.any() else values


def _text(values: pl.Series) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 bytes of all values as one array, and the offsets in it of each value and of the end."""
    array = values.rechunk().to_arrow()
    _, starts, data = array.buffers()
    if data is None or not len(array):
        return np.empty(0, np.uint8), np.zeros(len(array) + 1, np.int64)
    offsets = np.frombuffer(starts, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]
