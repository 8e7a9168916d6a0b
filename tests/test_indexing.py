"""Indexes: which videos are in them, and that what was written is searched."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from made_frames import hours, write

from transforms.collect import WriteRecords, take_records
from transforms.indexing import (
    VIDEOS,
    IndexInputs,
    NoCandidatesError,
    WriteIndex,
    candidate_videos,
    directions,
    read_index,
    read_videos,
    to_matrix,
    write_index,
)

VECTORS = pl.DataFrame(
    {"id": [1, 2, 3, 4], "video_id": ["d", "b", "a", "c"], "vector": [[3.0, 4, 1], [0, 0, 2], [0, 2, 3], [-1, 0, 4]]},
    schema_overrides={"vector": pl.List(pl.Float32)},
)
CATALOGUE = pl.DataFrame(
    {
        "video_id": ["a", "b", "c", "unknown"],
        "available": [True, True, False, True],
        "upload_time": pl.Series([hours(1), None, None, None], dtype=pl.Datetime("us", "UTC")),
    }
)


def inputs(folder: Path, catalogue: pl.DataFrame | None) -> IndexInputs:
    return IndexInputs(
        vectors=write(VECTORS, folder / "vectors"),
        catalogue=None if catalogue is None else write(catalogue, folder / "catalogue"),
        tower="not needed by exact search",
        serving=(),
        k=2,
        similar=1,
        recall=0.9,
    )


def test_videos_of_the_model_that_are_available_are_candidates() -> None:
    everything = candidate_videos(VECTORS, None)
    assert everything["video_id"].to_list() == ["a", "b", "c", "d"]
    assert everything["upload_time"].null_count() == 4
    shown = candidate_videos(VECTORS, CATALOGUE)
    assert shown.select("video_id", "id", "upload_time").rows() == [("a", 3, hours(1)), ("b", 2, None)]
    assert shown.schema == everything.schema


def test_vectors_as_a_matrix() -> None:
    assert to_matrix(VECTORS["vector"]).tolist() == VECTORS["vector"].to_list()
    assert to_matrix(VECTORS["vector"]).dtype == np.float32


def test_directions_have_length_one_and_no_bias() -> None:
    found = directions(to_matrix(VECTORS["vector"]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [0, 1], [-1, 0]], rtol=1e-6)


@pytest.mark.parametrize("catalogue", [None, CATALOGUE], ids=["no catalogue", "catalogue"])
def test_both_indexes_are_written_and_read(catalogue: pl.DataFrame | None, tmp_path: Path) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        records = (
            pipeline
            | beam.Create(["candidates", "similar"])
            | WriteIndex(inputs(tmp_path, catalogue), str(tmp_path), "1")
        )
        records | WriteRecords(str(tmp_path / "records"))
    found = take_records(str(tmp_path / "records"))
    assert {r["kind"]: r["info"]["kind"] for r in found if "kind" in r} == {"candidates": "exact", "similar": "exact"}
    assert all((tmp_path / r["file"]["name"]).stat().st_size == r["file"]["bytes"] for r in found if "file" in r)
    expected = candidate_videos(VECTORS, catalogue)
    videos = read_videos(str(tmp_path / VIDEOS))
    assert videos.select("video_id", "id", "upload_time").equals(expected.select("video_id", "id", "upload_time"))
    assert videos["position"].to_list() == list(range(expected.height))
    matrix = to_matrix(expected["vector"])
    np.testing.assert_array_equal(read_index(str(tmp_path / "candidates-1")).vectors, matrix)
    np.testing.assert_array_equal(read_index(str(tmp_path / "similar-1")).vectors, directions(matrix))


def test_no_candidate_is_an_error(tmp_path: Path) -> None:
    nothing = inputs(tmp_path, CATALOGUE.filter(pl.col("video_id") == "unknown"))
    with pytest.raises(NoCandidatesError, match=r"no video of the model is available: does logs\.videos know"):
        list(write_index("candidates", nothing, str(tmp_path), "1"))
