"""The evaluation of lists: searches for held-out users as of the start of the held-out days.

They use the tower, index, exclusions and rules of serving, and so do the baselines. Videos uploaded in the held-out
days could not have been shown; such labels count as missed, like those out of vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Protocol, Self

import apache_beam as beam
import numpy as np
import polars as pl

from transforms.core import progress
from transforms.core.digests import concat
from transforms.core.files import FileEntry
from transforms.core.parquet_writer import ParquetFrameWriter
from transforms.evaluation.held_out import RECORD, HeldOut
from transforms.evaluation.list_statistics import VideoCounts, freshness_curve, length_shares, list_figures
from transforms.evaluation.measure_batch import (
    HoldoutInputs,
    Shared,
    measure_ann_loss,
    measure_ranked,
    measure_users,
    read_shared,
)
from transforms.evaluation.night_metrics import WATCHED, Key, MeasuredRecord, ShownRecord, measured_record
from transforms.evaluation.user_metrics import Measured
from transforms.examples.tfrecords import read_tfrecords
from transforms.logs.event_window import COMPLETED_COLUMNS, Window
from transforms.ranking.rank_lists import HeldOutRanking
from transforms.ranking.watch_time_recall import MeasuredRanking, WatchTime
from transforms.search.neighbours import to_lists
from transforms.search.user_limits import BucketRecords, read_candidates
from transforms.search.user_lists import SearchResult
from transforms.search.user_search import SearchBuckets

_FILE, _RANKED = ("file",), ("ranking",)  # keys next to those of `night_metrics`
EvaluationRecord = FileEntry | MeasuredRecord | ShownRecord | MeasuredRanking


class Mergeable(Protocol):
    """A value over some users that merges exactly with one over other users."""

    def merge(self, other: Self) -> Self: ...


@dataclass
class WriteEvaluation(beam.PTransform):
    """Evaluate the `BucketRecords` of the holdout; write lists/*.parquet, one per bucket.

    Return `FileEntry`s, `MeasuredRecord`s, `ShownRecord`s and, if the lists are ranked, one `MeasuredRanking`. window:
    that of the night, including the held-out days.
    """

    inputs: HoldoutInputs
    window: Window
    folder: str
    name: str
    threads: int = 1  # buckets processed at the same time
    ranking: HeldOutRanking | None = None  # None: lists are not ranked

    def expand(self, buckets: beam.PCollection[BucketRecords]) -> beam.PCollection[EvaluationRecord]:
        found = buckets | SearchBuckets(self.inputs.search, self._evaluate, self.threads)
        written = found | "Files" >> beam.Filter(lambda pair: pair[0] == _FILE) | beam.Values()
        values = found | "Measured" >> beam.Filter(lambda pair: pair[0] != _FILE).with_output_types(
            tuple[Key, Mergeable]
        )
        measured = values | beam.CombinePerKey(_merge) | beam.MapTuple(partial(_record, self.inputs))
        return (written, measured) | beam.Flatten()

    def _evaluate(
        self, bucket: BucketRecords, results: Iterator[SearchResult]
    ) -> Iterator[tuple[Key, FileEntry | Mergeable]]:
        progress.advance()
        if not bucket.records:
            return
        shared, search = read_shared(self.inputs), self.inputs.search
        held_out, first, video_ids = self._held_out(bucket, shared), 0, read_candidates(search)["video_id"]
        exact = self.inputs.exact
        lists = ParquetFrameWriter(self.folder, f"lists/{self.name.format(bucket=bucket.files.bucket)}")
        total: dict[Key, Mergeable] = {}
        to_rank: list[pl.DataFrame] = []  # of all batches, so that the bucket's events are read once
        with lists:
            for result in results:
                users = held_out.batch(first, len(result.user_ids))
                first += len(result.user_ids)
                shown = to_lists(result.user_ids, result.top, video_ids)
                lists.write(shown)
                if self.ranking is not None:
                    to_rank.append(shown)
                _merge_into(total, measure_users(users, result, shared, self.inputs))
                if exact is not None and bucket.files.bucket < exact.buckets:
                    rows = np.flatnonzero(exact.contains(users.user_ids).to_numpy())
                    _merge_into(total, measure_ann_loss(users, result, rows, shared, search))
        if self.ranking is not None and to_rank:
            unranked = concat(to_rank)
            ranked = self.ranking.rank(unranked, bucket.files)
            watch_time = self.ranking.watch_time(unranked, ranked, self._held_out_watches(bucket))
            _merge_into(total, [(_RANKED, watch_time), *measure_ranked(held_out, ranked, shared, self.inputs)])
        yield _FILE, lists.entry()
        yield from total.items()

    def _held_out_watches(self, bucket: BucketRecords) -> pl.DataFrame:
        """Return the watches of the held-out days."""
        watches = self.window.events_with_impressions(bucket.files).watches
        return watches.filter(pl.col("time") >= self.inputs.as_of)

    def _held_out(self, bucket: BucketRecords, shared: Shared) -> HeldOut:
        records = read_tfrecords(bucket.records, RECORD)
        events = self.window.unordered_events(bucket.files, COMPLETED_COLUMNS, ("user_id", "time"))
        return HeldOut.from_records(
            records, events.watches, events.searches, shared.videos, shared.spec, self.inputs.as_of
        )


def _record(inputs: HoldoutInputs, key: Key, value: Mergeable) -> EvaluationRecord:
    if isinstance(value, WatchTime):
        return value.compute()
    if isinstance(value, Measured):
        return measured_record(key, value, k=inputs.search.k)
    assert isinstance(value, VideoCounts)
    shared = read_shared(inputs)
    found = list_figures(value, shared.uploads, inputs.as_of)
    if key[-1] != WATCHED:
        found["coverage"] = found["distinct"] / len(shared.id_of)
    return ShownRecord(
        system=key[-1],
        figures=found,
        by_day=freshness_curve(value, shared.uploads, inputs.as_of),
        by_length=length_shares(value, shared.lengths),
    )


def _merge_into(total: dict[Key, Mergeable], measured: Iterable[tuple[Key, Mergeable]]) -> None:
    """Merge the values of a batch into those of its bucket, so that memory does not grow with the number of batches."""
    for key, value in measured:
        total[key] = total[key].merge(value) if key in total else value


def _merge(values: Iterable[Mergeable]) -> Mergeable:
    return reduce(lambda one, other: one.merge(other), values)
