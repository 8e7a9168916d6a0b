"""Encode the rows of a frame as `tf.train.Example` messages, column by column, in numpy.

A serialized Example consists of nested lengths and values. All lengths follow from the columns, so the position of each
byte is computed before any byte is written. Features are sorted by name, so equal frames give equal bytes; tfx-bsl's
encoder uses a random order in each call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_FIRST, _SECOND = 0x0A, 0x12  # tags of the length-delimited fields 1 and 2
_KIND = {pl.Binary: 0x0A, pl.Float32: 0x12, pl.Int64: 0x1A}  # tags in a Feature: bytes_list, float_list, int64_list


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Serialized Examples: that of row i is the `lengths[i]` bytes of `data` from `starts[i]` on."""

    data: Bytes
    starts: Ints
    lengths: Ints

    def __iter__(self) -> Iterator[bytes]:
        data = self.data.tobytes()
        ends = (self.starts + self.lengths).tolist()
        return (data[start:end] for start, end in zip(self.starts.tolist(), ends, strict=True))


def encode_examples(frame: pl.DataFrame, *, before: int = 0, after: int = 0) -> Encoded:
    """Encode each row as an Example. Columns: String, Int64 or Float32, or lists of Int64 or Float32, without nulls.

    before, after: the number of bytes to leave 0 before and after each Example, for framing. Raises TypeError for
    columns of other types.
    """
    features = [_Feature.from_column(name, frame[name]) for name in sorted(frame.columns)]
    lengths = np.sum([feature.entry + _varint_sizes(feature.entry) + 1 for feature in features], axis=0)
    totals = 1 + _varint_sizes(lengths) + lengths
    ends = np.cumsum(totals + before + after)
    starts = ends - after - totals
    out = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    at = _put_varints(out, _put_byte(out, starts, _FIRST), lengths)
    for feature in features:
        at = feature.write(out, at)
    return Encoded(data=out, starts=starts, lengths=totals)


@dataclass(frozen=True, kw_only=True)
class _Feature:
    """The values of one column, and the lengths in bytes of the messages around them, [rows] each."""

    key: bytes  # the key field of the map entry: tag, length and name
    kind: int
    values: NDArray[np.uint64] | NDArray[np.uint32] | Bytes
    sizes: Ints  # bytes of each value; 1 for each byte of a text
    counts: Ints  # values of each row
    packed: Ints  # length of a row's values
    inner: Ints  # length of the list message
    feature: Ints  # length of the Feature message
    entry: Ints  # length of the map entry

    @classmethod
    def from_column(cls, name: str, column: pl.Series) -> _Feature:
        flat, counts = _flat(column)
        kind = _KIND.get(type(flat.dtype))
        if kind is None:
            raise TypeError(f"column {name} must hold strings, Int64 or Float32, but holds {column.dtype}")
        values, sizes, packed = _values(flat, counts)
        inner = np.where((counts > 0) | (flat.dtype == pl.Binary), 1 + _varint_sizes(packed) + packed, 0)
        feature = 1 + _varint_sizes(inner) + inner
        key = _key(name)
        entry = len(key) + 1 + _varint_sizes(feature) + feature
        parts = {"packed": packed, "inner": inner, "feature": feature, "entry": entry}
        return cls(key=key, kind=kind, values=values, sizes=sizes, counts=counts, **parts)

    def write(self, out: Bytes, at: Ints) -> Ints:
        """Write the map entry of each row at positions `at` [rows], and return the positions after them."""
        at = _put_varints(out, _put_byte(out, at, _FIRST), self.entry)
        for byte in (*self.key, _SECOND):
            at = _put_byte(out, at, byte)
        at = _put_varints(out, at, self.feature)
        at = _put_varints(out, _put_byte(out, at, self.kind), self.inner)
        not_empty = self.inner > 0
        at[not_empty] = _put_varints(out, _put_byte(out, at[not_empty], _FIRST), self.packed[not_empty])
        offsets = np.cumsum(self.sizes) - self.sizes  # of each value, from the first of the column
        row_offsets = np.cumsum(self.packed) - self.packed
        _put_values(out, offsets + np.repeat(at - row_offsets, self.counts), self.values, self.sizes)
        return at + self.packed


def _key(name: str) -> bytes:
    """Return the key field of a map entry, which contains a feature's name."""
    length = np.array([len(name.encode())])
    varint = np.zeros(_varint_sizes(length).item(), np.uint8)
    _put_varints(varint, np.zeros(1, np.int64), length)
    return bytes([_FIRST, *varint]) + name.encode()


def _flat(column: pl.Series) -> tuple[pl.Series, Ints]:
    """Return the concatenated values of a column, texts as bytes, and the number of values of each row."""
    if isinstance(column.dtype, pl.List):
        return column.explode(empty_as_null=False, keep_nulls=False), column.list.len().to_numpy().astype(np.int64)
    flat = column.cast(pl.Binary) if column.dtype == pl.String else column
    return flat, np.ones(column.len(), np.int64)


def _values(flat: pl.Series, counts: Ints) -> tuple[NDArray[np.uint64] | NDArray[np.uint32] | Bytes, Ints, Ints]:
    """Return values as unsigned integers, the size of each in bytes, and the size of each row's values.

    A text consists of one value per byte, so `counts` is changed in place to the lengths of texts.
    """
    if flat.dtype == pl.Binary:
        lengths = flat.bin.size().to_numpy().astype(np.int64)
        text = np.frombuffer(b"".join(flat.to_list()), np.uint8)
        counts[:] = lengths
        return text, np.ones(len(text), np.int64), lengths
    numbers = flat.to_numpy()
    if flat.dtype == pl.Float32:
        return numbers.view(np.uint32), np.full(len(numbers), 4), 4 * counts
    values = numbers.astype(np.int64, copy=False).view(np.uint64)
    sizes = _varint_sizes(values)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    stops = np.cumsum(counts)
    return values, sizes, ends[stops] - ends[stops - counts]


def _varint_sizes(values: NDArray[np.int64] | NDArray[np.uint64]) -> Ints:
    """Return the size of each value as a varint, in bytes."""
    unsigned = values.view(np.uint64)
    sizes = np.ones(values.shape, np.int64)
    bits = 7
    while bits < 64 and (more := unsigned >= np.uint64(1 << bits)).any():
        sizes += more
        bits += 7
    return sizes


def _put_byte(out: Bytes, at: Ints, byte: int) -> Ints:
    out[at] = byte
    return at + 1


def _put_varints(out: Bytes, at: Ints, values: Ints) -> Ints:
    sizes = _varint_sizes(values)
    _put_values(out, at, values.view(np.uint64), sizes)
    return at + sizes


def _put_values(out: Bytes, at: Ints, values: NDArray[np.uint64] | NDArray[np.uint32] | Bytes, sizes: Ints) -> None:
    """Write values at their positions: uint64 as varints, uint32 as little-endian words, bytes unchanged."""
    if values.dtype == np.uint8:
        out[at] = values
    elif values.dtype == np.uint32:
        for byte, part in enumerate(values.view(np.uint8).reshape(-1, 4).T):
            out[at + byte] = part
    else:
        for byte in range(int(sizes.max(initial=0))):
            if byte:
                longer = sizes > byte
                at, values, sizes = at[longer], values[longer], sizes[longer]
            bits = (values >> np.uint64(7 * byte)) & np.uint64(0x7F)
            out[at + byte] = bits + np.uint64(0x80) * (sizes > byte + 1)
