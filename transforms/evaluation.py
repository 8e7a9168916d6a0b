"""How good the lists would have been: held-out users, searched for as of the start of the held-out days.

Same tower, index and exclusions as serving, beside the most popular videos under the same rules. What was uploaded in
the held-out days could not have been shown; such labels count as missed, like those out of vocabulary.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms import files, progress
from transforms.collect import Record
from transforms.exact_search import ExactIndex
from transforms.excluded import Excluded
from transforms.indexing import read_index, read_videos
from transforms.metrics import RankingMetrics, hits_from_ids
from transforms.neighbours import BucketRecords, SearchInputs, excluded_for, read_seen, to_lists
from transforms.search import TopK, top_k
from transforms.tfrecords import read_tfrecords
from transforms.tower import load_tower
from transforms.window import Window

NEIGHBOURS, MOST_POPULAR = "neighbours", "most popular"
CUTS = (10, 50, 100, 200)


def cuts(k: int) -> tuple[int, ...]:
    """Where lists of k are cut for metrics: the usual places up to k, and k."""
    return tuple(sorted({*(cut for cut in CUTS if cut < k), k}))


def popularity_index(videos: pl.DataFrame, counts: pl.DataFrame) -> ExactIndex:
    """An index whose best are the most completed videos, ties by id: one dimension, the count; the query is 1.

    videos: `read_videos`; counts: the vocabulary, in the order of its ids.
    """
    of_position = counts["count"].gather(videos["id"] - 1).to_numpy()
    return ExactIndex(vectors=of_position.astype(np.float32)[:, None])


def score_lists(top: TopK, labels: pl.Series, ids: NDArray[np.int64], ks: Iterable[int]) -> RankingMetrics:
    """Lists against labels. labels: a list of vocabulary ids a user, 0 for what cannot be found; ids: of each
    position."""
    shown = np.where(top.positions >= 0, ids[top.positions], -1)
    wanted = labels.list.len().to_numpy().astype(np.int64)
    flat = labels.explode(empty_as_null=False).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(wanted)])
    hits = hits_from_ids(shown, offsets=offsets, labels=np.where(flat > 0, flat, -1))
    return RankingMetrics.from_hits(hits, wanted, ks=ks)


def merge_records(records: Iterable[Record], system: str, k: int) -> dict[str, float]:
    """The figures of one system from all buckets' records; none where nobody was held out."""
    total = RankingMetrics.empty(ks=cuts(k))
    for record in records:
        if record.get("system") == system:
            total = total.merge(RankingMetrics(**{n: _tuple(v) for n, v in record["metrics"].items()}))
    return total.compute() if total.users else {}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass
class WriteEvaluation(beam.PTransform):
    """`BucketRecords` of the holdout -> lists/*.parquet, one a bucket; gives records of files and of each system's
    metrics.

    window: what users had seen, up to the start of the held-out days. counts: path of the video vocabulary.
    """

    window: Window
    inputs: SearchInputs
    counts: str
    folder: str
    name: str

    def expand(self, buckets: beam.PCollection[BucketRecords]) -> beam.PCollection[Record]:
        return buckets | beam.Reshuffle() | beam.FlatMap(self._evaluate)

    def _evaluate(self, bucket: BucketRecords) -> Iterator[Record]:
        progress.advance()
        if not bucket.records:
            return
        seen = read_seen(self.window, bucket.files, self.inputs.exclude)
        labels = read_tfrecords(bucket.records, {"user_id": pl.String(), "label": pl.List(pl.Int64)})
        videos = read_videos(self.inputs.videos)
        popular = popularity_index(videos, files.read_parquet(self.counts))
        lists, first = [], 0
        for ids, vectors in load_tower(self.inputs.tower).users(bucket.records):
            excluded = _as_of(self.window.end, excluded_for(ids, seen, videos), videos)
            wanted = labels["label"].slice(first, len(ids))
            first += len(ids)
            for system, top in self._systems(vectors, excluded, popular):
                metrics = score_lists(top, wanted, videos["id"].to_numpy(), cuts(self.inputs.k))
                yield {"system": system, "metrics": asdict(metrics)}
                if system == NEIGHBOURS:
                    lists.append(to_lists(ids, top, videos["video_id"]))
        entry = files.write_parquet(
            pl.concat(lists), self.folder, f"lists/{self.name.format(bucket=bucket.files.bucket)}"
        )
        yield {"file": asdict(entry)}

    def _systems(
        self, vectors: NDArray[np.float32], excluded: Excluded, popular: ExactIndex
    ) -> Iterator[tuple[str, TopK]]:
        ones = np.ones((len(vectors), 1), np.float32)
        yield NEIGHBOURS, top_k(read_index(self.inputs.index), vectors, k=self.inputs.k, excluded=excluded)
        yield MOST_POPULAR, top_k(popular, ones, k=self.inputs.k, excluded=excluded)


def _as_of(moment: dt.datetime, excluded: Excluded, videos: pl.DataFrame) -> Excluded:
    """Without the videos uploaded from that moment on."""
    later = (videos["upload_time"] >= moment).fill_null(False).to_numpy()
    return Excluded(offsets=excluded.offsets, positions=excluded.positions, unavailable=later if later.any() else None)
