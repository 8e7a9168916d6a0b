"""The encoder of examples, compared with protobuf."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.tensorflow_import import import_tensorflow
from transforms.examples.example_proto import encode_examples

LENGTHS = [0, 1, 127, 128, 16_383, 16_384]  # in bytes: a length takes another byte from 128 and from 16,384 on
NAMES = st.sampled_from(LENGTHS).map(lambda n: "n" * n) | st.text(max_size=40) | st.text(min_size=100, max_size=400)
INTEGERS = st.sampled_from([0, -1, 127, 128, 2**31, 2**63 - 1, -(2**63)]) | st.integers(-(2**63), 2**63 - 1)
FLOATS = st.sampled_from([0.0, -0.0, float("inf"), float("-inf"), 1e-45, 3.4028234663852886e38]) | st.floats(
    width=32, allow_nan=False
)
TEXTS = st.sampled_from(LENGTHS).map(lambda n: "t" * n) | st.text(max_size=40)
TYPES: dict[pl.DataType, st.SearchStrategy[Any]] = {
    pl.String(): TEXTS,
    pl.Int64(): INTEGERS,
    pl.Float32(): FLOATS,
    pl.List(pl.Int64): st.lists(INTEGERS, max_size=70),  # more than 127 bytes
    pl.List(pl.Float32): st.lists(FLOATS, max_size=4),
}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    height = draw(st.integers(0, 4))
    columns = []
    for name in names:
        kind = draw(st.sampled_from(list(TYPES)))
        values = draw(st.lists(TYPES[kind], min_size=height, max_size=height))
        columns.append(pl.Series(name, values, kind))
    return pl.DataFrame(columns)


def feature(value: Any, kind: pl.DataType) -> Any:
    train = import_tensorflow().train
    values = value if isinstance(kind, pl.List) else [value]
    inner = kind.inner if isinstance(kind, pl.List) else kind
    if inner == pl.String:
        return train.Feature(bytes_list=train.BytesList(value=[text.encode() for text in values]))
    if inner == pl.Int64:
        return train.Feature(int64_list=train.Int64List(value=values))
    return train.Feature(float_list=train.FloatList(value=values))


@settings(max_examples=fewer(200), deadline=None)
@given(frames(), st.integers(0, 3), st.integers(0, 3))
def test_any_frame_is_encoded_as_by_protobuf(frame: pl.DataFrame, before: int, after: int) -> None:
    """Names and texts of 0 to 16,384 bytes, empty lists and extreme values."""
    train = import_tensorflow().train
    expected = [
        train.Example(
            features=train.Features(feature={name: feature(row[name], kind) for name, kind in frame.schema.items()})
        )
        for row in frame.to_dicts()
    ]
    encoded = encode_examples(frame, before=before, after=after)
    messages = list(encoded)
    assert [train.Example.FromString(message) for message in messages] == expected
    assert [len(message) for message in messages] == [example.ByteSize() for example in expected]
    assert len(encoded.data) == sum(len(message) + before + after for message in messages)


@pytest.mark.parametrize("length", LENGTHS)
def test_names_of_every_length(length: int) -> None:
    train = import_tensorflow().train
    (message,) = encode_examples(pl.DataFrame({"n" * length: [[1, 2]]}))
    assert train.Example.FromString(message).features.feature["n" * length].int64_list.value == [1, 2]


def test_columns_of_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="column x must hold strings, Int64 or Float32, but holds Boolean"):
        list(encode_examples(pl.DataFrame({"x": [True]})))
