from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from nights import night, watch_rows, write_job

from pipelines.config.settings import TABLES
from pipelines.logs import ingest_plan, log_samples
from pipelines.logs.log_samples import evenly_spaced, extrapolate_distinct
from transforms.logs.readers import LogError, column_names, estimate_file_rows


def sample_of(job: Path, table: str = "watches") -> log_samples.TableSample:
    of = night(job)
    return log_samples.sample_tables(of, {name: ingest_plan.find(of, name, None) for name in TABLES})[table]


def test_a_sample_is_what_ingest_would_make_of_the_first_rows(tmp_path: Path) -> None:
    rows = watch_rows().with_columns(watch_seconds=pl.Series([-1.0, *range(39)]))
    rows.write_parquet(tmp_path / "w.parquet")
    sample = sample_of(write_job(tmp_path, 'watches = "w.parquet"'))
    assert sample.rows == 40
    assert sample.valid["user_id"].to_list() == rows["user_id"].to_list()[1:]
    assert sample.valid["completed"].to_list() == [seconds >= 30 for seconds in range(39)]
    assert sample.rejected.select("row", "reason").rows() == [(1, "watch_seconds is negative")]


def test_few_of_many_files_are_read_the_newest_among_them(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    for at in range(10):
        watch_rows(count=at + 1).write_parquet(tmp_path / "w" / f"{at}.parquet")
    sample = sample_of(write_job(tmp_path, 'watches = "w"'))
    assert [Path(part.file.path).stem for part in sample.parts] == ["2", "4", "7", "9"]
    assert len(sample.files) == 10 and sample.rows == sum(range(1, 11))


@pytest.mark.parametrize("name", ["w.csv", "w.jsonl"])
def test_rows_that_are_none_are_rejected_too(name: str, tmp_path: Path) -> None:
    rows = watch_rows().with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    text = rows.write_csv() if name == "w.csv" else rows.write_ndjson()
    (tmp_path / name).write_text(f"{text}nonsense,and\n")
    sample = sample_of(write_job(tmp_path, f'watches = "{name}"'))
    assert (len(sample.parts), sample.valid.height) == (1, 40)
    assert sample.rejected.select("row", "text").rows() == [(41, "nonsense,and")]


def test_a_table_that_is_not_named_has_no_sample(tmp_path: Path) -> None:
    watch_rows().write_parquet(tmp_path / "w.parquet")
    with pytest.raises(KeyError):
        sample_of(write_job(tmp_path, 'watches = "w.parquet"'), "searches")


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(0, 3, []), (1, 3, [0]), (3, 3, [0, 1, 2]), (4, 3, [1, 2, 3]), (100, 7, [14, 28, 42, 57, 71, 85, 99])],
)
def test_a_spread_is_even_in_order_and_ends_with_the_last(count: int, most: int, expected: list[int]) -> None:
    assert list(evenly_spaced(range(count), most)) == expected


def test_text_is_counted_by_its_first_lines(tmp_path: Path) -> None:
    lines = [f'{{"user_id": "u{at % 977:04d}", "time": {1_700_000_000 + at}}}' for at in range(60_000)]
    text = "\n".join(lines).encode() + b"\n"
    for name, content in (("w.jsonl", text), ("w.jsonl.gz", gzip.compress(text))):
        (tmp_path / name).write_bytes(content)
        assert estimate_file_rows(str(tmp_path / name), len(content)) == pytest.approx(60_000, rel=0.05)


def test_short_text_and_parquet_are_counted_exactly(tmp_path: Path) -> None:
    rows = watch_rows()
    rows.write_parquet(tmp_path / "w.parquet")
    rows.write_ndjson(tmp_path / "w.jsonl")
    members = gzip.compress(b"a\nb\n") + gzip.compress(b"c\n" * 1_000)
    (tmp_path / "two.jsonl.gz").write_bytes(members)
    for name in ("w.parquet", "w.jsonl"):
        assert estimate_file_rows(str(tmp_path / name), (tmp_path / name).stat().st_size) == 40
    assert estimate_file_rows(str(tmp_path / "two.jsonl.gz"), len(members)) > 0
    (tmp_path / "empty.csv").write_bytes(b"")
    assert estimate_file_rows(str(tmp_path / "empty.csv"), 0) == 0


def test_the_columns_of_a_file_are_those_it_has(tmp_path: Path) -> None:
    frame = pl.DataFrame({"b": [1], "a": ["x"], "deep": [[1, 2]]})
    frame.write_parquet(tmp_path / "w.parquet")
    frame.write_ndjson(tmp_path / "w.ndjson")
    frame.drop("deep").write_csv(tmp_path / "w.csv")
    (tmp_path / "empty.jsonl").write_text("")
    assert column_names(str(tmp_path / "w.parquet")) == ["b", "a", "deep"]
    assert column_names(str(tmp_path / "w.ndjson")) == ["a", "b", "deep"]
    assert column_names(str(tmp_path / "w.csv")) == ["b", "a"]
    assert column_names(str(tmp_path / "empty.jsonl")) == []
    (tmp_path / "half.parquet").write_bytes((tmp_path / "w.parquet").read_bytes()[:50])
    with pytest.raises(LogError, match=r"half\.parquet: not a complete parquet file"):
        column_names(str(tmp_path / "half.parquet"))


@pytest.mark.parametrize(("values", "power"), [(50_000, 1.5), (20_000, 3.0), (500_000, 1.5)])
def test_distinct_values_of_logs_are_judged_to_a_quarter(values: int, power: float) -> None:
    rng, rows = np.random.default_rng(7), 2_000_000
    column = pl.Series((values * rng.random(rows) ** power).astype(np.int64))
    parts = [column.slice(start, 100_000) for start in (400_000, 900_000, 1_400_000, 1_900_000)]
    assert extrapolate_distinct(parts, rows) == pytest.approx(column.n_unique(), rel=0.25)


def test_distinct_values_at_the_edges() -> None:
    whole = pl.Series(["a", "b", "a", "c"])
    assert extrapolate_distinct([whole], 4) == extrapolate_distinct([whole[:2], whole[2:]], 4) == 3
    assert extrapolate_distinct([], 100) == extrapolate_distinct([pl.Series(["a"])], 100) == 100
    assert extrapolate_distinct([pl.Series(["a"] * 50)], 1_000) == 1
    assert extrapolate_distinct([pl.Series(range(50))], 1_000) == 1_000
    assert extrapolate_distinct([pl.Series([None, "a", "b", "a"])], 3) == 2
