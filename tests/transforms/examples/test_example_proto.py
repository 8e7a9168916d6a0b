"""Our bytes against protobuf's own."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.tensorflow_import import import_tensorflow
from transforms.examples.example_proto import encode_examples

ROWS = st.lists(
    st.tuples(
        st.text(max_size=200),
        st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300), max_size=70),
        st.lists(st.floats(width=32, allow_nan=False), max_size=5),
        st.integers(0, 2**40),
    ),
    max_size=12,
)
SCHEMA = {"user_id": pl.String, "watches": pl.List(pl.Int64), "age": pl.List(pl.Float32), "a": pl.Int64}


def protobuf(row: tuple[str, list[int], list[float], int]) -> Any:
    train = import_tensorflow().train
    features = {
        "user_id": train.Feature(bytes_list=train.BytesList(value=[row[0].encode()])),
        "watches": train.Feature(int64_list=train.Int64List(value=row[1])),
        "age": train.Feature(float_list=train.FloatList(value=row[2])),
        "a": train.Feature(int64_list=train.Int64List(value=[row[3]])),
    }
    return train.Example(features=train.Features(feature=features))


@given(ROWS)
def test_the_bytes_mean_what_protobufs_own_do(rows: list[tuple[str, list[int], list[float], int]]) -> None:
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    encoded = list(encode_examples(frame))
    wanted = [protobuf(row) for row in rows]
    assert [type(example).FromString(ours) for ours, example in zip(encoded, wanted, strict=True)] == wanted
    assert [len(ours) for ours in encoded] == [example.ByteSize() for example in wanted]  # nothing twice, nothing odd
    assert list(encode_examples(frame.select(sorted(SCHEMA)))) == encoded


NAMES = st.lists(st.text(min_size=1, max_size=40) | st.text(min_size=100, max_size=400), max_size=4, unique=True)


@settings(max_examples=50)
@given(NAMES, st.integers(0, 3))
def test_names_of_any_length_are_those_of_protobuf(names: list[str], rows: int) -> None:
    """A name of 128 bytes or more has a length of two bytes or more."""
    names += ["n" * 127, "n" * 128, "ü" * 8_192]
    train = import_tensorflow().train
    columns = {name: [[i, n] for i in range(rows)] for n, name in enumerate(names)}
    wanted = []
    for i in range(rows):
        features = {name: train.Feature(int64_list=train.Int64List(value=lists[i])) for name, lists in columns.items()}
        wanted.append(train.Example(features=train.Features(feature=features)))
    encoded = list(encode_examples(pl.DataFrame(columns, schema=dict.fromkeys(names, pl.List(pl.Int64)))))
    assert [train.Example.FromString(example) for example in encoded] == wanted
    assert [len(example) for example in encoded] == [example.ByteSize() for example in wanted]


def test_columns_of_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="column x must hold strings, Int64 or Float32, but holds Boolean"):
        list(encode_examples(pl.DataFrame({"x": [True]})))
