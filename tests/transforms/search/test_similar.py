"""Every video's nearest videos compared with all cosines, in an index of one shard and of several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_index import write_made_index

from transforms.search.similar import Block, WriteSimilar, split_rows

N = 13
DRAW = np.random.default_rng(5)
VIDEOS = [f"v{i:02d}" for i in range(N)]
DIRECTIONS = DRAW.integers(-3, 4, (N, 4)).astype(np.float64)
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)
COSINES = DIRECTIONS.astype(np.float32).astype(np.float64) @ DIRECTIONS.astype(np.float32).astype(np.float64).T


@pytest.mark.parametrize("k", [3, 100])
@pytest.mark.parametrize("shards", [1, 3])
def test_similar_videos_are_the_nearest_others_by_cosine(k: int, shards: int, tmp_path: Path) -> None:
    index, videos = write_made_index(tmp_path, DIRECTIONS, VIDEOS, shards=shards)
    rows_of = [len(np.load(Path(folder) / "dataset.npy")) for folder in index]
    blocks = split_rows(rows_of, 5)
    records = blocks | WriteSimilar(index, videos, k, str(tmp_path / "n"), "{block}.parquet")
    assert sorted(file.name for file in records) == [f"../similar/{b.number}.parquet" for b in blocks]
    rows = pl.concat([pl.read_parquet(path) for path in (tmp_path / "similar").iterdir()])
    assert sorted(rows["video_id"]) == VIDEOS
    for video, found, scores in rows.iter_rows():
        at = VIDEOS.index(video)
        assert video not in found
        assert len(set(found)) == len(found) == min(k, N - 1)
        np.testing.assert_allclose(scores, np.sort(np.delete(COSINES[at], at))[::-1][:k], atol=1e-6)
        np.testing.assert_allclose(COSINES[at][[VIDEOS.index(other) for other in found]], scores, atol=1e-6)


def test_blocks_cover_all_rows_of_all_shards_once() -> None:
    assert split_rows([5, 2], 3) == [Block(0, 0, 0, 3), Block(1, 0, 3, 5), Block(2, 1, 0, 2)]
    assert split_rows([], 3) == []
