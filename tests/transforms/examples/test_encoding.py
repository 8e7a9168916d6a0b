"""TFT's graph: the analysed sample, and the encoding of frames."""

from __future__ import annotations

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from made_frames import hours, watch, watches_frame, write

from transforms.examples import encoding
from transforms.examples.encoding import (
    FeatureGraph,
    SampleTimes,
    example_ages,
    load_graph,
    merge_samples,
    sample_times,
    to_arrow,
    write_graph,
)
from transforms.logs.event_window import BucketFiles, Holdout, Window

NEWEST = hours(40 * 24)
CATEGORIES = {"country": ["SE", "DE"], "gender": ["f"], "signed_in": ["true", "false"]}
USERS = pl.DataFrame({"user_id": ["u0", "u1"], "gender": ["f", None], "country": ["DE", "DE"]})


def test_analysed_table_has_the_ages_of_completed_watches() -> None:
    rows = [watch("u0", 24, "v"), watch("u0", 0, "v", False), watch("u1", 12, "v")]
    frame = example_ages(sample_times(watches_frame(rows), seed=1), newest=hours(24))
    assert frame.schema == {"example_age": pl.Float32}
    assert frame.rows() == [(0.5,), (0.0,)]
    assert example_ages(merge_samples([]), newest=hours(24)).is_empty()


def test_stable_sample_of_many_rows_is_analysed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ANALYSED_ROWS", 100)
    watches = watches_frame([watch(f"u{i}", i, "v") for i in range(1_000)])
    one, shuffled, other = (
        example_ages(sample_times(rows, seed=seed), newest=NEWEST)["example_age"]
        for rows, seed in ((watches, 1), (watches.reverse(), 1), (watches, 2))
    )
    assert one.len() == other.len() == 100
    assert one.equals(shuffled)
    assert not one.equals(other)
    ages = (NEWEST - hours(i) for i in range(1_000))
    assert set(one) <= {float(np.float32(age.total_seconds() / 86_400)) for age in ages}
    mean = 40 - np.mean(range(1_000)) / 24
    assert abs(one.mean() - mean) < 4  # type: ignore[operator]


def test_dates_are_sampled_in_proportion_to_their_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer days have more watches; the sample contains all 30 days in proportion."""
    monkeypatch.setattr(encoding, "ANALYSED_ROWS", 2_000)
    rows = [watch(f"u{i}", 24 * day, f"v{i % 7}") for day in range(30) for i in range(20 * (day + 1))]
    watches = watches_frame(rows)
    drawn = sample_times(watches, seed=1)
    assert drawn.height == 2_000
    for day in range(30):
        before = (watches["time"] <= hours(24 * day)).mean()
        assert (drawn["time"] <= hours(24 * day)).mean() == pytest.approx(before, abs=0.03)


def test_sample_does_not_depend_on_the_split_and_merge_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ANALYSED_ROWS", 100)
    rows = watches_frame([watch(f"u{i % 7}", i // 2, "v") for i in range(900)])  # each time twice
    parts = [sample_times(rows[start : start + 150], seed=1) for start in range(0, 900, 150)]
    whole = example_ages(sample_times(rows, seed=1), newest=NEWEST)
    tree = merge_samples([merge_samples(parts[3:]), merge_samples([parts[2]]), *parts[:2]])
    for merged in (merge_samples(parts), tree):
        assert example_ages(merged, newest=NEWEST).equals(whole)


def test_arrow_columns_are_lists_of_one_value() -> None:
    batch = to_arrow(pl.DataFrame({"example_age": pl.Series([1.5, 2], dtype=pl.Float32), "country": ["ü", ""]}))
    assert batch.to_pydict() == {"example_age": [[1.5], [2.0]], "country": [["ü".encode()], [b""]]}
    assert to_arrow(pl.DataFrame(schema={"example_age": pl.Float32})).num_rows == 0


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A graph from two buckets with watches, one of them without users, and one without watches."""
    folder = tmp_path_factory.mktemp("graph")
    rows = [watch(f"u{i % 3}", 960 - i**1.7 % 900, "v", country="SE" if i % 3 else "DE") for i in range(200)]
    paths = [write(watches_frame(part), folder / f"{n}.parquet") for n, part in enumerate((rows[:150], rows[150:]))]
    buckets = [
        BucketFiles(bucket=0, watches=(paths[0],), users=(write(USERS, folder / "users"),)),
        BucketFiles(bucket=1, watches=(paths[1],)),
        BucketFiles(bucket=2),
    ]
    window = Window(start=hours(0), end=hours(1000))
    draw = SampleTimes(window, Holdout(start=window.end, share=0.5, seed=1), 1, str(folder), "times")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(buckets) | draw
    times, graph = pl.read_parquet(folder / "times"), str(folder / "transform_fn")
    assert times.height == 200
    write_graph(times, graph, newest=NEWEST, categories=CATEGORIES, pipeline=beam.Pipeline(runner="FnApiRunner"))
    return graph


def pointers(ages: list[float], countries: list[str | None]) -> pl.DataFrame:
    rows = len(ages)
    rest = {"gender": ["f"] * rows, "signed_in": [None] * rows, "user_id": [f"u{i}" for i in range(rows)]}
    kinds = {"example_age": pl.Float32, "country": pl.String, "signed_in": pl.String}
    return pl.DataFrame({"example_age": ages, "country": countries, **rest}, schema_overrides=kinds)


def test_ages_become_quantiles_and_categories_ids(graph: str) -> None:
    ages = np.linspace(-1, 60, 300).tolist()
    countries = ["SE", "DE", "FR", "", None, "se"] * 50
    encoded = load_graph(graph).encode(pointers(ages, countries), categories=list(CATEGORIES))
    quantiles = encoded["example_age"].to_numpy()
    assert (np.diff(quantiles) >= 0).all()
    assert (quantiles[0], quantiles[-1]) == (0, 1)
    data = np.array([40 - (960 - i**1.7 % 900) / 24 for i in range(200)])
    for age, quantile in zip(ages, quantiles, strict=True):
        assert abs(quantile - (data <= age).mean()) < 0.03
    assert encoded["country"].to_list() == [1, 2, 0, 0, 0, 0] * 50
    assert set(encoded["gender"]) == {1}
    assert set(encoded["signed_in"]) == {0}
    assert encoded["user_id"].to_list() == [f"u{i}" for i in range(300)]


def test_frames_are_encoded_as_by_tft(graph: str) -> None:
    import tensorflow as tf
    import tensorflow_transform as tft

    ages, countries = [0.0, 3.25, 17.0, 37.5], ["DE", "SE", "", "XX"]
    raw = {name: tf.constant(["f"] * 4 if name == "gender" else [""] * 4) for name in CATEGORIES}
    raw |= {"example_age": tf.constant(ages), "country": tf.constant(countries)}
    theirs = tft.TFTransformOutput(graph).transform_raw_features(raw)
    ours = load_graph(graph).encode(pointers(ages, list(countries)), categories=list(CATEGORIES))
    assert {name: ours[name].to_list() for name in theirs} == {n: v.numpy().ravel().tolist() for n, v in theirs.items()}


def test_no_pointers(graph: str) -> None:
    empty = FeatureGraph(graph).encode(pointers([], []), categories=list(CATEGORIES))
    assert empty.is_empty()
    assert empty.schema["country"] == pl.Int64
