"""Indexes as files: a written index is searched like the one that was built, in one shard or several."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow.parquet as pa_parquet
import pytest
from made_frames import write

from transforms.core.files import FileEntry
from transforms.core.records import WriteRecords, pop_records
from transforms.search import index_files
from transforms.search.candidates import candidate_videos
from transforms.search.exact_search import ExactIndex
from transforms.search.exclusions import Excluded
from transforms.search.index_files import (
    POSITIONS,
    SAMPLE,
    VIDEOS,
    IndexInputs,
    IndexPart,
    IndexShard,
    IndexSummary,
    WriteIndex,
    merged_recall,
    read_index,
    read_vectors,
    read_videos,
    sample_hits,
    summarize_index,
    to_matrix,
    unit_directions,
    write_index,
)
from transforms.search.top_k import top_k

VECTORS = pl.DataFrame(
    {"id": [1, 2, 3, 4], "video_id": ["d", "b", "a", "c"], "vector": [[3.0, 4, 1], [0, 0, 2], [0, 2, 3], [-1, 0, 4]]},
    schema_overrides={"vector": pl.List(pl.Float32)},
)


def inputs(folder: Path, vectors: pl.DataFrame, shards: int = 1, **more: Any) -> IndexInputs:
    """Return inputs with all videos as candidates, and write `VIDEOS`."""
    return IndexInputs(
        vectors=write(vectors, folder / "vectors"),
        videos=write(candidate_videos(vectors, None), folder / VIDEOS),
        tower="not needed by exact search",
        serving=(),
        **{"k": 2, "similar": 1, "recall": 0.9, "shards": shards, **more},
    )


def made(videos: int, dimension: int, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, dimension))
    matrix = (centres[rng.integers(20, size=videos)] + 0.7 * rng.standard_normal((videos, dimension))).astype(
        np.float32
    )
    names = [f"v{i:05d}" for i in rng.permutation(videos)]
    rows = pl.Series(matrix.tolist(), dtype=pl.List(pl.Float32))
    return pl.DataFrame({"id": np.arange(1, videos + 1), "video_id": names, "vector": rows})


def test_directions_have_length_one_and_no_bias() -> None:
    found = unit_directions(to_matrix(VECTORS["vector"]))
    expected = np.array([[0.6, 0.8], [0, 0], [0, 1], [-1, 0]])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_vectors_are_read_a_row_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, asked = made(50, 3), []
    vectors.write_parquet(tmp_path / "vectors", row_group_size=8)
    read = pa_parquet.ParquetFile.read_row_group

    def read_and_note(file: Any, group: int, **more: Any) -> Any:
        asked.append(group)
        return read(file, group, **more)

    monkeypatch.setattr(pa_parquet.ParquetFile, "read_row_group", read_and_note)
    chosen = np.array([50, 3, 20, 21, 1])
    found = read_vectors(str(tmp_path / "vectors"), chosen)
    assert found.tolist() == [vectors["vector"].to_list()[i - 1] for i in chosen]
    assert asked == list(range(7))


@pytest.mark.parametrize("shards", [1, 3])
def test_both_indexes_are_written_and_read(shards: int, tmp_path: Path) -> None:
    index_inputs = inputs(tmp_path, VECTORS, shards)
    parts = [IndexPart(kind, shard) for kind in ("candidates", "similar") for shard in range(shards)]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        records = pipeline | beam.Create(parts) | WriteIndex(index_inputs, str(tmp_path), "1")
        records | WriteRecords(str(tmp_path / "records"))
    found = pop_records(str(tmp_path / "records"), FileEntry, IndexShard)
    assert all((tmp_path / file.name).stat().st_size == file.bytes for file in found.of(FileEntry))
    info = summarize_index(found.of(IndexShard), str(tmp_path))
    for kind, dimension in (("candidates", 3), ("similar", 2)):
        summary = IndexSummary(kind="exact", dimension=dimension, recall=1.0, rows=4)
        assert replace(info[kind], shards=[], timings=[]) == summary
        assert len(info[kind].shards) == len(info[kind].timings) == shards
    videos = read_videos(index_inputs.videos)
    assert videos["position"].to_list() == [0, 1, 2, 3]
    assert videos["video_id"].to_list() == ["a", "b", "c", "d"]
    matrix = to_matrix(VECTORS.sort("video_id")["vector"])
    seen = []
    for shard in range(shards):
        below = f"{shard:05d}-of-{shards:05d}"
        positions = np.load(tmp_path / "candidates-1" / below / POSITIONS)
        assert positions.dtype == np.int32
        index, similar = (read_index(str(tmp_path / f"{kind}-1" / below)) for kind in ("candidates", "similar"))
        np.testing.assert_array_equal(index.vectors, matrix[positions])
        np.testing.assert_array_equal(similar.vectors, unit_directions(matrix)[positions])
        seen += positions.tolist()
    assert sorted(seen) == [0, 1, 2, 3]


Written = tuple[Path, list[FileEntry | IndexShard], int]  # folder, records, k


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The similar videos of 4,000 videos, in four approximate shards."""
    folder = tmp_path_factory.mktemp("shards")
    index_inputs = inputs(folder, made(4_000, 16), 4, similar=19)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_files, "EXACT_BELOW", 1_000)
        return (
            folder,
            [r for s in range(4) for r in write_index(IndexPart("similar", s), index_inputs, str(folder), "1")],
            20,
        )


def test_measured_recall_is_that_of_a_search_of_all_shards(
    shards: tuple[Path, list[FileEntry | IndexShard], int],
) -> None:
    folder, records, k = shards
    videos = candidate_videos(made(4_000, 16), None)
    matrix = unit_directions(read_vectors(str(folder / "vectors"), videos["id"].to_numpy()))
    queries = matrix[::40]
    scores, positions = [], []
    for shard in range(4):
        part = folder / "similar-1" / f"{shard:05d}-of-00004"
        top = top_k(read_index(str(part)), queries, k=k, excluded=Excluded.empty(len(queries)))
        scores.append(top.scores)
        positions.append(np.load(part / POSITIONS)[top.positions])
    order = np.argsort(-np.concatenate(scores, axis=1), axis=1)[:, :k]
    found = np.take_along_axis(np.concatenate(positions, axis=1), order, axis=1)
    true = ExactIndex(vectors=matrix).search(queries, k).positions
    recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), true.tolist(), strict=True)])
    info = summarize_index([r for r in records if isinstance(r, IndexShard)], str(folder))["similar"]
    assert info.kind == "scann"
    assert info.rows == 4_000
    assert 0.9 <= info.recall < 1
    assert abs(recall - info.recall) < 0.03  # measured on other queries
    written = {record.name.rsplit("/", 1)[1] for record in records if isinstance(record, FileEntry)}
    assert written >= {SAMPLE, POSITIONS, "info.json"}


def test_recall_of_merged_shards_is_that_of_the_overall_best() -> None:
    matrix = to_matrix(made(300, 8)["vector"])
    queries, halves, k = matrix[:20] + 0.1, (np.arange(0, 300, 2), np.arange(1, 300, 2)), 5

    class MissesBest(ExactIndex):
        """An index that misses the best result."""

        def search(self, queries: Any, k: int) -> Any:
            found = super().search(queries, k)
            found.positions[:, 0] = -1
            return found

    parts = [
        sample_hits(kind(vectors=matrix[half]), queries, k)
        for kind, half in zip((ExactIndex, MissesBest), halves, strict=True)
    ]
    true = ExactIndex(vectors=matrix).search(queries, k).positions
    missed = [half[1][np.argmax(matrix[half[1]] @ query)] for query in queries for half in [halves]]
    expected = np.mean([np.isin(row, [gone], invert=True).mean() for row, gone in zip(true, missed, strict=True)])
    assert merged_recall(parts, k) == pytest.approx(expected)
    assert 0.8 <= expected < 1


def test_an_index_is_loaded_once_per_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(write_index(IndexPart("candidates", 0), inputs(tmp_path, VECTORS), str(tmp_path), "1"))
    folder, loads = str(tmp_path / "candidates-1" / "00000-of-00001"), []
    load = index_files.load_index

    def load_and_note(path: Path) -> Any:
        loads.append(path)
        return load(path)

    monkeypatch.setattr(index_files, "load_index", load_and_note)
    with ThreadPoolExecutor(8) as threads:  # as concurrent bundles and buckets do
        found = list(threads.map(lambda _: read_index(folder), range(32)))
    assert all(one is found[0] for one in found)
    assert len(loads) == 1
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(range(8)) | beam.Reshuffle() | beam.Map(lambda _: read_index(folder).search)
    assert len(loads) == 1
