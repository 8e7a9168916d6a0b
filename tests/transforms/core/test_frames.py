"""Frames as Beam elements: the coder, the buckets of the contract, and shuffles that keep every row."""

from __future__ import annotations

import datetime as dt
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from transforms.core.digests import MAX_BUCKETS, bucket_of, check_buckets, concat, id_digests, mix
from transforms.core.frames import (
    FrameCoder,
    GatherFrames,
    GroupFrames,
    KeyedFrame,
    PartitionByBucket,
    partition_by_bucket,
)

IDS = st.text(min_size=1, max_size=12)
MASK = 2**64 - 1


def xxh64(data: bytes) -> int:
    """Return XXH64 (seed 0) of less than 32 bytes, implemented from the published specification."""
    p1, p2, p3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    p4, p5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5

    def left(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & MASK

    h, at = (p5 + len(data)) & MASK, 0
    while at + 8 <= len(data):
        lane = int.from_bytes(data[at : at + 8], "little")
        h, at = (left(h ^ left(lane * p2 & MASK, 31) * p1 & MASK, 27) * p1 + p4) & MASK, at + 8
    if at + 4 <= len(data):
        lane = int.from_bytes(data[at : at + 4], "little")
        h, at = (left(h ^ lane * p1 & MASK, 23) * p2 + p3) & MASK, at + 4
    for byte in data[at:]:
        h = left(h ^ byte * p5 & MASK, 11) * p1 & MASK
    h = (h ^ h >> 33) * p2 & MASK
    h = (h ^ h >> 29) * p3 & MASK
    return h ^ h >> 32


def test_digests_match_the_contract() -> None:
    vectors = {
        "": 0xEF46DB3751D8E999,
        "a": 0xD24EC4F1A98C6E5B,
        "abc": 0x44BC2CF5AD770999,
        "user-1": 11633770265628666856,
        "42": 7919287270473417401,
        "Zoë": 6304431168280109521,
        "用户": 17240601526171878282,
        "😀": 10386911163046198144,
    }
    assert id_digests(pl.Series(list(vectors))).to_list() == list(vectors.values())
    assert [xxh64(text.encode()) for text in vectors] == list(vectors.values())
    assert [bucket_of(text, 16) for text in vectors] == [9, 11, 9, 8, 9, 1, 10, 0]
    assert bucket_of("user-1", 4096) == 11633770265628666856 % 4096


@given(st.lists(st.text(max_size=7), max_size=20))
def test_digests_of_any_ids_are_xxh64(ids: list[str]) -> None:
    digests = id_digests(pl.Series(ids, dtype=pl.String))
    assert digests.dtype == pl.UInt64
    assert digests.to_list() == [xxh64(text.encode()) for text in ids]


@given(st.lists(IDS, max_size=40), st.sampled_from([8, 16, 4096]))
def test_partition_puts_each_row_into_the_bucket_of_its_user_in_order(ids: list[str], buckets: int) -> None:
    frame = pl.DataFrame({"user_id": pl.Series(ids, dtype=pl.String), "at": range(len(ids))})
    parts = list(partition_by_bucket(frame, buckets=buckets))
    oracle: dict[int, list[tuple[str, int]]] = {}
    for at, user in enumerate(ids):
        oracle.setdefault(bucket_of(user, buckets), []).append((user, at))
    assert {bucket: part.rows() for bucket, part in parts} == oracle
    assert len(parts) == len(oracle)
    assert all(part.columns == ["user_id", "at"] for _, part in parts)


@pytest.mark.parametrize("buckets", [0, -8, 4, 12, 100, MAX_BUCKETS * 2])
def test_bucket_count_must_be_a_power_of_two_in_range(buckets: int) -> None:
    with pytest.raises(ValueError, match=rf"power of two from 8 to 4,096, but is {buckets}$"):
        check_buckets(buckets)
    with pytest.raises(ValueError, match="power of two"):
        PartitionByBucket(buckets)


def test_mix_is_stable() -> None:
    assert mix(1, 2, np.array([3, 2**63, 5], np.uint64)).tolist() == [
        15020427595393229491,
        10811762429888141290,
        7702586659592502839,
    ]
    assert mix(0).tolist() == [0xE220A8397B1DCDAF]  # the first number of splitmix64 from state 0, as published
    assert mix(np.array([-1], np.int64)).tolist() == mix(2**64 - 1).tolist()


@given(st.lists(st.tuples(st.integers(0, MASK), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=9))
def test_mix_of_columns_equals_mix_of_each_row(rows: list[tuple[int, int]]) -> None:
    def one(*parts: int) -> int:
        state = 0
        for part in parts:
            z = ((state ^ part % 2**64) + 0x9E3779B97F4A7C15) & MASK
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
            z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
            state = z ^ z >> 31
        return state

    first, second = np.array([a for a, _ in rows], np.uint64), np.array([b for _, b in rows], np.int64)
    assert mix(7, first, second).tolist() == [one(7, a, b) for a, b in rows]


FRAMES = {
    "every type": pl.DataFrame(
        {
            "text": ["a", None, "ü"],
            "flag": [True, None, False],
            "time": pl.Series([dt.datetime(2024, 1, 1, 1, 2, 3, 4)] * 3, dtype=pl.Datetime("us", "UTC")),
            "day": [dt.date(2024, 1, 1), None, dt.date(1969, 1, 1)],
            "f32": pl.Series([1.5, None, float("inf")], dtype=pl.Float32),
            "i32": pl.Series([1, None, -1], dtype=pl.Int32),
            "i64": [2**62, None, -1],
            "u64": pl.Series([2**64 - 1, None, 0], dtype=pl.UInt64),
            "texts": [["a", None], [], None],
            "ids": pl.Series([[1], [], None], dtype=pl.List(pl.Int64)),
            "floats": pl.Series([[1.0], [], None], dtype=pl.List(pl.Float32)),
        }
    ),
    "no row": pl.DataFrame(schema={"user_id": pl.String, "ids": pl.List(pl.Int64)}),
    "no column": pl.DataFrame(),
    "a slice": pl.DataFrame({"a": range(10)}).slice(3, 4),
    "pieces": pl.concat([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2]})], rechunk=False),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_coder_round_trip(frame: pl.DataFrame) -> None:
    back = FrameCoder().decode(FrameCoder().encode(frame))
    assert back.schema == frame.schema
    assert back.equals(frame)


def test_coder_is_registered_and_refuses_other_types() -> None:
    assert isinstance(beam.coders.registry.get_coder(pl.DataFrame), FrameCoder)
    assert not FrameCoder().is_deterministic()
    other: Any = {"a": [1]}
    with pytest.raises(TypeError, match="must be a polars DataFrame, but is dict"):
        FrameCoder().encode(other)


def test_concat_keeps_the_order() -> None:
    assert concat([pl.DataFrame({"a": [3]}), pl.DataFrame({"a": [1, 2]})])["a"].to_list() == [3, 1, 2]


def test_grouped_frames_contain_all_rows_of_their_key() -> None:
    frames = [pl.DataFrame({"user_id": [f"u{i}", "hot"], "n": [i, -i]}) for i in range(20)]

    def check(grouped: list[KeyedFrame]) -> None:
        keys = [bucket for bucket, _ in grouped]
        assert len(keys) == len(set(keys))
        rows = [(bucket, *row) for bucket, frame in grouped for row in frame.rows()]
        assert sorted(rows) == sorted((bucket_of(u, 8), u, n) for f in frames for u, n in f.rows())

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        grouped = pipeline | beam.Create(frames) | PartitionByBucket(8) | GroupFrames()
        assert isinstance(beam.coders.registry.get_coder(grouped.element_type).coders()[1], FrameCoder)
        assert_that(grouped, check)


def test_elements_not_typed_as_key_and_frame_are_refused() -> None:
    def untyped(frame: Any) -> Any:
        return 0, frame

    for make in (beam.Map(untyped), beam.Map(lambda frame: frame).with_output_types(pl.DataFrame)):
        pipeline = beam.Pipeline(runner="FnApiRunner")
        frames = pipeline | beam.Create([pl.DataFrame({"a": [1]})]) | make
        with pytest.raises(TypeError, match=r"elements of type \(key, frame\)"):
            frames | GroupFrames()


def test_gathered_frames_become_one_and_an_empty_collection_stays_empty() -> None:
    frames = [pl.DataFrame({"a": [n, -n]}) for n in range(5)]
    (gathered,) = frames | GatherFrames()
    assert sorted(gathered["a"]) == sorted([*range(5), *(-n for n in range(5))])
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        none = pipeline | beam.Create([]).with_output_types(pl.DataFrame)
        assert_that(none | GatherFrames(), equal_to([]))
