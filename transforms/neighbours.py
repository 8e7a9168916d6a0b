"""Every user's k nearest videos: the user tower, the search, and what each user has had left out (paper, 3.1).

serving records of a bucket -> Tower -> top_k -> Parquet: user_id, video_ids (best first), scores (falling)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from transforms import files, progress
from transforms.collect import Record
from transforms.excluded import Excluded
from transforms.indexing import read_index, read_videos
from transforms.schemas import WATCH_SCHEMA
from transforms.search import TopK, top_k
from transforms.tower import load_tower
from transforms.window import BucketFiles, Window

LISTS = pl.Schema({"user_id": pl.String(), "video_ids": pl.List(pl.String()), "scores": pl.List(pl.Float32())})
USER_VECTORS = "../user_vectors"
SIMILAR = "../similar"
Exclude = Literal["completed", "watched", "none"]


def excluded_for(user_ids: list[str], seen: pl.DataFrame, videos: pl.DataFrame) -> Excluded:
    """What each of the users, given in order, has had. seen: user_id, video_id, repeats allowed; videos:
    `read_videos`."""
    users = pl.DataFrame({"user_id": user_ids}, schema={"user_id": pl.String}).with_row_index("at")
    pairs = seen.join(users, on="user_id").join(videos.select("video_id", "position"), on="video_id").sort("at")
    counts = np.bincount(pairs["at"].to_numpy(), minlength=len(user_ids))
    return Excluded(offsets=np.concatenate([[0], np.cumsum(counts)]), positions=pairs["position"].to_numpy())


def seen_pairs(watches: pl.DataFrame, exclude: Exclude) -> pl.DataFrame:
    """user_id, video_id of what is to be left out of the lists: the watches themselves, repeats and all."""
    if exclude == "none":
        watches = watches.clear()
    return (watches.filter("completed") if exclude == "completed" else watches).select("user_id", "video_id")


def read_seen(window: Window, bucket: BucketFiles, exclude: Exclude) -> pl.DataFrame:
    """`seen_pairs` of a bucket's window."""
    columns = ("user_id", "time", "video_id", "completed")
    return seen_pairs(window.unordered(bucket.watches, WATCH_SCHEMA, columns), exclude)


def to_lists(user_ids: list[str], top: TopK, video_ids: pl.Series) -> pl.DataFrame:
    """Search results -> `LISTS`, a row a user in the given order. video_ids: of each position of the index."""
    filled = np.arange(top.positions.shape[1]) < top.lengths[:, None]
    offsets = pa.array(np.concatenate([[0], np.cumsum(top.lengths)]), pa.int64())
    shown = video_ids.gather(top.positions[filled]).to_arrow().cast(pa.large_string())
    scores = pa.array(top.scores[filled], pa.float32())
    columns = [pa.LargeListArray.from_arrays(offsets, values) for values in (shown, scores)]
    return pl.DataFrame({"user_id": user_ids, "video_ids": columns[0], "scores": columns[1]}, schema_overrides=LISTS)


def vectors_frame(user_ids: list[str], vectors: NDArray[np.float32]) -> pl.DataFrame:
    """user_id, vector (list<float>: [u; 1])."""
    offsets = pa.array(np.arange(len(user_ids) + 1) * vectors.shape[1], pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(vectors.ravel(), pa.float32()))
    return pl.DataFrame({"user_id": user_ids, "vector": lists})


@dataclass(frozen=True, kw_only=True)
class SearchInputs:
    """Where the parts lie that all buckets share, and how to search."""

    tower: str
    index: str  # folder of the candidates' index
    videos: str  # path of its `VIDEOS`
    k: int
    exclude: Exclude


@dataclass(frozen=True, kw_only=True)
class BucketRecords:
    """A bucket's files of the window and its record file, "" where the bucket has no user to serve."""

    files: BucketFiles
    records: str


@dataclass
class WriteNeighbours(beam.PTransform):
    """`BucketRecords` -> one Parquet file a bucket of lists and one of user vectors; gives records of files and
    counts."""

    window: Window
    inputs: SearchInputs
    folder: str
    name: str

    def expand(self, buckets: beam.PCollection[BucketRecords]) -> beam.PCollection[Record]:
        return buckets | beam.Reshuffle() | beam.FlatMap(self._write)

    def _write(self, bucket: BucketRecords) -> Iterator[Record]:
        seen = read_seen(self.window, bucket.files, self.inputs.exclude)
        videos, index = read_videos(self.inputs.videos), read_index(self.inputs.index)
        lists, users = [pl.DataFrame(schema=LISTS)], []
        for ids, vectors in load_tower(self.inputs.tower).users(bucket.records) if bucket.records else ():
            top = top_k(index, vectors, k=self.inputs.k, excluded=excluded_for(ids, seen, videos))
            lists.append(to_lists(ids, top, videos["video_id"]))
            users.append(vectors_frame(ids, vectors))
        found = pl.concat(lists)
        name = self.name.format(bucket=bucket.files.bucket)
        yield {"file": asdict(files.write_parquet(found, self.folder, name))}
        if users:
            yield {"file": asdict(files.write_parquet(pl.concat(users), self.folder, f"{USER_VECTORS}/{name}"))}
        progress.advance()
        short = found.filter(pl.col("video_ids").list.len() < self.inputs.k).height
        yield {"counts": {"users": found.height, "short_lists": short, "empty_lists": _empty(found)}}


def _empty(lists: pl.DataFrame) -> int:
    return lists.filter(pl.col("video_ids").list.len() == 0).height


def similar_videos(folder: str, videos: pl.DataFrame, start: int, end: int, k: int) -> pl.DataFrame:
    """The k videos nearest by cosine of those at positions start to end: video_id, video_ids, scores, without
    itself."""
    index = read_index(folder)
    own = np.arange(start, end, dtype=np.int32)
    excluded = Excluded(offsets=np.arange(len(own) + 1), positions=own)
    top = top_k(index, np.asarray(index.vectors[start:end]), k=k, excluded=excluded)
    names = videos["video_id"][start:end].to_list()
    return to_lists(names, top, videos["video_id"]).rename({"user_id": "video_id"})


@dataclass
class WriteSimilar(beam.PTransform):
    """(block, start, end) of positions -> one Parquet file a block of similar videos; gives records of the files."""

    index: str
    videos: str
    k: int
    folder: str
    name: str

    def expand(self, blocks: beam.PCollection[tuple[int, int, int]]) -> beam.PCollection[Record]:
        return blocks | beam.Reshuffle() | beam.MapTuple(self._write)

    def _write(self, block: int, start: int, end: int) -> Record:
        progress.advance()
        rows = similar_videos(self.index, read_videos(self.videos), start, end, self.k)
        return {"file": asdict(files.write_parquet(rows, self.folder, f"{SIMILAR}/{self.name.format(block=block)}"))}
