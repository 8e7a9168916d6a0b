"""Several elements at once on one machine: native code, which does nearly all the work, lets other threads run.

Where a runner has workers enough of its own, the embedded one has a single thread; what it was tried with instead is in
the log of what was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, wraps
from threading import Lock
from typing import Any, TypeVar

import apache_beam as beam

Work = Callable[[Any], Iterable[Any]]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def process_cache(load: Callable[[Key], Value]) -> Callable[[Key], Value]:
    """`load`, which keeps what it gave for the last two keys; threads that ask at once wait for the first of them."""
    kept, lock = lru_cache(maxsize=2)(load), Lock()

    @wraps(load)
    def loaded(key: Key) -> Value:
        with lock:
            return kept(key)

    return loaded


@dataclass
class ThreadedMap(beam.PTransform):
    """Elements -> what `work` makes of each, `threads` of them at a time: `tags` and `main` as `with_outputs` has them.

    As many elements and all that comes of them are in memory together. An error of one is raised when those beside it
    are done.
    """

    work: Work
    threads: int
    tags: tuple[str, ...]
    main: str

    def expand(self, elements: beam.PCollection) -> Any:
        batches = elements | beam.BatchElements(min_batch_size=self.threads, max_batch_size=self.threads)
        split = beam.FlatMap(side_by_side, self.work, self.threads).with_outputs(*self.tags, main=self.main)
        return batches | split


def side_by_side(elements: Sequence[Any], work: Work, threads: int) -> Iterator[Any]:
    """What `work` makes of each element, in their order, `threads` of them at a time."""
    if threads == 1 or len(elements) == 1:
        for element in elements:
            yield from work(element)
        return
    with ThreadPoolExecutor(threads) as pool:
        for made in pool.map(lambda element: list(work(element)), elements):
            yield from made
