"""Keys and values of lists in Redis, and loading of files into a real server."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st
from redis_server import Server
from redis_server import server as server

from transforms.core.records import Counts
from transforms.sinks import SinkError, redis_lists
from transforms.sinks.redis_lists import (
    Keys,
    LoadRedis,
    RedisPart,
    RedisVersion,
    decode_list,
    encode_lists,
    encode_vectors,
)
from transforms.sinks.redis_server import RedisServer

IDS = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1, max_size=12)
SCHEMA = {"user_id": pl.String(), "video_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)}


def rows(lists: list[list[tuple[str, float]]]) -> pl.DataFrame:
    given_rows = [(f"u{n}", [i for i, _ in one], [s for _, s in one]) for n, one in enumerate(lists)]
    return pl.DataFrame(given_rows, SCHEMA, orient="row")


@given(st.lists(st.lists(st.tuples(IDS, st.floats(width=32, allow_nan=False)), max_size=5), max_size=4))
def test_lists_round_trip(lists: list[list[tuple[str, float]]]) -> None:
    ids = [[i for i, _ in one] for one in lists]
    assert [decode_list(value) for value in encode_lists(rows(lists))] == [(one, None) for one in ids]
    decoded = [decode_list(value) for value in encode_lists(rows(lists), scores=True)]
    assert decoded == [([i for i, _ in one], [s for _, s in one]) for one in lists]


def test_format_matches_the_documentation() -> None:
    value, empty = encode_lists(rows([[("9v", 2.5), ("ü", -1.0)], []]))
    assert zlib.decompress(value) == "9v\nü".encode() and zlib.decompress(empty) == b""
    value, empty = encode_lists(rows([[("9v", 2.5), ("ü", -1.0)], []]), scores=True)
    assert zlib.decompress(value) == "9v\nü\n\n".encode() + struct.pack("<ff", 2.5, -1.0)
    assert zlib.decompress(empty) == b"\n\n" and redis_lists.FORMAT_VERSION == 1


def test_ids_with_the_separator_are_refused() -> None:
    lists = rows([[("v", 1.0)], [("w", 2.0), ("two\nlines", 1.0)]])
    with pytest.raises(SinkError, match=r"a video id contains a line break, .* in Redis: 'two\\nlines'"):
        encode_lists(lists)


def test_vectors_are_little_endian_floats() -> None:
    vectors = pl.Series([[1.5, -2.0], [], [3.0, 4.0]], dtype=pl.List(pl.Float32))
    assert encode_vectors(vectors) == [struct.pack("<ff", 1.5, -2.0), b"", struct.pack("<ff", 3.0, 4.0)]
    assert encode_vectors(vectors.clear()) == []


@given(st.text(max_size=12), st.text(max_size=12))
def test_keys_are_distinct_for_all_user_ids(user: str, other: str) -> None:
    keys, version = Keys("watchnext"), "2026-11-21-0a1b2c3d"
    names = [
        keys.list_key(version, user),
        keys.default_key(version, other),
        f"{keys.key_prefix('vectors', version)}{other}",
    ]
    assert len({*names, keys.pointer, keys.register}) == 5
    assert names[0] == f"watchnext:2026-11-21-0a1b2c3d:{user}"


def version_in(server: Server, *, scores: bool = False) -> RedisVersion:
    return RedisVersion(
        server=RedisServer(url=server.url, retry_seconds=0.2), keys=Keys("w"), version="2026-11-21-aa", scores=scores
    )


def test_files_are_loaded_and_counted(server: Server, tmp_path: Path) -> None:
    users = redis_lists.BLOCK_ROWS + 7  # more than a command takes
    ids = pl.Series(range(users)).cast(pl.String)
    lists = pl.DataFrame({"user_id": ids, "video_ids": [[f"v{n}", "w"] for n in ids]})
    lists.write_parquet(tmp_path / "a.parquet")
    vectors = pl.DataFrame({"user_id": ["7"], "vector": [[1.5, 1.0]]})
    vectors.write_parquet(tmp_path / "b.parquet")
    defaults = pl.DataFrame({"country": [None, "SE"], "video_ids": [["d"], []]})
    defaults.write_parquet(tmp_path / "c.parquet")
    parts = [
        RedisPart(kind="lists", path=str(tmp_path / "a.parquet")),
        RedisPart(kind="vectors", path=str(tmp_path / "b.parquet")),
        RedisPart(kind="defaults", path=str(tmp_path / "c.parquet")),
    ]
    version = version_in(server)
    with beam.Pipeline("FnApiRunner") as pipeline:
        found = pipeline | beam.Create(parts) | LoadRedis(version, 2)
        assert_that(found, equal_to([Counts({"lists": users}), Counts({"vectors": 1}), Counts({"defaults": 2})]))
    there = server.contents()
    assert len(there) == users + 3
    assert decode_list(there["w:2026-11-21-aa:1006"]) == (["v1006", "w"], None)
    assert decode_list(there["w:2026-11-21-aa.default:"]) == (["d"], None)
    assert decode_list(there["w:2026-11-21-aa.default:SE"]) == ([], None)
    assert np.frombuffer(there["w:2026-11-21-aa.vector:7"], "<f4").tolist() == [1.5, 1.0]
    with version.server.session() as redis:
        assert [version.missing(redis, part) for part in parts] == [0, 0, 0]
        redis_lists.remove(redis, ["w:2026-11-21-aa:3", "w:2026-11-21-aa:1006", "w:none"])
        assert [version.missing(redis, part) for part in parts] == [2, 0, 0]
        redis.do("SET", "w:2026-11-22-bb:1", "another night")
        redis_lists.expire_version(redis, version.keys, version.version, 100)
        assert {server.client.ttl(name) for name in there if name[-4:] not in (":3", "1006")} <= {99, 100, -2}
        assert server.client.ttl("w:2026-11-22-bb:1") == -1
        redis_lists.remove_version(redis, version.keys, version.version)
    assert list(server.contents()) == ["w:2026-11-22-bb:1"]
