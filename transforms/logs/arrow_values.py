"""Columns of Parquet in the few types that parsing reads, whatever Arrow type they have: strings, integers, floats,
decimals, booleans, and timestamps, dates and durations within years that calendars have.

Dictionaries and run ends are decoded, extension types are read as what they store, fixed offsets as the instants they
mean. Binary columns are text if they hold UTF-8, and UUIDs if they hold 16 bytes that are none. A type that cannot hold
what a column means is an error, found in the schema before a row is read.
"""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

_UUID_BYTES, _PRINTABLE = 16, "^(?:[2-6].|7[0-9a-e])*$"  # of hexadecimal digits: ASCII from 0x20 to 0x7e
_FIRST, _LAST = dt.datetime(1, 1, 2, tzinfo=dt.UTC), dt.datetime(9999, 12, 30, tzinfo=dt.UTC)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MOST_DIGITS = 38  # of a decimal that polars reads

# What our columns mean, if not text.
IDS = ("user_id", "video_id", "page_id")
TIMES = ("time", "upload_time")
SECONDS = ("watch_seconds", "video_seconds")
NUMBERS = ("birth_year",)
BOOLEANS = ("completed", "signed_in", "clicked", "available")


class ColumnTypeError(ValueError):
    """A column of a type that cannot hold what it means; the message does not name the file."""


def check_type(name: str, ours: str, kind: pa.DataType, *, lists: bool = False) -> None:
    """Raise ColumnTypeError if a column cannot be read as our column `ours`; `lists`: it may hold a list a row."""
    plain = _plain_type(kind)
    if lists and _is_list(plain):
        plain = _plain_type(plain.value_type)
    if pa.types.is_nested(plain):
        raise ColumnTypeError(f"the column {name!r} is nested ({kind}), but {ours} must be one value a row")
    allowed, wanted = _allowed(ours)
    if not (_is_text(plain) or pa.types.is_null(plain) or any(test(plain) for test in allowed)):
        raise ColumnTypeError(f"the column {name!r} is of type {kind}, but {ours} must be {wanted}")


def _allowed(ours: str) -> tuple[tuple[Any, ...], str]:
    """(tests of the types that a column may have besides text, what to say of them)."""
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if ours in IDS:
        return numbers, "a string, an integer or a UUID"
    if ours in TIMES:
        return (*numbers, pa.types.is_timestamp, pa.types.is_date), "a timestamp, a date, text or an epoch number"
    if ours in SECONDS:
        return (*numbers, pa.types.is_duration), "a number of seconds or a duration"
    if ours in NUMBERS:
        return numbers, "a number"
    if ours in BOOLEANS:
        return (*numbers, pa.types.is_boolean), "true or false, or 1 or 0"
    others = (pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp, pa.types.is_time)
    return (*numbers, *others), "text"


def _plain_type(kind: pa.DataType) -> pa.DataType:
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def _is_text(kind: pa.DataType) -> bool:
    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in strings) or _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests) and not pa.types.is_decimal(kind)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
    return any(test(kind) for test in (*tests, pa.types.is_large_list_view))


def plain_values(values: pa.Array, ours: str) -> pa.Array:
    """The values of a column that `check_type` let pass, in a type that parsing reads.

    Raises ColumnTypeError for binary that is neither text nor UUIDs.
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
    if _is_list(kind):
        return _plain_list(values, ours)
    if _is_binary(kind):
        return _text_of_binary(values, ours, is_uuid=is_uuid)
    if pa.types.is_string_view(kind):
        return values.cast(pa.large_string())
    if pa.types.is_decimal(kind):
        return _plain_decimal(values)
    if pa.types.is_float16(kind):
        return values.cast(pa.float32())
    return _within_calendar(values) if pa.types.is_temporal(kind) else values


def _plain_list(values: pa.Array, ours: str) -> pa.Array:
    """Lists of any kind as lists of text."""
    kind = values.type
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        values = values.cast(pa.large_list(kind.value_type))
    elif pa.types.is_fixed_size_list(kind):
        values = values.cast(pa.list_(kind.value_type))
    items = plain_values(values.flatten(), ours)
    if not _is_text(items.type):
        items = items.cast(pa.string())
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), items, mask=values.is_null())


def _text_of_binary(values: pa.Array, ours: str, *, is_uuid: bool) -> pa.Array:
    """Binary values as text, those of 16 bytes that are none as UUIDs in their canonical form.

    Printable ASCII is text: a UUID of RFC 9562 never is, for one of its bytes is from 128 to 191.
    """
    fixed = pa.types.is_fixed_size_binary(values.type) and values.type.byte_width == _UUID_BYTES
    values = values.cast(pa.large_binary())
    if not is_uuid and not fixed:
        with suppress(pa.ArrowInvalid):
            return values.cast(pa.large_string())
    given = pl.Series(ours, values)
    digits = given.bin.encode("hex")
    is_uuid_value = ((given.bin.size() == _UUID_BYTES) & (is_uuid | ~digits.str.contains(_PRINTABLE))).fill_null(False)
    try:
        texts = given.filter(~is_uuid_value).cast(pl.String)
    except pl.exceptions.PolarsError as error:
        wrong = f"the column {ours} is binary that is no text: write it as text, or as UUIDs of 16 bytes"
        raise ColumnTypeError(wrong) from error
    parts = [digits.str.slice(start, length) for start, length in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    uuids = pl.select(pl.concat_str(*parts, separator="-")).to_series()
    return uuids.scatter((~is_uuid_value).arg_true(), texts).to_arrow()


def _plain_decimal(values: pa.Array) -> pa.Array:
    kind = values.type
    if kind.scale < 0 or kind.precision > _MOST_DIGITS:
        texts = [None if value is None else f"{value:f}" for value in values.to_pylist()]
        return pa.array(texts, pa.large_string())
    return values.cast(pa.decimal128(_MOST_DIGITS, kind.scale))


def _within_calendar(values: pa.Array) -> pa.Array:
    """Timestamps in UTC or without a zone, and dates; what lies outside of the years 1 to 9999 is moved to their ends,
    for polars cannot hold it."""
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
    found = pc.min_max(numbers).as_py()
    if found["min"] is not None and (found["min"] < first or found["max"] > last):
        clipped = np.clip(numbers.fill_null(0).to_numpy(), first, last)
        numbers = pa.array(clipped, ticks, mask=numbers.is_null().to_numpy(zero_copy_only=False))
    return numbers.view(kind)
