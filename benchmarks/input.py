"""Measure the input alone: batches of labels with windows from record files, compared with reading and parsing only.

    python -m benchmarks.input [--users 20000] [--history 50] [--passes 3] [--sequences] [--cache]

Writes records as stage examples does: up to 20 labels per user, watches by a power law. Both ways are timed in turn in
one process, so that their ratio holds on a busy machine; so does the rate per second of processor time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trainer.inputs import epoch_batches, record_features
from trainer.record_files import RecordFiles
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf
from transforms.examples.tfrecords import write_tfrecords

VIDEOS, TOKENS, FILES, BATCH, ROUNDS = 1_000_000, 1_000_000, 16, 1024, 3


def spec_of(history: int) -> FeatureSpec:
    """Return a spec with all the features that the simulated logs have."""
    categories = {"country": [f"c{i}" for i in range(40)], "device": ["phone", "tv", "desktop"]}
    return FeatureSpec(
        videos=VIDEOS,
        tokens=TOKENS,
        watch_history=history,
        search_history=history,
        categories=categories,
        numbers=["age"],
    )


def make_records(users: int, spec: FeatureSpec, rng: np.random.Generator) -> pl.DataFrame:
    """Return one row per user: 5 to 20 labels in a history of about a hundred watches and as many tokens."""
    labels = rng.integers(5, 21, users)
    sizes = {name: labels + rng.poisson(90, users) for name in ("watches", "tokens")}
    columns = {"user_id": pl.Series([f"user-{i}" for i in range(users)])}
    for name, top in (("watches", VIDEOS), ("tokens", TOKENS)):
        ids = 1 + (top * rng.random(sizes[name].sum()) ** 3).astype(np.int64)
        columns[name] = lists(ids, sizes[name])
        ends = rng.random(labels.sum()) * np.repeat(sizes[name], labels)
        owner = np.repeat(np.arange(users), labels)
        columns[f"{name}_end"] = lists(ends.astype(np.int64)[np.lexsort((ends, owner))], labels)
    columns["label"] = lists(1 + (VIDEOS * rng.random(labels.sum()) ** 3).astype(np.int64), labels)
    columns["example_age"] = lists(rng.random(labels.sum(), np.float32), labels)
    columns["label_days"] = lists(rng.integers(0, 28, labels.sum()), labels)
    columns["age"] = lists(rng.random(labels.sum(), np.float32), labels)
    for name, values in spec.categories.items():
        columns[name] = lists(rng.integers(0, len(values) + 1, labels.sum()), labels)
    return pl.DataFrame(columns)


def lists(values: NDArray[Any], sizes: NDArray[np.int64]) -> pl.Series:
    """Split concatenated values into one list per row."""
    rows = pl.DataFrame({"row": np.repeat(np.arange(len(sizes)), sizes), "value": values})
    return rows.group_by("row", maintain_order=True).agg("value")["value"]


def plain_batches(files: list[str], spec: FeatureSpec) -> tf.data.Dataset:
    """Parse the records of all files, 1,024 at a time, without windows and shuffling."""
    features = {"user_id": tf.io.FixedLenFeature([], tf.string), **record_features(spec)}
    paths = tf.data.Dataset.from_tensor_slices(files)
    records = paths.interleave(lambda f: tf.data.TFRecordDataset(f, "GZIP"), cycle_length=4, num_parallel_calls=2)
    return records.batch(BATCH).map(lambda r: tf.io.parse_example(r, features), num_parallel_calls=2).prefetch(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--sequences", action="store_true", help="stretches, as the attention encoder reads them")
    parser.add_argument("--cache", action="store_true", help="records kept in memory")
    args = parser.parse_args()
    spec, rng = spec_of(args.history), np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(args.users, spec, rng)
        labels = int(records["label"].list.len().sum())
        paths = write_files(records, folder)
        files = RecordFiles.from_paths(paths, cache_bytes=2**40 if args.cache else 0)
        options = {"batch_size": BATCH, "seed": 1, "sequences": args.sequences}
        # One dataset for all passes, so that read-ahead between passes is counted too.
        whole = epoch_batches(files, spec, epochs=range(args.passes), **options)
        plain = plain_batches(paths, spec).repeat(args.passes)
        rounds = [[seconds(batches) for batches in (whole, plain)] for _ in range(ROUNDS)]
    for name, times in zip(("input", "plain parsing"), zip(*rounds, strict=True), strict=True):
        wall, processor = (labels * args.passes / min(of) for of in zip(*times, strict=True))
        print(f"{name}: {wall:,.0f} examples/s at best, {processor:,.0f} a second of processor time")
    share = min(times[1][0] for times in rounds) / min(times[0][0] for times in rounds)
    print(f"input: {share:.2f} of plain parsing ({labels:,} labels a pass, {args.passes} passes, {ROUNDS} rounds)")


def write_files(records: pl.DataFrame, folder: str) -> list[str]:
    """Write the records to `FILES` files and return their paths."""
    parts = enumerate(records.iter_slices(-(-records.height // FILES)))
    return [f"{folder}/{write_tfrecords(part, folder, f'{number:02}.tfrecord.gz').name}" for number, part in parts]


def seconds(batches: tf.data.Dataset) -> tuple[float, float]:
    """Return the wall time of reading all batches, and the processor time on all cores."""
    began, spent = time.perf_counter(), time.process_time()
    for _ in batches:
        pass
    return time.perf_counter() - began, time.process_time() - spent


if __name__ == "__main__":
    main()
