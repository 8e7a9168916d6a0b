"""Records of impressions: ids, lists and labels as in `ranking_spec`, training and holdout in separate files."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from made_frames import hours, search, watch, write
from shown import CATALOGUE, USERS, events_of, impression

from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.files import FileEntry
from transforms.core.records import Counts, Records, WriteRecords, add_counts, pop_records
from transforms.examples.tfrecords import read_tfrecords
from transforms.logs.event_window import BucketFiles, Holdout, Window
from transforms.logs.parsing import CompletionRule
from transforms.ranking.features import POSITION, ImpressionContext
from transforms.ranking.outcomes import count_outcomes, file_name
from transforms.ranking.records import (
    RankingBucket,
    RankingInputs,
    WriteRankingExamples,
    _needed,
    category_ids,
    encode,
    read_shared,
    to_records,
)
from transforms.ranking.timelines import Span
from transforms.ranking.unclicked import sample_unclicked
from transforms.ranking.written import NOTHING, WrittenImpressions

SPEC = RankingSpec(
    videos=3,
    channels=1,
    tokens=2,
    watch_history=2,
    search_history=2,
    categories={"country": ["DE", "SE"], "hour": [str(n) for n in range(24)], "video_language": ["sv"]},
    numbers=["user_watches", "video_watches", "seconds_since_video", "age"],
    query=["country", "hour", "user_watches", "age"],
)
WATCHES = [
    watch("a", 1, "w", country="SE"),
    watch("a", 2, "far"),
    watch("a", 3, "v", country="DE"),
    watch("b", 1, "v", country="FR"),
]
SEARCHES = [search("a", 1, "cat"), search("a", 2, "rare"), search("a", 4, "dog"), search("b", 9, "dog")]
SHOWN = [
    impression("a", 2, "v", "p2", seconds=7.5),
    impression("a", 2, "x", "p1"),
    impression("a", 4, "w", "p2"),
    impression("a", 4, "y", "p3"),
    impression("b", 30, "w", "p1", seconds=2.0),
    impression("b", 3, "v", "p1"),
]
WINDOW = Window(start=hours(0), end=hours(48))
HOLDOUT = Holdout(start=hours(24), share=1.0, seed=1)
NIGHT = dt.date(2024, 3, 3)


def inputs_in(folder: Path, spec: RankingSpec = SPEC) -> RankingInputs:
    counted = {"videos": ["v", "w", "y"], "channels": ["c"], "tokens": ["cat", "dog"]}
    paths = {
        name: write(pl.DataFrame({"token": ids, "count": [1] * len(ids)}), folder / f"{name}.parquet")
        for name, ids in counted.items()
    }
    return RankingInputs(
        window=WINDOW,
        spec=spec,
        zone="UTC",
        catalogue=write(CATALOGUE, folder / "catalogue.parquet"),
        videos=paths["videos"],
        channels=paths["channels"],
        tokens=paths["tokens"],
    )


def bucket_in(folder: Path, shown: list[dict[str, Any]] = SHOWN) -> RankingBucket:
    events = events_of(WATCHES, SEARCHES, shown)
    return RankingBucket(
        files=BucketFiles(
            bucket=3,
            watches=(write(events.watches, folder / "w"),),
            searches=(write(events.searches, folder / "s"),),
            impressions=(write(events.impressions, folder / "i"),),
            users=(write(USERS, folder / "u"),),
        )
    )


EXPECTED = {  # of user a
    "clicked": [0, 1, 0, 0],
    "watch_seconds": [0.0, 7.5, 0.0, 0.0],
    "page": [0, 1, 1, 2],
    "impression_day": [19783] * 4,
    "impression_weight": [1.0] * 4,
    "record_night": [19785],
    "country": [2, 2, 2, 1],
    "hour": [3, 3, 3, 5],
    "user_watches": [1.0, 1.0, 1.0, 3.0],
    "age": [34.0] * 4,
    "watches_end": [1, 1, 1, 3],
    "tokens_end": [1, 1, 1, 1],
    "video": [0, 1, 2, 3],
    "channel": [0, 1, 1, 0],
    "video_language": [0, 1, 0, 0],
    "video_watches": [0.0, 0.0, 1.0, 0.0],
    "watches": [2, 0, 1],
    "tokens": [1],
}


def test_a_record_is_what_its_contract_says(tmp_path: Path) -> None:
    inputs, events = inputs_in(tmp_path), events_of(WATCHES, SEARCHES, SHOWN)
    shared, context = read_shared(inputs), ImpressionContext.from_events(events, USERS, CATALOGUE, [])
    features = context.features(sample_unclicked(events.impressions, share=1.0, seed=1), zone="UTC")
    encoded = encode(context, features, {}, shared, SPEC)
    found = to_records(encoded, SPEC, night=NIGHT, zone="UTC")
    assert found["user_id"].to_list() == ["a", "b"]
    row = found.row(0, named=True)
    since = row.pop("seconds_since_video")
    assert {name: value for name, value in row.items() if name != "user_id"} == EXPECTED
    assert np.isnan([since[0], since[1], since[3]]).all() and since[2] == 3600
    other = found.row(1, named=True)
    assert (other["country"], other["page"], other["impression_day"]) == ([0, 0], [0, 0], [19783, 19784])
    assert np.isnan(other["age"]).all() and other["tokens"] == [] and other["tokens_end"] == [0, 0]
    query = encoded.query_arrays(SPEC)
    assert query["watches"].tolist() == [[0, 2], [0, 1], [0, 1]]
    assert query["tokens"].tolist() == [[0, 1], [0, 1], [0, 0]]


def test_unknown_and_absent_values_are_missing() -> None:
    rows = pl.DataFrame({"country": ["SE", None, "FR", "DE"]})
    assert category_ids(rows, "country", SPEC).tolist() == [2, 0, 0, 1]
    assert category_ids(rows, "video_language", SPEC).tolist() == [0] * 4


@dataclass(frozen=True)
class Numbers:
    json: str


def written(
    folder: Path, shown: list[dict[str, Any]], spec: RankingSpec = SPEC, before: WrittenImpressions = NOTHING
) -> tuple[Records, list[str]]:
    """Return the records, and the frames of numbers as JSON. before: what earlier nights wrote."""
    write_all = WriteRankingExamples(
        inputs_in(folder, spec), HOLDOUT, str(folder), "{bucket:05d}.tfrecord.gz", written=before
    )
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create([bucket_in(folder, shown)]) | write_all
        found["records"] | WriteRecords(str(folder / "records"))
        found["numbers"] | beam.Map(lambda frame: Numbers(frame.write_json())) | "N" >> WriteRecords(str(folder / "n"))
    numbers = [record.json for record in pop_records(str(folder / "n"), Numbers).of(Numbers)]
    return pop_records(str(folder / "records"), FileEntry, Counts), numbers


def test_held_out_impressions_are_in_their_own_file(tmp_path: Path) -> None:
    found, numbers = written(tmp_path, SHOWN)
    assert add_counts(found.of(Counts)) == {
        "train_impressions": 5,
        "train_clicked": 1,
        "written_on_2024-03-01": 5,
        "holdout_impressions": 1,
        "holdout_clicked": 1,
    }
    entries = {file.name: file.rows for file in found.of(FileEntry)}
    assert entries == {"examples/train/00003.tfrecord.gz": 2, "examples/holdout/00003.tfrecord.gz": 1}
    kinds: dict[str, pl.DataType | type[pl.DataType]] = {
        "user_id": pl.String(),
        "video": pl.List(pl.Int64()),
        "watches_end": pl.List(pl.Int64()),
    }
    read = {
        split: read_tfrecords(f"{tmp_path}/examples/{split}/00003.tfrecord.gz", kinds) for split in ("train", "holdout")
    }
    assert read["train"].rows() == [("a", [0, 1, 2, 3], [1, 1, 1, 3]), ("b", [1], [1])]
    assert read["holdout"].rows() == [("b", [2], [1])]
    (frame,) = numbers
    numbers_frame = pl.read_json(frame.encode())
    assert numbers_frame.columns == ["user_id", "video_id", "time", *SPEC.numbers] and numbers_frame.height == 5
    assert numbers_frame["time"].cast(pl.String).str.contains("2024-03-01").all(), "no impression of the held-out day"


def test_the_position_is_read_in_training_and_1_otherwise(tmp_path: Path) -> None:
    spec = replace(SPEC, numbers=[*SPEC.numbers, POSITION])
    shown = [{**row, "position": 2 + number} for number, row in enumerate(SHOWN)]
    written(tmp_path, shown, spec)
    kinds: dict[str, pl.DataType | type[pl.DataType]] = {POSITION: pl.List(pl.Float32())}
    read = {
        split: read_tfrecords(f"{tmp_path}/examples/{split}/00003.tfrecord.gz", kinds)[POSITION].to_list()
        for split in ("train", "holdout")
    }
    assert read == {"train": [[3, 2, 4, 5], [7]], "holdout": [[1]]}
    inputs, events = inputs_in(tmp_path, spec), events_of(WATCHES, SEARCHES, shown)
    context = ImpressionContext.from_events(events, USERS, CATALOGUE, [])
    candidates = context.features(events.impressions.select("user_id", "video_id", "time"), zone="UTC")
    encoded = encode(context, candidates, {}, read_shared(inputs), spec)
    assert encoded.impressions[POSITION].tolist() == [1] * 6


def test_records_have_the_outcomes_of_earlier_days(tmp_path: Path) -> None:
    """User b's later impression is of the second day, user a's are of the first, which no counts precede."""
    spec = replace(SPEC, numbers=[*SPEC.numbers, "video_impressions", "video_click_rate"])
    shown = [*SHOWN, impression("b", 31, "v", "p9")]
    events = events_of(WATCHES, SEARCHES, shown)
    every_day = [hours(0).date(), hours(24).date()]
    rows = count_outcomes(events, USERS, CATALOGUE, days_counted=every_day, zone="UTC", rule=CompletionRule())
    counted = {day: part for (day,), part in rows.partition_by("day", as_dict=True, include_key=False).items()}
    paths = tuple(write(part, tmp_path / file_name(day)) for day, part in counted.items())
    inputs = replace(inputs_in(tmp_path, spec), outcomes=paths)
    context = ImpressionContext.from_events(events, USERS, CATALOGUE, [])
    every_row = sample_unclicked(events.impressions, share=1.0, seed=1)
    encoded = encode(context, context.features(every_row, zone="UTC"), {}, read_shared(inputs), spec)
    records = to_records(encoded, spec, night=NIGHT, zone="UTC")
    of_a, of_b = records["video_impressions"].to_list()
    assert np.isnan(of_a).all() and np.isnan(of_b[:2]).all() and of_b[2:] == [2]
    assert 0 < records["video_click_rate"].to_list()[1][2] < 1


def test_a_bucket_without_impressions_writes_no_file(tmp_path: Path) -> None:
    found, numbers = written(tmp_path, [])
    assert (len(found.of(Counts)), found.of(FileEntry), numbers) == (1, [], [])


def test_records_omit_features_that_the_spec_lacks(tmp_path: Path) -> None:
    spec = RankingSpec(videos=3, watch_history=2, numbers=[], query=[])
    inputs, events = inputs_in(tmp_path, spec), events_of(WATCHES, SEARCHES, SHOWN)
    context = ImpressionContext.from_events(events, USERS, CATALOGUE, [])
    shown = sample_unclicked(events.impressions, share=1.0, seed=1)
    encoded = encode(context, context.features(shown, zone="UTC"), {}, read_shared(inputs), spec)
    assert set(to_records(encoded, spec, night=NIGHT, zone="UTC").columns) == {
        *("user_id", "clicked", "watch_seconds", "page", "impression_day", "impression_weight", "record_night"),
        *("watches", "watches_end", "video"),
    }


def test_only_what_no_earlier_night_wrote_is_written(tmp_path: Path) -> None:
    """The first day was written but for user b, who was held out then from its third hour on."""
    holdout = Holdout(start=hours(3), share=0.5, seed=1)
    held_out = holdout.contains(pl.Series(["a", "b"])).to_list()
    before = WrittenImpressions(days=frozenset([dt.date(2024, 3, 1)]), holdout=holdout)
    found, _ = written(tmp_path, SHOWN, before=before)
    late = {"a": 2, "b": 1}  # impressions from the third hour of the first day on
    expected = sum(late[user] for user, is_held_out in zip("ab", held_out, strict=True) if is_held_out)
    counts = add_counts(found.of(Counts))
    assert (counts["train_impressions"], counts["holdout_impressions"]) == (expected, 1)
    days = WrittenImpressions(days=frozenset([dt.date(2024, 3, 2)]), holdout=holdout)
    assert add_counts(written(tmp_path, SHOWN, before=days)[0].of(Counts))["train_impressions"] == 5


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=20), st.integers(1, 5))
def test_histories_begin_with_the_first_input_and_inputs_stay(drawn: list[tuple[int, int]], length: int) -> None:
    """Users have 10 events each; a request sees the first of them."""
    drawn = sorted(drawn)
    users, seen = (np.array(column) for column in zip(*drawn, strict=True))
    spans = Span(first=users * 10, end=users * 10 + seen)
    found = _needed(spans, users, length)
    for row, user in enumerate(users):
        least = min(end for end, of in zip(spans.end, users, strict=True) if of == user)
        assert found.first[row] == max(user * 10, least - length) and found.end[row] == spans.end[row]
        assert found.count[row] >= min(seen[row], length), "the input is whole"
