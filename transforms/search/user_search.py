"""The search for the users of each bucket, a batch of users at a time.

records of a bucket -> Tower -> vectors -> top_k under the bucket's limits -> UserLists -> SearchResult -> finish
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam

from transforms.core.digests import MAX_BUCKETS
from transforms.core.threads import threaded_map
from transforms.search.index_files import read_index
from transforms.search.shard_search import Finish, search_shards
from transforms.search.tower import load_tower
from transforms.search.user_limits import BucketRecords, SearchInputs
from transforms.search.user_lists import SearchResult, UserLists

SLICE = 64  # buckets that a worker searches together: in all shards, or in its threads
_EXTRA_BUCKETS = 1  # in addition to one per thread: files of one bucket are read and written during other searches


@dataclass
class SearchBuckets(beam.PTransform):
    """Search for the users of each of `BucketRecords`; return the results of `finish` for each bucket."""

    inputs: SearchInputs
    finish: Finish
    threads: int = 1

    def expand(self, buckets: beam.PCollection[BucketRecords]) -> beam.PCollection:
        if len(self.inputs.index) == 1:
            size = 1 if self.threads == 1 else SLICE
            slices = buckets | beam.Reshuffle() | beam.BatchElements(size, size)
        else:
            # A single process with threads takes all buckets as one slice, so that it loads each shard once.
            size = SLICE if self.threads == 1 else MAX_BUCKETS
            keyed = beam.Map(lambda bucket: (bucket.files.bucket // size, bucket))
            slices = buckets | keyed.with_output_types(tuple[int, BucketRecords]) | beam.GroupByKey() | beam.Values()
        return slices | beam.FlatMap(self._search)

    def _search(self, buckets: Iterable[BucketRecords]) -> Iterator[Any]:
        ordered = sorted(buckets, key=lambda bucket: bucket.files.bucket)
        if len(self.inputs.index) == 1:
            at_once = self.threads + _EXTRA_BUCKETS if self.threads > 1 else 1
            yield from threaded_map(ordered, lambda one: self.finish(one, search_bucket(one, self.inputs)), at_once)
            return
        with tempfile.TemporaryDirectory() as scratch:
            yield from search_shards(ordered, self.inputs, self.finish, self.threads, Path(scratch))


def search_bucket(bucket: BucketRecords, inputs: SearchInputs) -> Iterator[SearchResult]:
    """Yield the search results of a bucket's users in an index of one shard."""
    if bucket.records:
        lists, index = UserLists.from_bucket(bucket, inputs), read_index(inputs.index[0])
        for users in load_tower(inputs.tower).users(bucket.records):
            excluded = lists.limits.excluded(users.user_ids)
            found = lists.limits.candidates(index, users.vectors, excluded, inputs.depth)
            yield lists.build(found, index.vectors, users=users, excluded=excluded)
