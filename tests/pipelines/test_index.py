"""Stage index: who is a candidate, what it leaves, on what its result depends, and which models it refuses."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from nights import DATE, commit, night, write_job

from pipelines import index
from pipelines.base import manifest, paths
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import IndexOutputs
from transforms.core import files
from transforms.search.candidates import NoCandidatesError
from transforms.search.index_files import POSITIONS, VIDEOS, read_index

N = 40
VECTORS = pl.DataFrame(
    {
        "id": range(1, N + 1),
        "video_id": [f"v{i:02d}" for i in range(N)],
        "vector": np.random.default_rng(1).standard_normal((N, 4)).astype(np.float32).tolist(),
    },
    schema_overrides={"vector": pl.List(pl.Float32)},
)
MIDNIGHT = dt.datetime.combine(DATE, dt.time(), dt.UTC)
CATALOGUE = pl.DataFrame(
    {
        "video_id": VECTORS["video_id"],
        "available": [i % 5 > 0 for i in range(N)],
        "upload_time": [None if i % 7 == 0 else MIDNIGHT - dt.timedelta(hours=12 * i) for i in range(N)],
        "channel": ["a" if i % 2 else "b" for i in range(N)],
    },
    schema_overrides={"upload_time": pl.Datetime("us", "UTC")},
)


def indexed(folder: Path, settings: str) -> Night:
    """A night up to stage train, with `[index]` settings, whose stage index is to be run."""
    job = write_job(folder, 'watches = "w"\nvideos = "v"', f"[index]\n{settings}\n[neighbours]\nk = 3\nsimilar = 2\n")
    of = night(job)
    commit(of, "ingest", [files.write_parquet(CATALOGUE, of.folder("ingest"), "videos-aa.parquet")])
    commit(of, "examples")
    vectors = files.write_parquet(VECTORS, of.folder("train"), "video_vectors.parquet")
    commit(of, "train", [vectors], counts={"tower": "tower-aa"})
    return of


def candidates(of: Night) -> list[str]:
    return files.read_parquet(paths.join(of.folder("index"), VIDEOS))["video_id"].to_list()


@pytest.mark.parametrize("shards", [1, 4])
def test_what_is_unavailable_or_does_not_fulfil_the_condition_is_no_candidate(shards: int, tmp_path: Path) -> None:
    of = indexed(tmp_path, f"only = \"age_days < 10 AND channel = 'a'\"\nshard_videos = {-(-7 // shards)}")
    index.run(of)
    expected = [f"v{i:02d}" for i in range(20) if i % 5 and i % 7 and i % 2]
    assert candidates(of) == expected
    done = of.require("index")
    assert len(expected) == 7
    matrix = np.array(VECTORS["vector"].to_list(), np.float32)[[int(name[1:]) for name in expected]]
    for kind in ("candidates", "similar"):
        built = getattr(done.read(IndexOutputs), kind)
        folders = [paths.join(of.folder("index"), folder) for folder in built.folders]
        assert len(folders) == shards
        assert built.rows == 7
        positions = [np.load(f"{folder}/{POSITIONS}") for folder in folders]
        assert sorted(np.concatenate(positions).tolist()) == list(range(7))
        if kind == "candidates":
            for folder, rows in zip(folders, positions, strict=True):
                np.testing.assert_array_equal(read_index(folder).vectors, matrix[rows])


def test_search_speed_is_recorded_outside_the_digest_of_the_manifest(tmp_path: Path) -> None:
    of = indexed(tmp_path, "")
    index.run(of)
    first = of.require("index")
    message = json.loads(files.read_bytes(paths.join(of.folder("index"), index.INFO)))
    assert message["candidates"]["timings"][0]["queries_per_second"] > 0
    assert message["candidates"]["recall"] == 1.0
    manifest.revoke(of.folder("index"))
    index.run(of)
    again = of.require("index")
    assert again.attempt != first.attempt
    assert again.digest == first.digest
    assert "timings" not in json.dumps(again.figures)


def test_only_a_condition_on_age_makes_the_date_matter(tmp_path: Path) -> None:
    plans = {}
    for only in ("channel = 'a'", "age_days < 3"):
        job = indexed(tmp_path, f'only = "{only}"').job
        plans[only] = index.plan(Night(job, DATE)).settings
    assert "date" not in plans["channel = 'a'"]
    assert plans["age_days < 3"]["date"] == DATE.isoformat()


def test_a_condition_that_no_video_fulfils_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NoCandidatesError, match=r"none of the 32 available videos fulfils index\.only = 'age"):
        index.run(indexed(tmp_path, 'only = "age_days > 1000"'))


def test_a_model_without_video_vectors_is_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"', '[model]\nloss = "hierarchical_softmax"')
    with pytest.raises(StageError, match=r"no video vectors.*sampled_softmax"):
        index.run(night(job))
