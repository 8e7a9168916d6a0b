"""Every user's k nearest videos: the user tower, the search, and the exclusions of each user (paper, 3.1).

serving records of a bucket -> SearchBuckets -> Parquet: user_id, video_ids (best first), scores (of each video)
records without a user, by country -> SearchBuckets -> the default lists, for users without a history
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.core import files, progress
from transforms.core.files import FileEntry
from transforms.core.parquet_writer import ParquetFrameWriter
from transforms.core.records import Counts
from transforms.logs.event_window import read_hidden
from transforms.search.exact_search import Candidates
from transforms.search.tower import vectors_frame
from transforms.search.user_limits import BucketRecords, SearchInputs, read_candidates
from transforms.search.user_lists import SearchResult
from transforms.search.user_search import SearchBuckets

LISTS = pl.Schema({"user_id": pl.String(), "video_ids": pl.List(pl.String()), "scores": pl.List(pl.Float32())})
USER_VECTORS = "../user_vectors"
DEFAULTS = "../defaults"


def to_lists(user_ids: list[str], top: Candidates, video_ids: pl.Series) -> pl.DataFrame:
    """Return search results as `LISTS`, one row per user in the given order. video_ids: of each position."""
    filled = np.arange(top.positions.shape[1]) < top.lengths[:, None]
    offsets = pa.array(np.concatenate([[0], np.cumsum(top.lengths)]), pa.int64())
    shown = video_ids.gather(top.positions[filled]).to_arrow().cast(pa.large_string())
    scores = pa.array(top.scores[filled], pa.float32())
    columns = [pa.LargeListArray.from_arrays(offsets, values) for values in (shown, scores)]
    return pl.DataFrame({"user_id": user_ids, "video_ids": columns[0], "scores": columns[1]}, schema_overrides=LISTS)


@dataclass
class WriteNeighbours(beam.PTransform):
    """Write a Parquet file of lists and one of user vectors per bucket, and one of the default lists.

    Return their `FileEntry`s, and `Counts`. A bucket without users has a file of lists without rows and no file of
    vectors. Rows are in the order of the records.
    """

    inputs: SearchInputs
    folder: str
    name: str  # pattern of a bucket's file
    defaults: str = "defaults.parquet"  # name of the file of default lists
    threads: int = 1  # buckets processed at the same time

    def expand(self, buckets: beam.PCollection[BucketRecords]) -> beam.PCollection[FileEntry | Counts]:
        return buckets | SearchBuckets(self.inputs, self._write, self.threads)

    def _write(self, bucket: BucketRecords, results: Iterator[SearchResult]) -> Iterator[FileEntry | Counts]:
        yield from self._write_defaults(results) if bucket.defaults else self._write_users(bucket, results)
        progress.advance()

    def _write_users(self, bucket: BucketRecords, results: Iterator[SearchResult]) -> Iterator[FileEntry | Counts]:
        name = self.name.format(bucket=bucket.files.bucket)
        if not bucket.records:
            yield files.write_parquet(pl.DataFrame(schema=LISTS), self.folder, name)
            return
        video_ids = read_candidates(self.inputs)["video_id"]
        with_hidden = set(read_hidden(bucket.files)["user_id"])
        counts: Counter[str] = Counter()
        lists, vectors = (ParquetFrameWriter(self.folder, path) for path in (name, f"{USER_VECTORS}/{name}"))
        with lists, vectors:
            for result in results:
                lists.write(to_lists(result.user_ids, result.top, video_ids))
                vectors.write(vectors_frame(result.user_ids, result.vectors))
                counts.update(self._counts(result, with_hidden))
        yield from (parts.entry() for parts in (lists, vectors))
        yield Counts(dict(counts))

    def _counts(self, result: SearchResult, with_hidden: set[str]) -> dict[str, int]:
        counts = {
            "users": len(result.user_ids),
            "short_lists": int((result.top.lengths < self.inputs.k).sum()),
            "empty_lists": int((result.top.lengths == 0).sum()),
        }
        if with_hidden:
            counts["users_with_hidden_videos"] = sum(user in with_hidden for user in result.user_ids)
        if result.excluded.group is not None:
            counts["users_without_a_listed_country"] = int((result.excluded.group == 0).sum())
        return counts

    def _write_defaults(self, results: Iterator[SearchResult]) -> Iterator[FileEntry | Counts]:
        video_ids = read_candidates(self.inputs)["video_id"]
        lists = pl.concat([to_lists(result.user_ids, result.top, video_ids) for result in results])
        lists = lists.select(pl.col("user_id").replace("", None).alias("country"), "video_ids", "scores")
        yield files.write_parquet(lists, self.folder, f"{DEFAULTS}/{self.defaults}")
        yield Counts({"default_lists": lists.height})
