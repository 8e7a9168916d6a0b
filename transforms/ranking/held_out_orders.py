"""Choose the weight of `order` by the lists of held-out users.

holdout records, model, index -> lists as of the start of the held-out days, ranker -> ChooseOrder -> `ChosenOrder`

The lists are those that stage evaluation measures, except that they have no reserved places for new videos: which
videos were new at that moment is only counted there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

import apache_beam as beam

from transforms.core import progress
from transforms.core.digests import concat
from transforms.logs.event_window import Window
from transforms.ranking.order import ChosenOrder, OrderSums, choose_order
from transforms.ranking.rank_lists import HeldOutRanking
from transforms.search.neighbours import to_lists
from transforms.search.user_limits import BucketRecords, SearchInputs, read_candidates
from transforms.search.user_lists import SearchResult
from transforms.search.user_search import SearchBuckets


@dataclass
class ChooseOrder(beam.PTransform):
    """Search for the users of the holdout's `BucketRecords`, rank their lists, and return one `ChosenOrder`.

    search: as of the start of the held-out days. window: that of the night, with the held-out days.
    """

    search: SearchInputs
    ranking: HeldOutRanking
    window: Window
    threads: int = 1  # buckets processed at the same time

    def expand(self, buckets: beam.PCollection[BucketRecords]) -> beam.PCollection[ChosenOrder]:
        sums = buckets | SearchBuckets(self.search, self._measure, self.threads)
        return sums | beam.CombineGlobally(merge_sums) | beam.Map(choose_order, cut=self.ranking.cut)

    def _measure(self, bucket: BucketRecords, results: Iterator[SearchResult]) -> Iterator[OrderSums]:
        progress.advance()
        if not bucket.records:
            return
        video_ids = read_candidates(self.search)["video_id"]
        lists = [to_lists(result.user_ids, result.top, video_ids) for result in results]
        if lists:
            sums = merge_sums(self.ranking.orders(concat(lists), bucket.files, self.window))
            if sums is not None:
                yield sums


def merge_sums(parts: Iterable[OrderSums | None]) -> OrderSums | None:
    """Return all parts merged; None if there are none."""
    known = [part for part in parts if part is not None]
    return reduce(OrderSums.merge, known) if known else None
