"""Baselines: one order of all videos for all users, under the serving rules.

order = order_by_count(counts, videos)
top = lists_in_order(order, build_query_rules(excluded, cap, b, n), k=200)  # the first 200 that each user may be shown
"""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import polars as pl

from transforms.core import progress
from transforms.examples.vocabulary import VocabularyFile, WriteVocabulary, count_videos
from transforms.logs.event_window import COMPLETED_COLUMNS, BucketFiles, Holdout, Window
from transforms.search.exact_search import BLOCK, MASKED_SCORE, Candidates, Positions
from transforms.search.exclusions import QueryRules


def order_by_count(counts: pl.DataFrame, videos: pl.DataFrame) -> Positions:
    """Return the positions of an index by falling count, ties by position.

    counts: token, count. videos: `VIDEOS`.
    """
    known = videos.join(counts, left_on="video_id", right_on="token", how="left", maintain_order="left")
    return np.argsort(-known["count"].fill_null(0).to_numpy(), kind="stable").astype(np.int32)


def lists_in_order(order: Positions, rules: QueryRules, *, k: int) -> Candidates:
    """Return the first k allowed positions of each query in one order of all positions; scores fall with the place.

    All queries share the order, of which as much is read as the queries with the fewest allowed positions need.
    """
    b, n = len(rules.allowed_counts), len(order)
    positions, scores = np.full((b, k), -1, np.int32), np.full((b, k), MASKED_SCORE, np.float32)
    pending, depth = np.flatnonzero(rules.max_lengths), min(n, 2 * k)
    while len(pending):
        head = Candidates(positions=order[:depth], scores=-np.arange(depth, dtype=np.float32))
        size, short = max(1, BLOCK // 4 // depth), []
        for rows in (pending[start : start + size] for start in range(0, len(pending), size)):
            found = rules.select(rows).first_allowed(_repeat_rows(head, len(rows)), k)
            positions[rows], scores[rows] = found.positions, found.scores
            short.append(rows[found.lengths < np.minimum(rules.max_lengths[rows], k)])
        pending = np.concatenate(short) if depth < n else pending[:0]
        depth = min(n, 4 * depth)
    return Candidates(positions=positions, scores=scores)


def _repeat_rows(head: Candidates, times: int) -> Candidates:
    shape = (times, len(head.positions))
    return Candidates(positions=np.broadcast_to(head.positions, shape), scores=np.broadcast_to(head.scores, shape))


@dataclass
class CountVideos(beam.PTransform):
    """Write a Parquet file (`COUNTS`) of the `n` videos most often completed in the window, without held-out watches;
    return its `VocabularyFile`."""

    window: Window
    holdout: Holdout
    n: int
    folder: str
    name: str

    def expand(self, buckets: beam.PCollection[BucketFiles]) -> beam.PCollection[VocabularyFile]:
        counts = buckets | beam.Reshuffle() | beam.Map(self._count).with_output_types(pl.DataFrame)
        return counts | WriteVocabulary(self.n, self.folder, self.name)

    def _count(self, bucket: BucketFiles) -> pl.DataFrame:
        events = self.window.unordered_events(bucket, COMPLETED_COLUMNS, ("user_id", "time"))
        progress.advance()
        return count_videos(self.holdout.learnable(events.watches))
