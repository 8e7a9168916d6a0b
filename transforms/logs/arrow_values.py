"""Convert Parquet columns of any Arrow type to the types that parsing reads.

These are strings, integers, floats, decimals, booleans, durations, and timestamps and dates of the years 1 to 9999.
Dictionary and run-end encodings are decoded, extension types are replaced with their storage, and time zones with UTC.
Binary values are text if they are UTF-8, and UUIDs if they are 16 bytes that are not. A type that is invalid for its
column is an error, which is detected in the schema before rows are read.
"""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

_UUID_BYTES, _PRINTABLE = 16, "^(?:[2-6].|7[0-9a-e])*$"  # matches hexadecimal digits of ASCII from 0x20 to 0x7e
_FIRST, _LAST = dt.datetime(1, 1, 2, tzinfo=dt.UTC), dt.datetime(9999, 12, 30, tzinfo=dt.UTC)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MAX_DIGITS = 38  # of decimals in polars

# Predicates of Arrow types.
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, *_BINARIES)
_LISTS = (
    *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    *(pa.types.is_list_view, pa.types.is_large_list_view),
)
_NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)

# Our columns that are not text, by their meaning.
IDS = ("user_id", "video_id", "page_id")
TIMES = ("time", "upload_time")
SECONDS = ("watch_seconds", "video_seconds")
NUMBERS = ("birth_year", "position")
BOOLEANS = ("completed", "signed_in", "clicked", "available")

# The types that these columns may have apart from text, and a description for messages.
_ALLOWED = (
    (IDS, _NUMERIC, "a string, an integer or a UUID"),
    (TIMES, (*_NUMERIC, pa.types.is_timestamp, pa.types.is_date), "a timestamp, a date, text or an epoch number"),
    (SECONDS, (*_NUMERIC, pa.types.is_duration), "a number of seconds or a duration"),
    (NUMBERS, _NUMERIC, "a number"),
    (BOOLEANS, (*_NUMERIC, pa.types.is_boolean), "true or false, or 1 or 0"),
)
_OTHERS = (*_NUMERIC, pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp, pa.types.is_time)


class ColumnTypeError(ValueError):
    """A column has a type that is invalid for its meaning. The message does not name the file."""


def check_type(name: str, ours: str, kind: pa.DataType, *, lists: bool = False) -> None:
    """Raise ColumnTypeError if a column cannot be read as our column `ours`. `lists`: rows may contain lists."""
    plain = _plain_type(kind)
    if lists and _is_any(plain, _LISTS):
        plain = _plain_type(plain.value_type)
    if pa.types.is_nested(plain):
        raise ColumnTypeError(f"the column {name!r} is nested ({kind}), but {ours} must be one value per row")
    allowed, description = next((rule[1:] for rule in _ALLOWED if ours in rule[0]), (_OTHERS, "text"))
    if not _is_any(plain, (*_TEXTS, pa.types.is_null, *allowed)):
        raise ColumnTypeError(f"the column {name!r} has type {kind}, but {ours} must be {description}")


def _plain_type(kind: pa.DataType) -> pa.DataType:
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def _is_any(kind: pa.DataType, tests: tuple[Any, ...]) -> bool:
    return any(test(kind) for test in tests)


def plain_values(values: pa.Array, ours: str) -> pa.Array:
    """Convert the values of a column that passed `check_type` to a type that parsing reads.

    Raises ColumnTypeError if binary values are neither text nor UUIDs.
    """
    is_uuid = False
    while (kind := values.type) != _plain_type(kind):
        is_uuid |= getattr(kind, "extension_name", "") == "arrow.uuid"
        if isinstance(kind, pa.BaseExtensionType):
            values = values.storage
        elif pa.types.is_dictionary(kind):
            values = values.dictionary_decode()
        else:
            values = pc.run_end_decode(values)
    if _is_any(kind, _LISTS):
        return _plain_list(values, ours)
    if _is_any(kind, _BINARIES):
        return _text_of_binary(values, ours, is_uuid=is_uuid)
    if pa.types.is_string_view(kind):
        return values.cast(pa.large_string())
    if pa.types.is_decimal(kind):
        return _plain_decimal(values)
    if pa.types.is_float16(kind):
        return values.cast(pa.float32())
    return _clip_to_calendar(values) if pa.types.is_temporal(kind) else values


def _plain_list(values: pa.Array, ours: str) -> pa.Array:
    """Convert lists of any type to lists of text."""
    kind = values.type
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        values = values.cast(pa.large_list(kind.value_type))
    elif pa.types.is_fixed_size_list(kind):
        values = values.cast(pa.list_(kind.value_type))
    items = plain_values(values.flatten(), ours)
    if not _is_any(items.type, _TEXTS):
        items = items.cast(pa.string())
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), items, mask=values.is_null())


def _text_of_binary(values: pa.Array, ours: str, *, is_uuid: bool) -> pa.Array:
    """Decode binary values as UTF-8, and 16 bytes that are not printable ASCII as UUIDs in canonical form.

    A UUID according to RFC 9562 is never printable ASCII, as one of its bytes is between 128 and 191.
    """
    fixed = pa.types.is_fixed_size_binary(values.type) and values.type.byte_width == _UUID_BYTES
    values = values.cast(pa.large_binary())
    if not is_uuid and not fixed:
        with suppress(pa.ArrowInvalid):
            return values.cast(pa.large_string())
    binary = pl.Series(ours, values)
    digits = binary.bin.encode("hex")
    is_uuid_value = ((binary.bin.size() == _UUID_BYTES) & (is_uuid | ~digits.str.contains(_PRINTABLE))).fill_null(False)
    try:
        texts = binary.filter(~is_uuid_value).cast(pl.String)
    except pl.exceptions.PolarsError as error:
        message = f"the column {ours} is binary but not UTF-8 text: write it as text, or as UUIDs of 16 bytes"
        raise ColumnTypeError(message) from error
    parts = [digits.str.slice(start, length) for start, length in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    uuids = pl.select(pl.concat_str(*parts, separator="-")).to_series()
    return uuids.scatter((~is_uuid_value).arg_true(), texts).to_arrow()


def _plain_decimal(values: pa.Array) -> pa.Array:
    kind = values.type
    if kind.scale < 0 or kind.precision > _MAX_DIGITS:
        texts = [None if value is None else f"{value:f}" for value in values.to_pylist()]
        return pa.array(texts, pa.large_string())
    return values.cast(pa.decimal128(_MAX_DIGITS, kind.scale))


def _clip_to_calendar(values: pa.Array) -> pa.Array:
    """Clip timestamps (UTC or without zone) and dates to the years 1 to 9999, which polars can represent."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        ticks, per_second = pa.int64(), _PER_SECOND[kind.unit]
        kind = pa.timestamp(kind.unit, "UTC" if kind.tz else None)
    elif pa.types.is_date(kind):
        values = values.cast(pa.date32())
        kind, ticks, per_second = pa.date32(), pa.int32(), 1
    else:
        return values
    numbers = values.view(ticks)
    seconds = 86_400 if pa.types.is_date(kind) else 1
    first, last = (int(end.timestamp()) // seconds * per_second for end in (_FIRST, _LAST))
    first, last = max(first, -(2**63)), min(last, 2**63 - 1)
    extremes = pc.min_max(numbers).as_py()
    if extremes["min"] is not None and (extremes["min"] < first or extremes["max"] > last):
        clipped = np.clip(numbers.fill_null(0).to_numpy(), first, last)
        numbers = pa.array(clipped, ticks, mask=numbers.is_null().to_numpy(zero_copy_only=False))
    return numbers.view(kind)
