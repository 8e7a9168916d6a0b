"""Measure users per second of stage neighbours, from serving records to Parquet, next to exact search and ScaNN alone.

    python -m benchmarks.neighbours OUT [--videos 1000000] [--dimension 256] [--users 65536] [--k 200]

Builds and tunes an index of generated videos. A separate process then runs `WriteNeighbours` on the embedded runner, as
the stage does: records of 50 watches and 50 tokens, a tower of the paper's size (layers 1024-512-256 over the mean of
each), the search, the exclusion of watched videos, lists and user vectors written. Vectors of videos and users are
drawn around common centres, so that users have near videos. The tower is computed in full, but its output, multiplied
by a variable that is zero, is added to the user's generated vector. In turn with the stage run exact search, a batch at
a time, and ScaNN alone at the depth of an average user.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl

from benchmarks.search import draw, rate
from transforms.core.digests import id_digests
from transforms.examples.tfrecords import write_tfrecords
from transforms.logs.event_window import BucketFiles, Window
from transforms.logs.schemas import WATCH_SCHEMA
from transforms.search.exact_search import ExactIndex, Floats
from transforms.search.exclusions import Excluded
from transforms.search.index_files import POSITIONS, SAMPLED_USERS, VIDEOS, read_index
from transforms.search.neighbours import WriteNeighbours
from transforms.search.scann_index import ScannIndex
from transforms.search.top_k import Index, build_index, save_index, top_k
from transforms.search.tower import BATCH, load_tower
from transforms.search.user_limits import BucketRecords, SearchInputs

END = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
DAYS, HISTORY, HIDDEN = 28, 50, (1024, 512)
HEAVY, HEAVY_WATCHES = 1_000, 5_000  # every HEAVY-th user has watched that many videos
RECALL_QUERIES, EXACT_QUERIES = 1_024, 256


@dataclass(frozen=True)
class Made:
    """The generated data in OUT."""

    folder: Path
    videos: int
    dimension: int
    users: int
    k: int
    buckets: int

    @property
    def inputs(self) -> SearchInputs:
        window = Window(start=END - dt.timedelta(days=DAYS), end=END)
        index, videos = (str(self.folder / name) for name in ("candidates", VIDEOS))
        tower = str(self.folder / "tower")
        return SearchInputs(
            tower=tower,
            index=(index,),
            videos=videos,
            k=self.k,
            exclude="watched",
            watched_window=window,
            window=window,
        )

    @property
    def bucket_records(self) -> list[BucketRecords]:
        found = []
        for bucket in range(self.buckets):
            watches = str(self.folder / f"watches-{bucket}.parquet")
            files = BucketFiles(bucket=bucket, watches=(watches,))
            records = str(self.folder / f"serving-{bucket}.tfrecord.gz")
            found.append(BucketRecords(files=files, records=records, watched=(watches,)))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--users", type=int, default=65_536)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--buckets", type=int, default=8)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--part", choices=["tower", "stage"], help="run by the benchmark itself")
    args = parser.parse_args()
    made = Made(args.out, args.videos, args.dimension, args.users, args.k, args.buckets)
    if args.part:
        {"tower": write_tower, "stage": measure_stage}[args.part](made)
        return
    args.out.mkdir(parents=True)
    prepare(made, args.recall)
    for part in ("tower", "stage"):  # separate processes, so that each has its own memory peak
        subprocess.run([sys.executable, "-m", "benchmarks.neighbours", *sys.argv[1:], "--part", part], check=True)


def prepare(made: Made, recall: float) -> None:
    """Write index, records and watches to OUT; print how the index was built and its recall."""
    vectors, users = made_vectors(made)
    index = build_index(vectors, k=made.k, queries=users[:SAMPLED_USERS], recall=recall, exact_below=0)
    asked = users[-RECALL_QUERIES:]
    recalls = {k: recall_of(index, asked, k) for k in (100, made.k)}
    print(f"{made.videos:,} x {made.dimension}: {about(index.timings)}; {json.dumps(asdict(index.info))}")
    print("; ".join(f"recall@{k} of other users {found:.4f}" for k, found in recalls.items()), flush=True)
    folder = made.folder / "candidates"
    folder.mkdir()
    save_index(index, folder)
    np.save(folder / POSITIONS, np.arange(made.videos, dtype=np.int32))
    names = pl.Series(video_ids(made.videos))
    never = pl.lit(None, pl.Datetime("us", "UTC")).alias("upload_time")
    videos = pl.DataFrame({"video_id": names, "id": np.arange(1, made.videos + 1)}).with_columns(never)
    videos.write_parquet(made.folder / VIDEOS)
    np.save(made.folder / "users.npy", users)
    write_users(made, index, users, names)


def made_vectors(made: Made) -> tuple[Floats, Floats]:
    """Return [v; b] of the videos and [u; 1] of the users."""
    vectors, users = draw(made.videos, made.users, made.dimension)
    bias = np.random.default_rng(1).standard_normal((made.videos, 1), np.float32)
    return np.concatenate([vectors, bias], axis=1), np.concatenate([users, np.ones_like(users[:, :1])], axis=1)


def recall_of(index: Index, queries: Floats, k: int) -> float:
    true = ExactIndex(vectors=index.vectors).search(queries, k).positions
    found = index.search(queries, k).positions
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))


def video_ids(videos: int) -> list[str]:
    """Return ids of a common length, in rising order."""
    return [f"v{number:010d}" for number in range(videos)]


def user_ids(users: int) -> pl.Series:
    return pl.Series([f"u{number:09d}" for number in range(users)])


def write_users(made: Made, index: Index, users: Floats, names: pl.Series) -> None:
    """Write one record file and one file of watches per bucket: most users watched some of their nearest videos."""
    ids = user_ids(made.users)
    bucket = id_digests(ids).to_numpy() % made.buckets
    for number in range(made.buckets):
        rows = np.flatnonzero(bucket == number)
        rng = np.random.default_rng([number, 1])
        history = rng.integers(1, made.videos + 1, (2, len(rows), HISTORY))
        ends = pl.Series([[HISTORY]] * len(rows), dtype=pl.List(pl.Int64))
        lists = {
            name: pl.Series(of).cast(pl.List(pl.Int64)) for name, of in zip(("watches", "tokens"), history, strict=True)
        }
        ages = pl.Series([[0.0]] * len(rows), dtype=pl.List(pl.Float32))
        ends_of = {"watches_end": ends, "tokens_end": ends, "example_age": ages}
        records = pl.DataFrame({"user_id": ids.gather(rows), **lists, **ends_of})
        write_tfrecords(records, str(made.folder), f"serving-{number}.tfrecord.gz")
        pairs = list(watched(index, users[rows], rows, rng))
        watches = pl.DataFrame(
            {
                "user_id": ids.gather(np.concatenate([np.full(len(p), row) for row, p in pairs])),
                "video_id": names.gather(np.concatenate([p for _, p in pairs])),
            }
        )
        moments = END - pl.duration(minutes=pl.lit(pl.Series(rng.integers(1, DAYS * 1_440, watches.height))))
        watches = watches.with_columns(time=moments, completed=pl.lit(True))
        others = [pl.lit(None, kind).alias(name) for name, kind in WATCH_SCHEMA.items() if name not in watches.columns]
        watches.with_columns(others).select(WATCH_SCHEMA.names()).write_parquet(
            made.folder / f"watches-{number}.parquet"
        )


def watched(index: Index, vectors: Floats, rows: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[int, Any]]:
    """Yield (user, positions): the first of the nearest 200; a long tail of users has many, a few have very many."""
    counts = np.minimum(rng.geometric(4 / 200, len(rows)), 200)
    nearest = index.search(vectors, 200).positions
    for row, count, best in zip(rows.tolist(), counts.tolist(), nearest, strict=True):
        more = rng.integers(0, len(index.vectors), HEAVY_WATCHES) if row % HEAVY == 0 else best[:0]
        yield row, np.concatenate([best[:count], more])


def write_tower(made: Made) -> None:
    """Write a SavedModel that computes the paper's tower and returns the generated vector of each user."""
    from trainer.config import ModelSettings
    from trainer.export import ServedTower
    from trainer.model import UserTower
    from transforms.contracts.example_spec import FeatureSpec
    from transforms.core.tensorflow_import import tf

    spec = FeatureSpec(videos=made.videos, tokens=made.videos, watch_history=HISTORY, search_history=HISTORY)
    settings = ModelSettings(dimension=made.dimension, hidden=[*HIDDEN], history="mean")

    class MadeTower(ServedTower):
        def __init__(self) -> None:
            super().__init__(UserTower(spec, settings, seed=1))
            self.made = tf.Variable(np.load(made.folder / "users.npy"), trainable=False)
            self.nothing = tf.Variable(0.0, trainable=False)  # a constant zero would be optimised away

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
        def of_made_users(self, examples: Any) -> Any:
            found = self.from_examples(examples)
            rows = tf.strings.to_number(tf.strings.substr(found["user_id"], 1, 9), tf.int32)
            vector = tf.gather(self.made, rows) + self.nothing * found["vector"]
            return {**found, "vector": vector}

    tower = MadeTower()
    tf.saved_model.save(tower, str(made.folder / "tower"), signatures={"examples": tower.of_made_users})


def measure_stage(made: Made) -> None:
    """Print users per second of the stage and of the searches it is compared with, and the stage's memory."""
    users, inputs = np.load(made.folder / "users.npy"), made.inputs
    began = time.perf_counter()
    load_tower(inputs.tower)
    index = read_index(inputs.index[0])
    loaded = time.perf_counter() - began
    stage, bare = [], []
    depth = mean_depth(made)
    for _ in range(2):
        stage.append(run_stage(made))
        bare.append(bare_rate(index, users, depth))
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    exact, some = ExactIndex(vectors=index.vectors), users[:EXACT_QUERIES]
    nothing = Excluded.empty(len(some))
    exact_rate = rate(some, lambda: top_k(exact, some, k=made.k, excluded=nothing))
    held = sum(path.stat().st_size for path in (made.folder / "candidates").iterdir()) / 2**30
    print(
        f"stage: tower and index loaded in {loaded:.1f} s; {max(stage):,.0f} users/s top-{made.k}, records to Parquet"
    )
    print(f"ScaNN bare, top-{depth}: {max(bare):,.0f} queries/s; the stage is at {max(stage) / max(bare):.0%} of it")
    print(
        f"exact search, top-{made.k}: {exact_rate:,.0f} queries/s; the stage is {max(stage) / exact_rate:.1f} times it"
    )
    print(f"memory of the stage's process at the highest: {highest:.1f} GiB, index on disk {held:.1f} GiB", flush=True)


def mean_depth(made: Made) -> int:
    """Return the search depth of a user with an average history: k videos remain after the exclusions."""
    pairs = sum(pl.scan_parquet(bucket.watched[0]).select(pl.len()).collect().item() for bucket in made.bucket_records)
    return int(np.ceil(2 ** (np.ceil(4 * np.log2(made.k + pairs / made.users)) / 4)))


def run_stage(made: Made) -> float:
    """Run the stage and return users per second."""
    out = made.folder / "neighbours"
    began = time.perf_counter()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        buckets = pipeline | beam.Create(made.bucket_records)
        _ = buckets | WriteNeighbours(made.inputs, str(out), "{bucket:05d}.parquet", threads=2)
    seconds = time.perf_counter() - began
    lists = pl.scan_parquet(out / "*.parquet").select(pl.len(), pl.col("video_ids").list.len().min().alias("least"))
    assert lists.collect().row(0) == (made.users, made.k)
    return made.users / seconds


def bare_rate(index: Index, users: Floats, depth: int) -> float:
    """Return queries per second of ScaNN alone, in batches of the stage's size."""
    assert isinstance(index, ScannIndex)
    reorder, leaves = index.search_parameters(depth)
    began = time.perf_counter()
    for start in range(0, len(users), BATCH):
        index.searcher.search_batched_parallel(
            users[start : start + BATCH],
            final_num_neighbors=depth,
            pre_reorder_num_neighbors=reorder,
            leaves_to_search=leaves or None,
            batch_size=64,
        )
    return len(users) / (time.perf_counter() - began)


def about(timings: dict[str, float]) -> str:
    seconds = [f"{name.removesuffix('_seconds')} {timings[name]:.1f} s" for name in ("build_seconds", "tuning_seconds")]
    return ", ".join(seconds)


if __name__ == "__main__":
    main()
