"""Frames as files of tf.train.Example, compared with TensorFlow's parser."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.tensorflow_import import import_tensorflow
from transforms.examples import tfrecords
from transforms.examples.tfrecords import read_tfrecords, write_tfrecords

KINDS = {"user_id": pl.String(), "watches": pl.List(pl.Int64), "age": pl.List(pl.Float32)}
ROWS = st.lists(
    st.tuples(
        st.text(max_size=5),
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
        st.lists(st.floats(width=32, allow_nan=False), max_size=3),
    ),
    max_size=8,
)


@settings(max_examples=fewer(30))
@given(ROWS, st.integers(1, 9))
def test_written_frames_are_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple], at_a_time: int) -> None:  # type: ignore[type-arg]
    folder = tmp_path_factory.mktemp("records")
    frame = pl.DataFrame(rows, schema=KINDS, orient="row")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfrecords, "_BATCH_ROWS", at_a_time)
        entry = write_tfrecords(frame, str(folder), "a.tfrecord.gz")
    assert (entry.name, entry.rows) == ("a.tfrecord.gz", frame.height)
    assert read_tfrecords(str(folder / "a.tfrecord.gz"), dict(KINDS)).equals(frame)


def test_tensorflow_reads_the_same_values(tmp_path: Path) -> None:
    tf = import_tensorflow()
    frame = pl.DataFrame({"user_id": ["ü", "b"], "watches": [[3, 1], []], "age": [0.5, -1.0]})
    frame = frame.cast({"age": pl.Float32})
    write_tfrecords(frame, str(tmp_path), "a")
    examples = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(tmp_path / "a"), "GZIP")]
    features = [example.features.feature for example in examples]
    assert [f["user_id"].bytes_list.value[0].decode() for f in features] == ["ü", "b"]
    assert [list(f["watches"].int64_list.value) for f in features] == [[3, 1], []]
    assert [list(f["age"].float_list.value) for f in features] == [[0.5], [-1.0]]


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    frame = pl.DataFrame({"b": [[1], [2]], "a": ["x", "y"], "c": [[3, 4], []], "d": [[], [5]]})
    orders = [frame, frame, frame.select("d", "a", "c", "b")]
    digests = {write_tfrecords(f, str(tmp_path), str(n)).digest for n, f in enumerate(orders)}
    assert len(digests) == 1
    assert gzip.decompress((tmp_path / "1").read_bytes())


def test_missing_features_are_empty(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["a"], "label": [[]]}, schema_overrides={"label": pl.List(pl.Int64)})
    write_tfrecords(frame, str(tmp_path), "a")
    kinds = {"user_id": pl.String(), "label": pl.List(pl.Int64), "tokens": pl.List(pl.Int64)}
    assert read_tfrecords(str(tmp_path / "a"), dict(kinds)).rows() == [("a", [], [])]
