"""Ingest: every row is stored, rejected or a duplicate; files do not depend on the order of the input."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pytest
from apache_beam.testing.util import assert_that, equal_to
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from made_frames import START, hours, watch, watches_frame

from transforms.core.digests import bucket_of
from transforms.core.files import FileEntry
from transforms.core.records import WriteRecords, pop_records
from transforms.logs.ingest import (
    RECORDS,
    REJECTED,
    DuplicateRows,
    EventFile,
    FirstRejected,
    ReadLogs,
    RejectedFile,
    RejectedRows,
    RowsRead,
    WriteDays,
    WriteDistinct,
    WriteRejected,
    parse_log,
    write_days,
    write_distinct,
    write_rejected,
)
from transforms.logs.parsing import ParseRules, parse_searches
from transforms.logs.schemas import SEARCHES, WATCH_SCHEMA

EVENTS = st.lists(
    st.builds(
        watch,
        st.sampled_from(["a", "b"]),
        st.sampled_from([-1, 0, 1, 23.999, 24, 30]),
        st.sampled_from(["v", "w"]),
        st.booleans(),
        device=st.sampled_from([None, "tv"]),
        watch_seconds=st.sampled_from([None, 1.5]),
    ),
    max_size=12,
)


def append(events: list[Any], existing: list[tuple[str, str]], store: Path, name: str) -> list[Any]:
    frame = pl.DataFrame(events, schema=WATCH_SCHEMA)
    return list(write_days(3, frame, existing, table="watches", store=str(store), name=name))


def listed(records: list[Any], store: Path) -> list[tuple[str, str]]:
    return [(r.day, str(store / r.file.name)) for r in records if isinstance(r, EventFile)]


def key(event: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(event.get(name) for name in WATCH_SCHEMA.names())


@settings(max_examples=fewer(40))
@given(EVENTS, EVENTS)
def test_files_of_a_day_contain_each_event_once(
    tmp_path_factory: pytest.TempPathFactory, first: list[Any], second: list[Any]
) -> None:
    store = tmp_path_factory.mktemp("store")
    one = append(first, [], store, "1.parquet")
    two = append(second, listed(one, store), store, "2.parquet")
    kept = {**dict.fromkeys(map(key, first), 1), **{key(e): 2 for e in second if key(e) not in set(map(key, first))}}
    for number, (events, records) in enumerate([(first, one), (second, two)], 1):
        new = [event for event, attempt in kept.items() if attempt == number]
        assert records[-1] == DuplicateRows(table="watches", duplicates=len(events) - len(new))
        found = [(r.day, r.bucket, pl.read_parquet(store / r.file.name)) for r in records[:-1]]
        assert sorted((row for _, _, frame in found for row in frame.rows()), key=repr) == sorted(new, key=repr)
        for day, bucket, frame in found:
            assert bucket == 3
            assert frame.schema == WATCH_SCHEMA
            assert frame.rows() == watches_frame(frame.to_dicts()).rows()
            assert {str(time.date()) for time in frame["time"]} == {day}
        assert [r.day for r in records[:-1]] == [r.file.name.split("/")[1] for r in records[:-1]]
        assert [r.file.rows for r in records[:-1]] == [frame.height for _, _, frame in found]
    again = append(first + second, [*listed(one, store), *listed(two, store)], store, "3.parquet")
    assert again == [DuplicateRows(table="watches", duplicates=len(first) + len(second))]


@settings(max_examples=fewer(40))
@given(EVENTS, st.randoms(use_true_random=False))
def test_order_of_events_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, events: list[Any], chance: random.Random
) -> None:
    mixed = chance.sample(events, len(events))
    folders = [tmp_path_factory.mktemp("store") for _ in range(2)]
    one, other = (append(rows, [], folder, "x") for rows, folder in zip((events, mixed), folders, strict=True))
    assert one == other  # digests of the files included


def test_write_days_writes_the_days_of_each_bucket(tmp_path: Path) -> None:
    rows = [watch(f"u{i % 9}", i, "v") for i in range(60)]
    halves = [pl.DataFrame(part, schema=WATCH_SCHEMA) for part in (rows[:30], rows[20:])]
    write = WriteDays("watches", str(tmp_path), 8, "{bucket:05d}.parquet", [])

    def check(records: list[Any]) -> None:
        frames = [(r, pl.read_parquet(tmp_path / r.file.name)) for r in records if isinstance(r, EventFile)]
        assert pl.concat([frame for _, frame in frames]).sort("time").rows() == watches_frame(rows).sort("time").rows()
        for record, frame in frames:
            assert {bucket_of(user, 8) for user in frame["user_id"]} == {record.bucket}
            assert record.file.name == f"watches/{record.day}/{record.bucket:05d}.parquet"
        assert sum(r.duplicates for r in records if isinstance(r, DuplicateRows)) == 10

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        frames = pipeline | beam.Create(halves)
        assert_that(frames | write, check)


def test_write_days_skips_existing_events(tmp_path: Path) -> None:
    old = append([watch("a", 1, "v")], [], tmp_path, "old.parquet")
    existing = [(bucket_of("a", 8), place) for place in listed(old, tmp_path)]
    write = WriteDays("watches", str(tmp_path), 8, "{bucket:05d}.parquet", existing)
    frame = pl.DataFrame([watch("a", 1, "v"), watch("a", 2, "v")], schema=WATCH_SCHEMA)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        records = pipeline | beam.Create([frame]) | write | beam.Map(lambda r: getattr(r, "duplicates", None) or r.day)
        assert_that(records, equal_to(["2024-03-01", 1]))


def search_files(folder: Path) -> list[str]:
    texts = {
        "a.csv": "user_id,time,query\na,2024-03-01,cats\n,2024-03-01,dogs\na,b\n",
        "b.jsonl": '{"user_id":"b","time":1700000000,"query":"x"}\n[]\n{"user_id":"b","time":"never","query":"x"}\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in texts]


PARSE = partial(parse_searches, rules=ParseRules(before=hours(1000)))


def test_rows_are_valid_or_rejected_and_counted(tmp_path: Path) -> None:
    paths = search_files(tmp_path)
    counts = str(tmp_path / "counts.json")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(paths) | ReadLogs(SEARCHES, {}, PARSE)
        found["counts"] | WriteRecords(counts)
        valid = found["valid"] | "Users" >> beam.FlatMap(lambda frame: frame.select("user_id", "query").rows())
        rejected = found["rejected"] | "Rows" >> beam.FlatMap(
            lambda frame: frame.select("file", "row", "reason").rows()
        )
        assert_that(valid, equal_to([("a", "cats"), ("b", "x")]), label="valid")
        bad = [
            (paths[0], 2, "user_id is null"),
            (paths[0], 3, "2 values under a header of 3"),
            (paths[1], 2, "not a JSON object"),
            (paths[1], 3, "time cannot be read"),
        ]
        assert_that(rejected, equal_to(bad), label="rejected")
    records = pop_records(counts, *RECORDS)
    reasons, read = records.of(RejectedRows), records.of(RowsRead)
    assert {*(rows.table for rows in reasons), *(rows.table for rows in read)} == {"searches"}
    assert {rows.reason: rows.rows for rows in reasons} == {reason: 1 for _, _, reason in bad}
    assert (sum(rows.read for rows in read), sum(rows.rejected for rows in read)) == (6, 4)


def test_rejected_rows_are_written_in_order(tmp_path: Path) -> None:
    frames = [part.rejected for path in search_files(tmp_path) for part in parse_log(path, SEARCHES, {}, PARSE)]
    for order in (frames, frames[::-1]):
        records = list(write_rejected(pl.concat(order), str(tmp_path), "rejected.parquet"))
        rows = pl.read_parquet(tmp_path / "rejected.parquet")
        assert rows.schema == REJECTED
        assert [Path(file).name + str(row) for file, row in rows.select("file", "row").rows()] == [
            "a.csv2",
            "a.csv3",
            "b.jsonl2",
            "b.jsonl3",
        ]
        assert records == [RejectedFile("rejected.parquet")]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        written = pipeline | beam.Create(frames) | WriteRejected(str(tmp_path), "again.parquet")
        assert_that(written, equal_to([RejectedFile("again.parquet")]))
    assert pl.read_parquet(tmp_path / "again.parquet").equals(rows)


def rejected_rows(file: str, first: int, count: int, reason: str = "bad") -> pl.DataFrame:
    rows = {"row": range(first, first + count), "table": "watches", "file": file, "reason": reason, "text": None}
    return pl.DataFrame(rows).select(REJECTED.names()).cast(REJECTED)


MANY = [rejected_rows(file, first, 1_500) for file in "cab" for first in (3_001, 1)] + [
    rejected_rows("d", 7, 3, "worse")
]
LISTED = [*(("a", row, "bad") for row in range(1, 1_001)), *(("d", row, "worse") for row in (7, 8, 9))]


@pytest.mark.parametrize("order", [1, -1])
def test_first_rejected_rows_of_each_reason_are_listed(tmp_path: Path, order: int) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        written = pipeline | beam.Create(MANY[::order]) | beam.Reshuffle() | WriteRejected(str(tmp_path), "x.parquet")
        assert_that(written, equal_to([RejectedFile("x.parquet")]))
    assert pl.read_parquet(tmp_path / "x.parquet").select("file", "row", "reason").rows() == LISTED


def test_memory_for_rejected_rows_is_bounded() -> None:
    combine, parts = FirstRejected(), []
    for part in range(4):
        accumulator = combine.create_accumulator()
        for file in range(100):
            accumulator = combine.add_input(accumulator, rejected_rows(f"{part}-{file:03d}", 1, 1_000))
            assert sum(frame.height for frame in accumulator) <= 17_000
        parts.append(accumulator)
    merged = combine.merge_accumulators(iter(parts[::-1]))
    assert sum(frame.height for frame in merged) <= 17_000
    assert combine.extract_output(merged).select("file", "row").rows() == [("0-000", row) for row in range(1, 1_001)]


def test_rows_listed_by_earlier_files_count(tmp_path: Path) -> None:
    counted = {"watches: bad": 998, "searches: bad": 5_000}
    frame = pl.concat(MANY)
    assert list(write_rejected(frame, str(tmp_path), "x.parquet", counted)) == [RejectedFile("x.parquet")]
    assert pl.read_parquet(tmp_path / "x.parquet").select("file", "row", "reason").rows() == LISTED[:2] + LISTED[-3:]
    assert list(write_rejected(frame, str(tmp_path), "y", {"watches: bad": 1_000, "watches: worse": 70_000})) == []
    assert not (tmp_path / "y").exists()


def test_no_rejected_rows_write_no_file(tmp_path: Path) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        none = pipeline | beam.Create([]).with_output_types(pl.DataFrame)
        assert_that(none | WriteRejected(str(tmp_path), "x.parquet"), equal_to([]))
    assert list(tmp_path.iterdir()) == []


CATALOGUE = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([None, 1, 2]), st.sampled_from([None, "x", "y"]))
)


@given(CATALOGUE)
def test_last_of_several_rows_is_kept(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int | None, str | None]]
) -> None:
    folder = tmp_path_factory.mktemp("distinct")
    frame = pl.DataFrame(rows, schema={"video_id": pl.String, "n": pl.Int64, "t": pl.String}, orient="row")
    written, counted = write_distinct(frame, ("video_id",), table="videos", folder=str(folder), name="v.parquet")
    best: dict[str, tuple[str, int | None, str | None]] = {}
    for row in sorted(rows, key=lambda r: (r[0], r[1] or 0, r[2] or "")):
        best[row[0]] = row
    assert pl.read_parquet(folder / "v.parquet").rows() == list(best.values())
    assert isinstance(written, FileEntry) and written.rows == len(best)
    assert counted == DuplicateRows(table="videos", duplicates=len(rows) - len(best))


@pytest.mark.parametrize("buckets", [1, 8])
def test_write_distinct_writes_one_file_or_one_per_bucket(buckets: int, tmp_path: Path) -> None:
    frames = [pl.DataFrame({"user_id": [f"u{i}", "twice"], "plan": ["x", f"p{i}"]}) for i in range(9)]
    write = WriteDistinct("users", ("user_id",), buckets, str(tmp_path), "{bucket:03d}.parquet")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        records = pipeline | beam.Create(frames) | write
        duplicates = records | beam.Map(lambda r: getattr(r, "duplicates", 0)) | beam.CombineGlobally(sum)
        assert_that(duplicates, equal_to([8]))
    files = sorted(tmp_path.glob("*.parquet"))
    assert len(files) == (
        1 if buckets == 1 else len({bucket_of(u, 8) for u in [*(f"u{i}" for i in range(9)), "twice"]})
    )
    for path in files:
        users = pl.read_parquet(path)
        assert users["user_id"].is_sorted()
        if buckets > 1:
            assert {bucket_of(user, 8) for user in users["user_id"]} == {int(path.stem)}
    everyone = pl.concat([pl.read_parquet(path) for path in files]).sort("user_id")
    assert everyone.rows() == [("twice", "p8"), *((f"u{i}", "x") for i in range(9))]


def test_key_of_several_columns(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["b", "a", "a", "a"], "video_id": ["x", "y", "x", "y"]})
    written, counted = write_distinct(frame, ("user_id", "video_id"), table="hidden", folder=str(tmp_path), name="h")
    assert pl.read_parquet(tmp_path / "h").rows() == [("a", "x"), ("a", "y"), ("b", "x")]
    assert isinstance(written, FileEntry) and written.rows == 3
    assert counted == DuplicateRows(table="hidden", duplicates=1)


def test_events_of_a_hot_user(tmp_path: Path) -> None:
    n = 50_000
    frame = pl.DataFrame({"user_id": ["hot"] * n, "time": [START] * n, "video_id": ["v"] * n})
    frame = frame.with_columns(time=pl.col("time") + pl.duration(seconds=pl.int_range(n) // 2 * 2)).reverse()
    records = list(write_days(0, frame, [], table="watches", store=str(tmp_path), name="x"))
    (written, duplicates) = records
    assert isinstance(written, EventFile) and written.file.rows == n // 2
    assert duplicates == DuplicateRows(table="watches", duplicates=n // 2)
    assert pl.read_parquet(tmp_path / written.file.name)["time"].is_sorted()
