"""The splits, against plain Python that handles one user at a time."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.datasets import day_files
from pipelines.datasets.data_set import TIME
from pipelines.datasets.day_files import DayFiles
from pipelines.datasets.splits import FEWEST, LastSplit, NoSplit, PublishedSplit, Split, TimeSplit, parse_split
from pipelines.datasets.tables import DataSetError

START = dt.datetime(2022, 4, 1, tzinfo=dt.UTC)
SCHEMA = pl.Schema({"user_id": pl.String(), "video_id": pl.String(), "time": TIME, "completed": pl.Boolean()})
Row = tuple[str, str, dt.datetime, bool]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ü"]),
        st.sampled_from(["v1", "v2", "v3"]),
        st.integers(0, 5).map(lambda half_days: START + dt.timedelta(hours=12 * half_days)),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def split_rows(rows: list[Row], split: Split, *, pieces: int = 3) -> tuple[list[Row], list[tuple[str, str]]]:
    """The rows of the logs, sorted, and of the truth, as the importer writes them in several pieces."""
    with TemporaryDirectory() as scratch:
        files = DayFiles(Path(scratch) / "scratch", time_zone="UTC")
        for start in range(0, len(rows), pieces):
            files.add(split.divide(frame(rows[start : start + pieces]))[0])
        files.write(Path(scratch) / "watches", split.cutoffs())
        written = sorted((Path(scratch) / "watches").glob("*.parquet"))
        logs = pl.concat([frame([]), *map(pl.read_parquet, written)])
    truth = split.truth()
    assert truth is not None
    return sorted(logs.rows()), truth.rows()


def leave_last_out(rows: list[Row], *, but_one: bool, completed_only: bool) -> tuple[list[Row], list[tuple[str, str]]]:
    logs, truth = [], []
    for user in sorted({row[0] for row in rows}):
        own = [row for row in rows if row[0] == user]
        left = len(own)
        keys = sorted({(row[2], row[1]) for row in own if row[3] or not completed_only})
        cut = None
        for step in range(1 + but_one):
            if left - step >= FEWEST and keys:
                cut = keys.pop()
                if step == but_one:
                    truth.append((user, cut[1]))
        logs += [row for row in own if cut is None or (row[2], row[1]) < cut]
    return sorted(logs), truth


@given(rows=ROWS, but_one=st.booleans(), completed_only=st.booleans())
def test_the_last_watch_is_left_out(rows: list[Row], but_one: bool, completed_only: bool) -> None:
    split = LastSplit(but_one=but_one, completed_only=completed_only)
    assert split_rows(rows, split) == leave_last_out(rows, but_one=but_one, completed_only=completed_only)


@given(rows=ROWS, pieces=st.integers(1, 30))
def test_the_number_of_pieces_makes_no_difference(rows: list[Row], pieces: int) -> None:
    assert split_rows(rows, LastSplit(), pieces=pieces) == split_rows(rows, LastSplit(), pieces=len(rows))


@given(rows=ROWS)
def test_a_time_split_is_disjoint_and_complete(rows: list[Row]) -> None:
    split = TimeSplit(first=dt.date(2022, 4, 2), second=dt.date(2022, 4, 3))
    logs, truths = split.divide(frame(rows))
    day = [row[2].date() for row in rows]
    assert logs.rows() == [row for row, of in zip(rows, day, strict=True) if of < split.first]
    completed = [row for row in rows if row[3]]
    second = dt.date(2022, 4, 3)
    assert truths["truth_validation"].rows() == [row for row in completed if split.first <= row[2].date() < second]
    assert truths["truth"].rows() == [row for row in completed if row[2].date() >= second]


def test_days_of_a_time_split_begin_in_the_time_zone() -> None:
    moments = [dt.datetime(2022, 4, 1, hour, tzinfo=dt.UTC) for hour in (15, 16)]
    rows: list[Row] = [("a", str(moment.hour), moment, True) for moment in moments]
    logs, truths = TimeSplit(first=dt.date(2022, 4, 2), time_zone="Asia/Shanghai").divide(frame(rows))
    assert logs["video_id"].to_list() == ["15"] and truths["truth"]["video_id"].to_list() == ["16"]


@given(rows=ROWS, size=st.integers(1, 8))
def test_day_files_hold_all_rows_sorted_whatever_the_size_of_groups(rows: list[Row], size: int) -> None:
    with TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(day_files, "PIECE_ROWS", size)
        files = DayFiles(Path(scratch) / "scratch", time_zone="UTC")
        for row in rows:
            files.add(frame([row]))
        counts = files.write(Path(scratch) / "watches", None)
        written = {path.stem: pl.read_parquet(path).rows() for path in (Path(scratch) / "watches").iterdir()}
        assert not (Path(scratch) / "scratch").exists()
    by_day = {str(day): [row for row in rows if row[2].date() == day] for day in {row[2].date() for row in rows}}
    keys = {day: [(row[2], row[0], row[1]) for row in found] for day, found in written.items()}
    assert {day: sorted(found) for day, found in written.items()} == {d: sorted(r) for d, r in by_day.items()}
    assert all(key == sorted(key) for key in keys.values())
    assert {str(day): number for day, number in counts.items()} == {day: len(found) for day, found in by_day.items()}
    assert list(counts) == sorted(counts)


def test_splits_by_name() -> None:
    def parsed(text: str | None, *, completed_only: bool = False, is_split: bool = True) -> Split:
        return parse_split(text, completed_only=completed_only, time_zone="UTC", is_split=is_split)

    assert parsed(None) == NoSplit()
    assert parsed("last") == LastSplit() and parsed("last").held_out == 1
    assert parsed("last-but-one", completed_only=True) == LastSplit(but_one=True, completed_only=True)
    assert parsed("last-but-one").held_out == 2
    assert parsed("published") == PublishedSplit()
    first, second = dt.date(2022, 4, 25), dt.date(2022, 5, 1)
    assert parsed("time=2022-04-25") == TimeSplit(first=first)
    assert parsed("time=2022-04-25,2022-05-01") == TimeSplit(first=first, second=second)
    for wrong in ("first", "time", "time=", "time=x", "time=2022-05-01,2022-04-25", "time=2022-04-25,2022-04-25"):
        with pytest.raises(DataSetError, match="is none of last, last-but-one"):
            parsed(wrong)
    with pytest.raises(DataSetError, match="does not split it"):
        parsed("published", is_split=False)
    with pytest.raises(DataSetError, match="--completed-only belongs to"):
        parsed("time=2022-04-25", completed_only=True)
