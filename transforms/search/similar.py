"""Every video's nearest videos by cosine, from the index `similar`, whose vectors have length 1 and no bias.

blocks of an index's rows -> WriteSimilar -> Parquet: video_id, video_ids (nearest first), scores (cosines)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
from numpy.typing import NDArray

from transforms.core import files, progress
from transforms.core.files import FileEntry
from transforms.search.exact_search import Candidates
from transforms.search.exclusions import Excluded
from transforms.search.index_files import POSITIONS, read_index, read_videos
from transforms.search.neighbours import to_lists
from transforms.search.shard_search import merge_shards, read_partials, save_partial
from transforms.search.top_k import load_index, load_vectors, top_k

SIMILAR = "../similar"
SLICE = 256  # blocks that are searched in all shards together


@dataclass(frozen=True, order=True)
class Block:
    """Rows start to end of one shard of an index. `number` is unique."""

    number: int
    shard: int
    start: int
    end: int


@dataclass
class WriteSimilar(beam.PTransform):
    """Write a Parquet file per `Block` with the k nearest videos of each video except itself; return the
    `FileEntry`s. Rows are in the order of the block's."""

    index: tuple[str, ...]  # folders of its shards
    videos: str  # path of the positions' `VIDEOS`
    k: int
    folder: str
    name: str  # pattern of a file's name, with {block}

    def expand(self, blocks: beam.PCollection[Block]) -> beam.PCollection[FileEntry]:
        if len(self.index) == 1:
            return blocks | beam.Reshuffle() | beam.Map(self._write_alone)
        keyed = beam.Map(lambda block: (block.number // SLICE, block)).with_output_types(tuple[int, Block])
        return blocks | keyed | beam.GroupByKey() | beam.Values() | beam.FlatMap(self._write_slice)

    def _write_alone(self, block: Block) -> FileEntry:
        index = read_index(self.index[0])
        vectors = np.asarray(index.vectors[block.start : block.end])
        top = top_k(index, vectors, k=self.k, excluded=_exclude_self(block))
        return self._write(block, top, np.arange(block.start, block.end))

    def _write_slice(self, blocks: Iterable[Block]) -> Iterator[FileEntry]:
        """Search one shard after the other, as `shard_search` does."""
        ordered = sorted(blocks)
        local = [Path(files.local_copy(folder)) for folder in self.index]
        positions = [np.load(folder / POSITIONS).astype(np.int64) for folder in local]
        with tempfile.TemporaryDirectory() as scratch:
            for shard, folder in enumerate(local):
                index = load_index(folder)
                for block in ordered:
                    vectors = load_vectors(local[block.shard])[block.start : block.end]
                    own = _exclude_self(block) if block.shard == shard else Excluded.empty(block.end - block.start)
                    top = top_k(index, np.asarray(vectors), k=self.k, excluded=own)
                    save_partial(top, positions[shard], Path(scratch) / f"{block.number}", shard)
                del index
            for block in ordered:
                top = merge_shards(read_partials(Path(scratch) / f"{block.number}"), self.k, None)
                yield self._write(block, top, positions[block.shard][block.start : block.end])

    def _write(self, block: Block, top: Candidates, positions: NDArray[np.int64]) -> FileEntry:
        video_ids = read_videos(self.videos)["video_id"]
        rows = to_lists(video_ids[positions].to_list(), top, video_ids).rename({"user_id": "video_id"})
        progress.advance()
        name = f"{SIMILAR}/{self.name.format(block=block.number)}"
        return files.write_parquet(rows, self.folder, name)


def _exclude_self(block: Block) -> Excluded:
    """Return exclusions that exclude each row of a block from its own list."""
    rows = np.arange(block.start, block.end, dtype=np.int32)
    return Excluded(offsets=np.arange(len(rows) + 1), positions=rows)


def split_rows(rows: list[int], size: int) -> list[Block]:
    """Return blocks of at most `size` rows. rows: the number of rows of each shard."""
    cut = [(shard, start, min(start + size, n)) for shard, n in enumerate(rows) for start in range(0, n, size)]
    return [Block(number, *one) for number, one in enumerate(cut)]
