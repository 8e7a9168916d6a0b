"""Stage index: who is a candidate, what it leaves, on what its result depends, and which models it refuses."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
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
from transforms.search.content_vectors import fit_content_rows
from transforms.search.index_files import POSITIONS, VIDEOS, read_index, to_matrix

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


def indexed(folder: Path, settings: str, neighbours: str = "new_videos = 0") -> Night:
    """A night up to stage train, with settings of `[index]` and `[neighbours]`, whose stage index is to be run."""
    tables = f"[index]\n{settings}\n[neighbours]\nk = 3\nsimilar = 2\n{neighbours}\n"
    job = write_job(folder, 'watches = "w"\nvideos = "v"', tables)
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


RECENT = {  # hours before midnight -> channel; videos that the model does not have
    "n1": (1, "a"),
    "n2": (47, "b"),
    "n3": (71, "a"),
    "n4": (73, "a"),
    "n5": (0, "a"),
    "gone": (1, "b"),
}


def with_new_videos(folder: Path, settings: str = "new_videos = 0.1") -> Night:
    """A night up to stage train whose catalogue has videos without a completed watch."""
    uploads = [MIDNIGHT - dt.timedelta(hours=hours) for hours, _ in RECENT.values()]
    new = pl.DataFrame(
        {
            "video_id": list(RECENT),
            "available": [name != "gone" for name in RECENT],
            "upload_time": pl.Series(uploads, dtype=pl.Datetime("us", "UTC")),
            "channel": [channel for _, channel in RECENT.values()],
        }
    )
    kinds = pl.DataFrame(schema={"language": pl.String, "video_seconds": pl.Float32, "title": pl.String})
    of = indexed(folder, "", settings)
    catalogue = pl.concat([CATALOGUE, new, kinds], how="diagonal")
    commit(of, "ingest", [files.write_parquet(catalogue, of.folder("ingest"), "videos-aa.parquet")])
    counts = VECTORS.select(token="video_id", count=N + 1 - pl.col("id"))
    commit(of, "vocabulary", [files.write_parquet(counts, of.folder("vocabulary"), "videos.parquet")])
    labels = VECTORS.with_columns(label_count=pl.col("id") - 1)
    vectors = files.write_parquet(labels, of.folder("train"), "video_vectors.parquet")
    commit(of, "train", [vectors], counts={"tower": "tower-aa"})
    return of


def test_vectors_of_recent_uploads_follow_from_the_older_videos_of_their_channel(tmp_path: Path) -> None:
    of = with_new_videos(tmp_path)
    index.run(of)
    written = of.outputs(IndexOutputs).new_videos
    assert written is not None
    assert (written.since, written.until, written.new) == (MIDNIGHT - dt.timedelta(days=2), MIDNIGHT, 2)
    found = files.read_parquet(paths.join(of.folder("index"), written.file))
    # Uploaded in the two days before midnight, or before the held-out day; every fifth video is not available.
    model = [name for i, name in enumerate(VECTORS["video_id"]) if i % 5 and i % 7 and 0 < 12 * i <= 72]
    assert found["video_id"].to_list() == ["n1", "n2", "n3", *model]
    assert found["id"].to_list() == [None] * 3 + [int(name[1:]) + 1 for name in model]
    assert found["count"].to_list() == [0] * 3 + [N - int(name[1:]) for name in model]
    older = [i for i in range(1, N) if i % 7 == 0 or 12 * i > 72]
    vectors = np.array(VECTORS["vector"].to_list(), np.float32)[older]
    features = pl.DataFrame({"row": range(len(older)), "feature": [f"channel:{'a' if i % 2 else 'b'}" for i in older]})
    labels = np.array(older)
    rows = fit_content_rows(features, vectors, (labels / (labels + 1)).astype(np.float32))
    channels = [RECENT[name][1] if name in RECENT else "a" if int(name[1:]) % 2 else "b" for name in found["video_id"]]
    own = pl.DataFrame({"row": range(len(channels)), "feature": [f"channel:{channel}" for channel in channels]})
    np.testing.assert_allclose(to_matrix(found["vector"]), rows.vectors(own, videos=len(channels)), atol=1e-6)


def test_the_condition_holds_for_new_videos(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    of = with_new_videos(tmp_path / "a")
    only = of.job.index.model_copy(update={"only": "channel = 'b'"})
    of = replace(of, job=of.job.model_copy(update={"index": only}))
    index.run(of)
    written = of.outputs(IndexOutputs).new_videos
    assert written is not None and written.new == 1
    assert files.read_parquet(paths.join(of.folder("index"), written.file))["video_id"].to_list()[0] == "n2"


def test_without_the_setting_there_are_no_new_videos_and_the_date_does_not_matter(tmp_path: Path) -> None:
    of = with_new_videos(tmp_path, "new_videos = 0")
    index.run(of)
    assert of.outputs(IndexOutputs).new_videos is None
    assert "new_videos" not in index.plan(of).settings
    assert [entry.name for entry in of.require("index").files if "new" in entry.name] == []
