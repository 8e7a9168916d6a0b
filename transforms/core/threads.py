"""Process several elements at once in threads of one worker.

Nearly all work happens in native code, which releases Python's global lock. Distributed runners have enough workers,
but Beam's embedded runner has a single thread. `docs/log.md` lists the alternatives that were tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

Work = Callable[[Any], Iterable[Any]]


@dataclass
class ThreadedMap(beam.PTransform):
    """Apply `work` to each element, as `beam.FlatMap` does, in `threads` threads.

    tags, main: the arguments of Beam's `with_outputs`.
    Up to `threads` elements and all their results are in memory at the same time. An error is raised once the other
    elements of its batch are finished.
    """

    work: Work
    threads: int
    tags: tuple[str, ...]
    main: str

    def expand(self, elements: beam.PCollection) -> Any:
        batches = elements | beam.BatchElements(min_batch_size=self.threads, max_batch_size=self.threads)
        split = beam.FlatMap(threaded_map, self.work, self.threads).with_outputs(*self.tags, main=self.main)
        return batches | split


def threaded_map(elements: Sequence[Any], work: Work, threads: int) -> Iterator[Any]:
    """Yield the results of `work` for each element, in the order of the elements, using `threads` threads."""
    if threads == 1 or len(elements) == 1:
        for element in elements:
            yield from work(element)
        return
    with ThreadPoolExecutor(threads) as pool:
        for results in pool.map(lambda element: list(work(element)), elements):
            yield from results
