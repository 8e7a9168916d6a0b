"""Lists as BigQuery tables: rows and the job graph. test_bigquery_sink.py runs the graph."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import polars as pl
from apache_beam.internal import pickler
from graphs import modules, steps

from transforms.sinks.bigquery_lists import LISTS, VIDEOS, LoadLists, LoadVideos, to_dicts
from transforms.sinks.list_rows import ROWS, ListPart

TABLE, TEMP = "my-project:recs.lists_20261121_1f2e3d4c", "gs://bucket/temp"


def test_rows_match_the_schema() -> None:
    rows = pl.DataFrame(
        [("ann", None, ["v"], [0.1], [2.0], []), (None, "SE", [], [], [], [1.0])], schema=ROWS, orient="row"
    )
    tenth = rows["scores"][0][0]
    assert abs(tenth - 0.1) < 1e-8 and tenth != 0.1  # a float of 32 bits keeps all of them
    assert to_dicts(rows, LISTS) == [
        {
            "user_id": "ann",
            "country": None,
            "video_ids": ["v"],
            "scores": [tenth],
            "expected_seconds": [2.0],
            "vector": [],
        },
        {"user_id": None, "country": "SE", "video_ids": [], "scores": [], "expected_seconds": [], "vector": [1.0]},
    ]
    videos = pl.DataFrame({"id": [1], "vector": [[1.5, 2.0]], "video_id": ["v"]})
    assert to_dicts(videos, VIDEOS) == [{"video_id": "v", "vector": [1.5, 2.0]}]


def test_job_graph_contains_beam_sink_that_replaces_tables(tmp_path: Path) -> None:
    path = str(tmp_path / "video_vectors.parquet")
    pl.DataFrame({"video_id": ["v"], "vector": [[1.0]]}).write_parquet(path)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    pipeline | beam.Create([ListPart(lists="lists.parquet")]) | LoadLists(TABLE, TEMP)
    pipeline | LoadVideos(path, f"{TABLE}_videos", TEMP)
    found = steps(pipeline)
    for name, table, schema in (("LoadLists", TABLE, LISTS), ("LoadVideos", f"{TABLE}_videos", VIDEOS)):
        sink = found[f"{name}/LoadTable/WriteToBigQuery"].spec
        config = pickler.loads(sink.payload)
        assert (sink.urn, config["table"], config["schema"]) == ("beam:transform:write_to_big_query:v0", table, schema)
        assert (config["method"], config["temp_file_format"]) == ("FILE_LOADS", "AVRO")
        assert (config["create_disposition"], config["write_disposition"]) == ("CREATE_IF_NEEDED", "WRITE_TRUNCATE")
        assert config["custom_gcs_temp_location"] == TEMP
        assert config["additional_bq_parameters"] == {"clustering": {"fields": [schema["fields"][0]["name"]]}}
    assert "LoadLists/ReadListRows/Reshuffle" in found and "LoadVideos/ReadFromParquetBatched" in found


def test_workers_need_only_functions_of_transforms() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    pipeline | beam.Create([ListPart(lists="lists.parquet")]) | LoadLists(TABLE, TEMP)
    assert modules(pipeline) == {"transforms.sinks.list_rows", "transforms.sinks.bigquery_lists"}
