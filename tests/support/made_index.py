"""An index of given vectors, in one shard or several, and a tower that reads vectors from a file (no TensorFlow)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from transforms.contracts.transitions import LAGS
from transforms.search import shard_search, user_search
from transforms.search.exact_search import ExactIndex
from transforms.search.index_files import POSITIONS, VIDEOS, to_matrix
from transforms.search.top_k import save_index
from transforms.search.tower import UserBatch


def write_made_index(
    folder: Path, vectors: np.ndarray, video_ids: Sequence[str], *, shards: int = 1, uploads: pl.Series | None = None
) -> tuple[tuple[str, ...], str]:
    """Write an exact index of vectors [n, d]; return (folders of the shards, path of `VIDEOS`).

    video_ids must ascend. Row r is in shard r * 7 % shards; vocabulary ids count from 1 in the order of the rows.
    """
    n = len(vectors)
    never = pl.Series([None] * n, dtype=pl.Datetime("us", "UTC"))
    videos = {"video_id": list(video_ids), "id": range(1, n + 1), "upload_time": never if uploads is None else uploads}
    pl.DataFrame(videos).write_parquet(folder / VIDEOS)
    folders = []
    for shard in range(shards):
        positions = np.flatnonzero(np.arange(n) * 7 % shards == shard)
        path = folder / f"candidates/{shard:05d}-of-{shards:05d}"
        path.mkdir(parents=True)
        save_index(ExactIndex(vectors=np.asarray(vectors[positions], np.float32)), path)
        np.save(path / POSITIONS, positions)
        folders.append(str(path))
    return tuple(folders), str(folder / VIDEOS)


class MadeTower:
    """A tower whose records are Parquet files of user_id, vector and, if there is one, recent, returned two at a
    time."""

    def users(self, path: str) -> Iterator[UserBatch]:
        for rows in pl.read_parquet(path).iter_slices(2):
            none = np.zeros((rows.height, LAGS), np.int32)
            recent = to_matrix(rows["recent"]).astype(np.int32) if "recent" in rows.columns else none
            yield UserBatch(user_ids=rows["user_id"].to_list(), vectors=to_matrix(rows["vector"]), recent=recent)


def use_made_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the search for users load a `MadeTower`."""
    for module in (user_search, shard_search):
        monkeypatch.setattr(module, "load_tower", lambda folder: MadeTower())
