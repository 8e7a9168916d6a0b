"""`tf.train.Example`s from a frame, whole columns at a time, in numpy.

A serialized Example is a nesting of lengths and values; all lengths follow from the columns, so every byte's place is
known before one is written. Features stand in the order of their names, so equal frames give equal bytes: tfx-bsl's
encoder draws the order anew at every call.
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
_KIND = {pl.Binary: 0x0A, pl.Float32: 0x12, pl.Int64: 0x1A}  # of a Feature: bytes_list, float_list, int64_list


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Serialized Examples: `data` holds the one of each row from `starts` [rows] on, `lengths` [rows] bytes long."""

    data: Bytes
    starts: Ints
    lengths: Ints

    def __iter__(self) -> Iterator[bytes]:
        whole = self.data.tobytes()
        ends = (self.starts + self.lengths).tolist()
        return (whole[start:end] for start, end in zip(self.starts.tolist(), ends, strict=True))


def encode_examples(frame: pl.DataFrame, *, before: int = 0, after: int = 0) -> Encoded:
    """One serialized Example a row. Columns: String, Int64 or Float32, or lists of Int64 or Float32, without nulls.

    `before` and `after` each of them so many bytes are left 0, for a frame around it. Raises TypeError for a column of
    another type.
    """
    features = [_Feature.of(name, frame[name]) for name in sorted(frame.columns)]
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
    """One column: the flat values, which are whose, and the lengths of the messages around them, each [rows]."""

    key: bytes  # of the map's entry, with its tag and length: the name
    kind: int
    values: NDArray[np.uint64] | NDArray[np.uint32] | Bytes
    sizes: Ints  # bytes of each value; of each byte of a text, 1
    counts: Ints  # values of each row
    packed: Ints  # bytes of a row's values
    inner: Ints  # of the list's message
    feature: Ints  # of the Feature's message
    entry: Ints  # of the map's entry

    @classmethod
    def of(cls, name: str, column: pl.Series) -> _Feature:
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
        """Write the entry of each row at `at` [rows]; the places behind them."""
        at = _put_varints(out, _put_byte(out, at, _FIRST), self.entry)
        for byte in (*self.key, _SECOND):
            at = _put_byte(out, at, byte)
        at = _put_varints(out, at, self.feature)
        at = _put_varints(out, _put_byte(out, at, self.kind), self.inner)
        some = self.inner > 0
        at[some] = _put_varints(out, _put_byte(out, at[some], _FIRST), self.packed[some])
        within = np.cumsum(self.sizes) - self.sizes  # of each value, from the column's first
        first = np.cumsum(self.packed) - self.packed
        _put_values(out, within + np.repeat(at - first, self.counts), self.values, self.sizes)
        return at + self.packed


def _key(name: str) -> bytes:
    """The field of an entry that holds a feature's name."""
    length = np.array([len(name.encode())])
    varint = np.zeros(_varint_sizes(length).item(), np.uint8)
    _put_varints(varint, np.zeros(1, np.int64), length)
    return bytes([_FIRST, *varint]) + name.encode()


def _flat(column: pl.Series) -> tuple[pl.Series, Ints]:
    """A column's values end to end, texts as bytes, and how many each row has."""
    if isinstance(column.dtype, pl.List):
        return column.explode(empty_as_null=False, keep_nulls=False), column.list.len().to_numpy().astype(np.int64)
    flat = column.cast(pl.Binary) if column.dtype == pl.String else column
    return flat, np.ones(column.len(), np.int64)


def _values(flat: pl.Series, counts: Ints) -> tuple[NDArray[np.uint64] | NDArray[np.uint32] | Bytes, Ints, Ints]:
    """(values as unsigned integers, bytes of each, bytes of each row's); a text is one value a byte, so `counts`
    changes."""
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
    """How many bytes each value takes, 7 bits a byte."""
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
    """Write each value at its place: 64-bit ones as varints, 32-bit ones as little-endian words, bytes as they are."""
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
