"""Equal events: what the log says decides, not what was derived from it, and the newest decision stays."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars as pl
import pytest
from made_frames import START
from nights import DATAFLOW, DATE, night, write_job
from stores import counts, events, ingested, newest

from pipelines import ingest
from pipelines.night.beam_jobs import BeamJobs
from pipelines.night.night import Night
from transforms.logs import bigquery_source
from transforms.logs.ingest import DuplicateRows, EventFile, ReplacedFile, merge_events, parsed_outputs, write_days
from transforms.logs.schemas import STORED_WATCH_SCHEMA, WATCH_SCHEMA

DAY = str(START.date())


def watched(video: str, completed: bool, given: bool | None = None, **more: Any) -> dict[str, Any]:
    return {
        "user_id": "u",
        "time": START,
        "video_id": video,
        "watch_seconds": 20.0,
        "completed": completed,
        "completed_given": given,
        **more,
    }


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=STORED_WATCH_SCHEMA).sort(*STORED_WATCH_SCHEMA.names(), nulls_last=True)


def write(folder: Path, name: str, rows: pl.DataFrame) -> str:
    rows.write_parquet(folder / name)
    return str(folder / name)


def old(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows as versions before wrote them, which kept less of a watch."""
    return rows.select(WATCH_SCHEMA.names())


def test_an_event_read_again_with_another_verdict_is_stored_once_with_the_new_one(tmp_path: Path) -> None:
    path = write(tmp_path, "one", frame(watched("v", False), watched("w", True)))
    found = merge_events(frame(watched("v", True, video_seconds=30.0), watched("x", True)), [path])
    assert found.replaced == (path,) and (found.new, found.doubled) == (1, 0)
    expected = frame(watched("v", True, video_seconds=30.0), watched("w", True), watched("x", True))
    assert found.events.equals(expected) and found.older.is_empty()


def test_an_event_read_again_as_it_was_changes_nothing(tmp_path: Path) -> None:
    rows = frame(watched("v", False), watched("w", True, given=True))
    path = write(tmp_path, "one", rows)
    found = merge_events(rows, [path])
    assert (found.events.height, found.replaced, found.new) == (0, (), 0)


def test_what_the_log_says_of_completed_tells_events_apart(tmp_path: Path) -> None:
    path = write(tmp_path, "one", frame(watched("v", True, given=True)))
    found = merge_events(frame(watched("v", False, given=False), watched("v", True)), [path])
    assert (found.events.height, found.replaced, found.new) == (2, (), 2)


def test_rows_of_one_batch_that_differ_in_the_length_alone_are_one_event(tmp_path: Path) -> None:
    rows = [watched("v", False, video_seconds=100.0), watched("v", True, video_seconds=30.0), watched("w", True)]
    for order in (rows, rows[::-1]):
        records = list(
            write_days(
                3, pl.DataFrame(order, STORED_WATCH_SCHEMA), [], table="watches", store=str(tmp_path), name="one"
            )
        )
        assert isinstance(records[0], EventFile)
        written = pl.read_parquet(tmp_path / records[0].file.name)
        assert written.equals(frame(rows[1], rows[2]))
        assert records[-1] == DuplicateRows(table="watches", duplicates=1)


def test_a_row_of_an_older_version_s_file_is_known_again(tmp_path: Path) -> None:
    path = write(tmp_path, "old", old(frame(watched("v", True), watched("w", False), watched("x", True))))
    again = frame(watched("v", True, given=True), watched("w", True, video_seconds=30.0))
    found = merge_events(again, [path])
    assert found.replaced == (path,) and (found.new, found.doubled) == (0, 0)
    assert found.events.equals(frame(watched("w", True, video_seconds=30.0)))
    assert found.older.equals(old(frame(watched("v", True), watched("x", True)))), "what an older log said is unknown"


def test_events_that_an_older_version_stored_twice_are_stored_once(tmp_path: Path) -> None:
    both = [write(tmp_path, name, old(frame(watched("v", done)))) for name, done in (("a", False), ("b", True))]
    found = merge_events(frame(watched("v", True)), both)
    assert found.replaced == (both[0],) and (found.new, found.doubled) == (0, 1) and found.events.is_empty()


def test_replaced_files_are_named_in_the_records(tmp_path: Path) -> None:
    def append(rows: pl.DataFrame, existing: list[tuple[str, str]], name: str) -> list[Any]:
        return list(write_days(3, rows, existing, table="watches", store=str(tmp_path), name=name))

    (tmp_path / "watches" / DAY).mkdir(parents=True)
    rows = old(frame(watched("v", False), watched("w", True)))
    path = write(tmp_path, f"watches/{DAY}/00003-of-00008-aa.parquet", rows)
    records = append(frame(watched("v", True), watched("x", True)), [(DAY, path)], "00003-of-00008-bb.parquet")
    written = [record.file.name.rsplit("/", 1)[-1] for record in records if isinstance(record, EventFile)]
    assert written == ["00003-of-00008-bb.parquet", "00003-of-00008-older-bb.parquet"]
    assert records[2:] == [
        ReplacedFile(f"watches/{DAY}/00003-of-00008-aa.parquet"),
        DuplicateRows(table="watches", duplicates=1),
    ]


ROWS = [{"user_id": f"u{n}", "video_id": "v", "time": None, "watch_seconds": 20.0} for n in range(4)]


def from_memory(rows: list[dict[str, Any]]) -> Any:
    """Stands in for `ReadBigQuery.expand`: the rows of the window, without BigQuery."""

    def expand(self: bigquery_source.ReadBigQuery, pipeline: beam.Pipeline) -> Any:
        inside = [row for row in rows if self.start <= row["time"] < self.end]
        return parsed_outputs(pipeline | beam.Create([inside], reshuffle=False), self._parse, self.table)

    return expand


def test_a_bigquery_window_read_twice_stores_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue changes in between: 20 of 60 seconds are not completed, 20 of 30 are."""
    first = dt.datetime.combine(DATE - dt.timedelta(days=2), dt.time(1), dt.UTC)
    rows = [row | {"time": first + dt.timedelta(hours=n)} for n, row in enumerate(ROWS)]
    monkeypatch.setattr(bigquery_source.ReadBigQuery, "expand", from_memory(rows))
    monkeypatch.setattr(BeamJobs, "pipeline", lambda self, stage: BeamJobs(self.date, None, ()).local_pipeline())
    logs = 'watches = "bigquery:my-project.logs.watches"\nvideos = "v.csv"'
    job = write_job(tmp_path, logs, "[examples]\nwindow_days = 4\n[storage]\nbuckets = 8\n")
    for seconds, done in ((60, False), (30, True)):
        (tmp_path / "v.csv").write_text(f"video_id,video_seconds\nv,{seconds}\n")
        date = DATE if not done else DATE + dt.timedelta(days=1)
        of = Night(night(job).job, date, flags=DATAFLOW)
        ingest.run(of)
        found = events(of)
        assert found.height == 4 and found["completed"].to_list() == [done] * 4
    assert counts(of)["tables"]["watches"]["duplicates"] == 4 and counts(of)["rows"]["watches"] == 4  # type: ignore[index]


def test_a_file_sent_again_after_the_completion_rule_s_catalogue_changed_is_stored_once(tmp_path: Path) -> None:
    logs = 'watches = "w*.csv"\nvideos = "v.csv"'
    job = write_job(tmp_path, logs, "[examples]\nwindow_days = 4\n")
    text = "user_id,video_id,time,watch_seconds\n" + "".join(f"u{n},v,2026-11-19 10:00:0{n},20\n" for n in range(4))
    for name, seconds in (("w1.csv", 60), ("w2.csv", 30)):
        (tmp_path / name).write_text(text)
        (tmp_path / "v.csv").write_text(f"video_id,video_seconds\nv,{seconds}\n")
        of = ingested(job)
    assert events(of)["completed"].to_list() == [True] * 4
    account = newest(of).accounts[DATE.isoformat()]
    assert account["tables"]["watches"]["kept"] == 4 and account["removed"] == {}
