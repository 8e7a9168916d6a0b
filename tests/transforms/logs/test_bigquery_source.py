"""BigQuery tables are read with Beam's reader, only on Dataflow."""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from graphs import steps
from made_frames import hours
from nights import DATAFLOW, DATE, night, write_job

from pipelines import ingest
from pipelines.base.snapshot_store import Snapshot
from pipelines.config.jobs import JobError
from pipelines.night.night import Night
from transforms.logs.bigquery_source import ReadBigQuery, raw_frame
from transforms.logs.parsing import ParseRules, parse_searches
from transforms.logs.readers import LogError
from transforms.logs.schemas import SEARCHES

NAME = "bigquery:my-project.logs.searches"
PARSE = partial(parse_searches, rules=ParseRules(before=hours(1000)))
WINDOW = (dt.datetime(2024, 3, 1, tzinfo=dt.UTC), dt.datetime(2024, 3, 29, tzinfo=dt.UTC))
ROWS: list[dict[str, Any]] = [
    {"uid": 7, "time": hours(1), "query": "jazz", "page": {"nested": 1}},
    {"uid": None, "time": hours(2), "query": "rock", "page": None},
]


def read() -> ReadBigQuery:
    return ReadBigQuery(NAME, SEARCHES, {"user_id": "uid"}, PARSE, *WINDOW)


def test_job_graph_contains_beam_reader_with_table_and_window() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    found = pipeline | read()
    assert set(found) == {"valid", "rejected", "counts"}
    assert any("ReadFromBigQuery" in name for name in steps(pipeline))
    where = "time >= TIMESTAMP('2024-03-01T00:00:00+00:00') AND time < TIMESTAMP('2024-03-29T00:00:00+00:00')"
    assert read().restriction() == where


def test_table_rows_are_parsed_like_file_rows() -> None:
    (parsed,) = read()._parse(ROWS)
    assert parsed.valid.select("user_id", "time", "query").rows() == [("7", hours(1), "jazz")]
    assert parsed.rejected.select("file", "row", "reason").rows() == [(NAME, 2, "user_id is null")]
    assert raw_frame(ROWS, NAME, SEARCHES, {"user_id": "uid"}).rows.columns == ["user_id", "time", "query", "row"]
    with pytest.raises(LogError, match=r"bigquery:my-project.logs.searches: the searches table lacks 'user_id'"):
        raw_frame(ROWS, NAME, SEARCHES, {})


def test_table_is_refused_on_other_runners_than_dataflow(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "bigquery:my-project.logs.watches"')
    with pytest.raises(
        LogError, match=r"BigQuery tables can be read only on Dataflow .* but the runner is FnApiRunner; ex"
    ):
        ingest.plan(night(job))
    on_dataflow = Night(night(job).job, DATE, flags=DATAFLOW)
    assert [file.path for file in ingest.IngestPlan.from_night(on_dataflow).pending] == [
        "bigquery:my-project.logs.watches"
    ]
    with pytest.raises(JobError, match=r"storage.buckets is missing: a new store counts the rows of files"):
        ingest.run(on_dataflow)


def test_ingest_reads_the_table_in_its_pipeline(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "bigquery:my-project.logs.watches"', "[storage]\nbuckets = 8\n")
    of = Night(night(job).job, DATE, flags=DATAFLOW)
    due = ingest.IngestPlan.from_night(of)
    reader = ingest.Reader(
        night=of, folder=str(tmp_path), attempt="aa", buckets=8, privacy_filter=due.privacy_filter, found=due.readable
    )
    pipeline = beam.Pipeline(runner="FnApiRunner")
    for source in reader.log_sources(due.pending, Snapshot(buckets=8), None):
        if source.raw:
            reader.branch(pipeline, source)
    found = steps(pipeline)
    assert any("Read watches/ReadFromBigQuery" in name for name in found)
    assert any("Write watches" in name for name in found)
