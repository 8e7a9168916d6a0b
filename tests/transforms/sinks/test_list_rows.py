from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from apache_beam.testing.util import assert_that

from transforms.sinks import list_rows
from transforms.sinks.list_rows import ROWS, ListPart, ReadListRows, read_list_rows


@pytest.fixture
def part(tmp_path: Path) -> ListPart:
    lists, vectors = tmp_path / "lists.parquet", tmp_path / "vectors.parquet"
    users = ["c", "a", "d", "b"]
    pl.DataFrame(
        {
            "user_id": users,
            "video_ids": [["v"], [], ["w", "v"], ["x"]],
            "scores": [[1.0], [], [2, 1], [0.5]],
            "expected_seconds": [[7.5], [], [9.5, None], None],
        }
    ).write_parquet(lists)
    pl.DataFrame({"user_id": ["b", "c"], "vector": [[0.5, 1.0], [0.25, 1.0]]}).write_parquet(vectors)
    return ListPart(lists=str(lists), vectors=str(vectors))


def test_lists_and_vectors_are_in_the_order_of_the_file(part: ListPart) -> None:
    rows = read_list_rows(part)
    assert rows.schema == ROWS
    assert rows.drop("expected_seconds").rows() == [
        ("c", None, ["v"], [1.0], [0.25, 1.0]),
        ("a", None, [], [], []),
        ("d", None, ["w", "v"], [2.0, 1.0], []),
        ("b", None, ["x"], [0.5], [0.5, 1.0]),
    ]
    np.testing.assert_equal(rows["expected_seconds"].to_list(), [[7.5], [], [9.5, np.nan], []])
    without = read_list_rows(ListPart(lists=part.lists))
    assert without.drop("vector").equals(rows.drop("vector")) and without["vector"].to_list() == [[]] * 4


@pytest.mark.parametrize(("start", "order"), [(0.0, "cadb"), (0.5, "dbca"), (0.9, "bcad")])
def test_rows_are_rotated_by_the_start(part: ListPart, start: float, order: str) -> None:
    found = read_list_rows(ListPart(lists=part.lists, start=start))
    assert "".join(found["user_id"]) == order


def test_default_lists_have_a_country_and_no_user(tmp_path: Path) -> None:
    path = tmp_path / "defaults.parquet"
    pl.DataFrame({"country": [None, "SE"], "video_ids": [["v"], ["w"]], "scores": [[1.0], [2.0]]}).write_parquet(path)
    found = read_list_rows(ListPart(lists=str(path)))
    assert found.rows() == [(None, None, ["v"], [1.0], [], []), (None, "SE", ["w"], [2.0], [], [])]
    pl.read_parquet(path).clear().write_parquet(path)
    assert read_list_rows(ListPart(lists=str(path))).equals(pl.DataFrame(schema=ROWS))


def test_rows_are_read_in_slices(part: ListPart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_rows, "SLICE_ROWS", 3)

    def whole(frames: list[pl.DataFrame]) -> None:
        assert [frame.height for frame in frames] == [3, 1]
        assert pl.concat(frames).equals(read_list_rows(part))

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | beam.Create([part]) | ReadListRows(), whole)
