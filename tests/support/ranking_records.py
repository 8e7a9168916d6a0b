"""Small records of `transforms.contracts.ranking_spec` for tests, and records with a planted pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from trainer_records import write_file

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf
from transforms.ranking.encoding import DrawNumbers, write_numbers_graph

SPEC = RankingSpec(
    videos=20,
    channels=4,
    tokens=9,
    watch_history=5,
    search_history=3,
    categories={"country": ["DE", "FR"], "video_language": ["de", "fr", "sv"]},
    numbers=["score", "video_seconds", "age", "seconds_since_video"],
)
BARE = RankingSpec(videos=20, watch_history=3)  # logs with no optional columns


def record(user_id: str, lists: Mapping[str, Sequence[float]], spec: RankingSpec = SPEC) -> bytes:
    features = {"user_id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[user_id.encode()]))}
    for name, values in lists.items():
        if name in (*spec.numbers, "watch_seconds", "impression_weight"):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value) for value in values]))
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def random_user(draw: np.random.Generator, spec: RankingSpec = SPEC) -> dict[str, Any]:
    """Return the lists of one record with up to eight impressions."""
    count, watches = int(draw.integers(0, 9)), int(draw.integers(0, 12))
    clicked = draw.integers(0, 2, count)
    lists: dict[str, Any] = {
        "watches": draw.integers(0, spec.videos + 1, watches),
        "watches_end": np.sort(draw.integers(0, watches + 1, count)),
        "video": draw.integers(0, spec.videos + 1, count),
        "clicked": clicked,
        "watch_seconds": clicked * draw.integers(1, 300, count),
        "page": np.sort(draw.integers(0, 3, count)),
        "impression_day": np.sort(draw.integers(20_000, 20_004, count)),
        "impression_weight": np.where(clicked == 1, 1.0, 2.0),
        "record_night": [20_004],
    }
    if spec.channels:
        lists["channel"] = draw.integers(0, spec.channels + 1, count)
    if spec.tokens:
        tokens = int(draw.integers(0, 7))
        lists["tokens"] = draw.integers(1, spec.tokens + 1, tokens)
        lists["tokens_end"] = np.sort(draw.integers(0, tokens + 1, count))
    lists |= {name: draw.integers(0, len(values) + 1, count) for name, values in spec.categories.items()}
    return lists | {name: np.where(draw.random(count) < 0.3, np.nan, draw.normal(size=count)) for name in spec.numbers}


def random_records(count: int, *, seed: int, spec: RankingSpec = SPEC) -> list[bytes]:
    draw = np.random.default_rng(seed)
    return [record(f"user {i}", random_user(draw, spec), spec) for i in range(count)]


def score_decides(users: int, *, seed: int, spec: RankingSpec = SPEC) -> list[bytes]:
    """Return records with a planted pattern: videos with higher scores have more clicks and longer watches."""
    draw, records = np.random.default_rng(seed), []
    for user in range(users):
        lists = random_user(draw, spec)
        score = draw.normal(size=len(lists["video"]))
        clicked = draw.random(len(score)) < 1 / (1 + np.exp(-3 * score))
        seconds = np.where(clicked, np.rint(30 * np.exp(score)) + 1, 0)
        labels = {"score": score, "clicked": clicked.astype(int), "watch_seconds": seconds}
        records.append(record(f"user {user}", lists | labels, spec))
    return records


def write_graph(folder: Path, spec: RankingSpec = SPEC, *, rows: int = 400) -> str:
    """Write the TFT graph for normally distributed numbers and return the folder of its SavedModel."""
    draw = np.random.default_rng(7)
    ids = {"user_id": [f"u{i}" for i in range(rows)], "video_id": ["v"] * rows}
    numbers = {name: draw.normal(size=rows) for name in spec.numbers}
    times = pl.Series("time", range(rows)).cast(pl.Datetime("ms", "UTC"))
    draw = DrawNumbers(spec=spec, seed=1, folder=str(folder), name="numbers.parquet", zone="UTC")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([pl.DataFrame(ids | numbers).with_columns(times)]) | draw
    drawn, here = pl.read_parquet(folder / "numbers.parquet"), beam.Pipeline(runner="FnApiRunner")
    write_numbers_graph(drawn, str(folder / "fn"), spec=spec, pipeline=here)
    return str(folder / "fn" / "transform_fn")


def write_records(folder: Path, records: Sequence[bytes], *, files: int = 3) -> tuple[str, ...]:
    return tuple(write_file(folder / f"{i:02}.tfrecord.gz", records[i::files]) for i in range(files))
