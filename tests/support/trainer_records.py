"""Small example files for the trainer's tests, in the format of `transforms.contracts.example_spec`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

SPEC = FeatureSpec(
    videos=30, tokens=12, watch_history=5, search_history=4, categories={"country": ["DE", "FR", "SE"]}, numbers=["age"]
)


def record(user_id: str, **lists: Sequence[int] | Sequence[float]) -> bytes:
    """Return a serialized record; `example_age` and `age` are float features, all others int64."""
    features = {"user_id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[user_id.encode()]))}
    for name, values in lists.items():
        if name in ("example_age", "age"):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def random_user(draw: np.random.Generator, spec: FeatureSpec = SPEC, *, pointers: int | None = None) -> dict[str, Any]:
    """Return the lists of one record with `pointers` pointers, or with up to six."""
    watches = draw.integers(0, spec.videos + 1, draw.integers(0, 15)).tolist()
    tokens = draw.integers(1, spec.tokens + 1, draw.integers(0, 9)).tolist() if spec.tokens else []
    count = int(draw.integers(0, 7)) if pointers is None else pointers
    lists: dict[str, Any] = {
        "watches": watches,
        "label": draw.integers(1, spec.videos + 1, count).tolist(),
        "watches_end": draw.integers(0, len(watches) + 1, count).tolist(),
        "example_age": draw.random(count).astype(np.float32).tolist(),
        "label_days": list(range(count)),
    }
    if spec.holdout_days is not None:
        lists["as_of_days"] = [day + 1 for day in lists["label_days"]]
    if spec.tokens:
        lists |= {"tokens": tokens, "tokens_end": draw.integers(0, len(tokens) + 1, count).tolist()}
    lists |= {name: draw.integers(0, len(values) + 1, count).tolist() for name, values in spec.categories.items()}
    return lists | {name: draw.choice([-1.0, 0.25, 0.5], count).tolist() for name in spec.numbers}


def write_file(path: Path, records: Sequence[bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for each in records:
            writer.write(each)
    return str(path)


def write_folder(
    folder: Path,
    *,
    train: Mapping[str, Sequence[bytes]],
    holdout: Mapping[str, Sequence[bytes]],
    spec: FeatureSpec = SPEC,
) -> str:
    """Write a complete examples folder; `train` and `holdout` are records by file name. Id 1 is the most frequent."""
    paths = ["spec.json", "label_counts.parquet", "search_tokens.parquet"]
    for split, files in (("train", train), ("holdout", holdout)):
        for name, records in files.items():
            write_file(folder / split / f"{name}.tfrecord.gz", records)
            paths.append(f"{split}/{name}.tfrecord.gz")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(spec.to_json(), encoding="utf-8")
    ids = list(range(1, spec.videos + 1))
    names = [f"video {i}" for i in ids]
    counts = pa.table({"id": ids, "video_id": names, "count": [spec.videos - i for i in range(spec.videos)]})
    pq.write_table(counts, folder / "label_counts.parquet")
    tokens = [f"token {i}" for i in range(1, spec.tokens + 1)]
    pq.write_table(pa.table({"token": tokens, "count": [1] * spec.tokens}), folder / "search_tokens.parquet")
    (folder / "COMPLETED").write_text(json.dumps({"files": [{"name": path} for path in paths]}), encoding="utf-8")
    return str(folder)


def random_records(count: int, *, seed: int, spec: FeatureSpec = SPEC, pointers: int | None = None) -> list[bytes]:
    draw = np.random.default_rng(seed)
    return [record(f"user {i}", **random_user(draw, spec, pointers=pointers)) for i in range(count)]


def following_records(users: int, *, seed: int, videos: int, watches: int, holdout: bool = False) -> list[bytes]:
    """Return records with a planted pattern: the next video has the next id, or in one case of five any id.

    Training records have a label for each watch but the first; holdout records ask for the follower of the last.
    """
    draw = np.random.default_rng(seed)
    records = []
    for user in range(users):
        ids = [int(draw.integers(1, videos + 1))]
        for _ in range(watches - 1):
            ids.append(int(draw.integers(1, videos + 1)) if draw.random() < 0.2 else ids[-1] % videos + 1)
        ends = [watches] if holdout else list(range(1, watches))
        labels = [ids[-1] % videos + 1] if holdout else ids[1:]
        ages = [0.0] * len(ends)
        records.append(record(f"user {user}", watches=ids, label=labels, watches_end=ends, example_age=ages))
    return records


def small_examples(folder: Path) -> str:
    """Write an examples folder of 60 random training records and 20 held-out ones. Return its path."""
    train = {f"{i}": random_records(30, seed=i) for i in range(2)}
    return write_folder(folder, train=train, holdout={"h": random_records(20, seed=9, pointers=1)})


def following_examples(folder: Path) -> str:
    """Write an examples folder in which each video of 60 determines the next one. Return its path."""
    videos = 60
    return write_folder(
        folder,
        train={"a": following_records(250, seed=1, videos=videos, watches=15)},
        holdout={"h": following_records(60, seed=2, videos=videos, watches=5, holdout=True)},
        spec=FeatureSpec(videos=videos, tokens=0, watch_history=8, search_history=8),
    )
