"""The record files of a bucket contain what the pure functions return."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pytest
from made_frames import hours, search, searches_frame, watch, watches_frame, write

from transforms.contracts.example_spec import MISSING, FeatureSpec
from transforms.core.files import FileEntry
from transforms.core.records import Counts, WriteRecords, add_counts, pop_records
from transforms.examples import draw_examples
from transforms.examples.draw_examples import LabelDraw
from transforms.examples.encoding import SampleTimes, load_graph, write_graph
from transforms.examples.histories import UserHistories
from transforms.examples.tfrecords import read_tfrecords
from transforms.examples.write_examples import (
    ExampleInputs,
    FeatureHistograms,
    WriteExamples,
    WriteLabelCounts,
    keep_features,
    load_vocabularies,
)
from transforms.logs.event_window import BucketFiles, Holdout, Window, read_users
from transforms.logs.schemas import SEARCH_SCHEMA, WATCH_SCHEMA

WINDOW = Window(start=hours(0), end=hours(72), max_events_per_day=15)
HOLDOUT = Holdout(start=hours(48), share=0.5, seed=1)
DRAW = LabelDraw(
    per_user=2,
    seed=1,
    holdout=HOLDOUT,
    newest=hours(71),
    end=hours(72),
    max_sequence=6,
    watch_history=3,
    search_history=3,
    withhold_last_search=True,
)
VIDEOS = [f"v{i}" for i in range(6)]
CATEGORIES = {"country": ["SE"], "gender": ["f"]}
SPEC = FeatureSpec(
    videos=6,
    tokens=1,
    watch_history=3,
    search_history=3,
    categories=CATEGORIES,
    numbers=["age"],
    holdout_days=2,
)
IDS = ("watches", "tokens", "label", "watches_end", "tokens_end", "label_days", "as_of_days", "country", "gender")
FEATURES: dict[str, Any] = {
    "user_id": pl.String(),
    **dict.fromkeys(IDS, pl.List(pl.Int64)),
    **dict.fromkeys(("example_age", "age"), pl.List(pl.Float32)),
}


@pytest.fixture(scope="module")
def bucket_files(tmp_path_factory: pytest.TempPathFactory) -> list[BucketFiles]:
    """Two buckets with users, the second without rows of the users table, and an empty one."""
    folder, found = tmp_path_factory.mktemp("window"), []
    users = pl.DataFrame({"user_id": ["user 0"], "gender": ["f"], "birth_year": pl.Series([1984], dtype=pl.Int32)})
    users_path = write(users, folder / "users")
    for bucket in range(2):
        names = [f"user {i}" for i in range(bucket * 8, bucket * 8 + 8)]
        watches = [
            watch(u, (i * 7 + n) % 72, f"v{(i + n) % 7}", i % 5 > 0, country="SE")
            for n, u in enumerate(names)
            for i in range(12)
        ]
        searches = [search(u, i * 9, "cats and dogs" if i else "birds") for u in names[::2] for i in range(8)]
        watches += [watch(names[0], 30 + i / 4, "v1", country="SE") for i in range(20)]  # a robot's day
        watches += [watch("robot", 50 + i / 4, "v1", country="SE") for i in range(20)]
        of_watches = write(watches_frame(watches), folder / f"w{bucket}")
        of_searches = write(searches_frame(searches), folder / f"s{bucket}")
        of_users = () if bucket else (users_path,)
        found.append(BucketFiles(bucket=bucket, watches=(of_watches,), searches=(of_searches,), users=of_users))
    return [*found, BucketFiles(bucket=2)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, bucket_files: list[BucketFiles]) -> ExampleInputs:
    folder = tmp_path_factory.mktemp("inputs")
    graph, here = str(folder / "graph"), beam.Pipeline(runner="FnApiRunner")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(bucket_files) | SampleTimes(WINDOW, HOLDOUT, 1, str(folder), "times")
    times = pl.read_parquet(folder / "times")
    write_graph(times, graph, newest=DRAW.newest, categories=dict(SPEC.categories), pipeline=here)
    videos = pl.DataFrame({"token": VIDEOS, "count": range(6, 0, -1)})
    tokens = pl.DataFrame({"token": ["cats"], "count": [1]})
    return ExampleInputs(
        videos=write(videos, folder / "videos"), search_tokens=write(tokens, folder / "tokens"), graph=graph
    )


def oracle(split: str, bucket: BucketFiles, inputs: ExampleInputs) -> pl.DataFrame:
    events = WINDOW.events(bucket)
    histories = UserHistories.from_events(
        events.watches, events.searches, read_users(bucket), load_vocabularies(inputs)
    )
    pointers = {
        "train": lambda: draw_examples.draw_labels(histories, DRAW).pointers,
        "holdout": lambda: draw_examples.holdout_pointers(histories, HOLDOUT, days=2),
        "serving": lambda: draw_examples.serving_pointers(histories, WINDOW.end),
    }[split]()
    encoded = load_graph(inputs.graph).encode(keep_features(pointers, SPEC), categories=list(SPEC.categories))
    if split != "train":
        encoded = encoded.with_columns(example_age=pl.lit(0.0, pl.Float32))
    return draw_examples.build_records(encoded, histories, max_sequence=DRAW.max_sequence)


def test_files_contain_the_records_of_each_bucket(
    bucket_files: list[BucketFiles], inputs: ExampleInputs, tmp_path: Path
) -> None:
    write_examples = WriteExamples(WINDOW, DRAW, SPEC, inputs, str(tmp_path), "{bucket}.gz")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        written = pipeline | beam.Create(bucket_files) | write_examples
        labels = written["label_counts"] | WriteLabelCounts(inputs.videos, str(tmp_path), "label_counts.parquet")
        (written["records"], labels) | beam.Flatten() | WriteRecords(str(tmp_path / "records"))
    found = pop_records(str(tmp_path / "records"), FileEntry, Counts, FeatureHistograms)
    names = {file.name: file.rows for file in found.of(FileEntry)}
    assert sorted(names) == sorted(
        ["label_counts.parquet", *(f"{s}/{b}.gz" for s in ("train", "holdout", "serving") for b in range(2))]
    )
    trained: Counter[int] = Counter()
    totals: Counter[str] = Counter()
    for name in sorted(set(names) - {"label_counts.parquet"}):
        split, bucket = name.removesuffix(".gz").split("/")
        expected = oracle(split, bucket_files[int(bucket)], inputs)
        rows = read_tfrecords(str(tmp_path / name), FEATURES)
        assert rows.equals(expected.select(rows.columns))
        assert rows.height == names[name] > 0
        pointers = rows["watches_end"].list.len().sum()
        totals.update({f"{split}_users": rows.height, f"{split}_pointers": pointers})
        if split == "train":
            trained.update(rows["label"].explode().to_list())
            assert set(rows["label_days"].explode()) >= {0, 1}
        else:
            assert set(rows["example_age"].explode()) == {0.0} and set(rows["label_days"].explode()) == {0}
            assert set(rows["watches_end"].list.len()) == {1}
        genders = dict(zip(rows["user_id"], rows["gender"].list.unique().to_list(), strict=True))
        assert genders == {user: [1 if user == "user 0" else 0] for user in genders}
        assert set(rows.filter(pl.col("user_id") != "user 0")["age"].explode()) == {MISSING}
    counts = add_counts(found.of(Counts))
    assert {name: counts[name] for name in totals} == totals
    check_account(bucket_files, counts)
    label_counts = pl.read_parquet(tmp_path / "label_counts.parquet")
    assert label_counts.rows() == [(at, video, trained[at]) for at, video in enumerate(VIDEOS, 1)]


def check_account(bucket_files: list[BucketFiles], counts: dict[str, int]) -> None:
    """Every event of the window is counted exactly once, as used or excluded."""
    watches = pl.concat([WINDOW.read_events(bucket.watches, WATCH_SCHEMA) for bucket in bucket_files])
    searches = pl.concat([WINDOW.read_events(bucket.searches, SEARCH_SCHEMA) for bucket in bucket_files])
    assert (counts["watches"], counts["searches"]) == (watches.height, searches.height)
    left_out = {name: n for name, n in counts.items() if name.startswith("watches_")}
    assert sum(left_out.values()) + counts["train_pointers"] == watches.height
    assert set(left_out) == {f"watches_{name}" for name in ("of_robots", *REASONS)} and min(left_out.values()) > 0
    kinds = {name: n for name, n in counts.items() if name.startswith("searches_")}
    assert sum(kinds.values()) == searches.height
    assert kinds["searches_without_tokens"] + kinds["searches_of_robots"] == searches.height - kinds["searches_used"]
    assert min(kinds.values()) > 0
    assert counts["robot_days"] == 4 and counts["watches_of_robots"] >= 80
    named = pl.col("user_id").cast(pl.String)  # each bucket's users are an Enum of their own
    kept = pl.concat([WINDOW.events(bucket).watches.with_columns(named) for bucket in bucket_files])
    kept = kept.filter("completed")
    cut = {
        user: [video in VIDEOS for video in videos]
        for user, videos in kept.group_by("user_id").agg("video_id").iter_rows()
    }
    assert counts["users_with_completed"] == len(cut)
    assert counts["users_with_out_of_vocabulary"] == sum(not all(known) for known in cut.values()) > 0
    assert counts["users_with_nothing_else"] == sum(not any(known) for known in cut.values())


REASONS = ("not_completed", "out_of_vocabulary", "held_out", "out_of_reach", "not_drawn")


def test_records_without_searches_have_no_tokens(
    bucket_files: list[BucketFiles], inputs: ExampleInputs, tmp_path: Path
) -> None:
    spec = FeatureSpec(videos=6, tokens=0, watch_history=3, search_history=3, categories=SPEC.categories, numbers=[])
    shared = ExampleInputs(videos=inputs.videos, search_tokens=None, graph=inputs.graph)
    files = BucketFiles(bucket=0, watches=bucket_files[0].watches)
    write_examples = WriteExamples(WINDOW, DRAW, spec, shared, str(tmp_path), "{bucket}.gz")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([files]) | write_examples
    with_tokens = {**FEATURES, "tokens_end": pl.List(pl.Int64)}
    rows = read_tfrecords(str(tmp_path / "train/0.gz"), with_tokens)
    assert set(rows["tokens"].list.len()) == set(rows["tokens_end"].list.len()) == set(rows["age"].list.len()) == {0}
    assert rows["watches"].list.len().sum() > 0
