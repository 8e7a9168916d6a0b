"""Elements processed in threads: order, concurrency, errors, and caches that load once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms.core.process_cache import process_cache
from transforms.core.threads import ThreadedMap, threaded_map

SECONDS = 60  # the timeout of barriers; only a failing test waits this long


def test_single_element_is_processed_lazily() -> None:
    made: list[int] = []

    def work(element: int) -> Iterator[int]:
        for n in range(element):
            made.append(n)
            yield n

    found = threaded_map([3], work, 2)
    assert next(found) == 0 and made == [0]
    assert list(found) == [1, 2]


def test_error_is_raised_after_concurrent_elements_are_finished() -> None:
    failed, done = Barrier(2), list[str]()

    def work(element: str) -> Iterator[str]:
        failed.wait(SECONDS)
        if element == "bad":
            raise ValueError(f"{element} element")
        done.append(element)
        yield element

    with pytest.raises(ValueError, match="bad element"):
        list(threaded_map(["bad", "good"], work, 2))
    assert done == ["good"]


def test_pipeline_emits_all_results_under_their_tags() -> None:
    def work(element: int) -> Iterator[object]:
        yield element
        yield beam.pvalue.TaggedOutput("squares", element**2)

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(range(5)) | ThreadedMap(work, threads=2, tags=("squares",), main="own")
        counted = [(found.own, [0, 1, 2, 3, 4]), (found.squares, [0, 1, 4, 9, 16])]
        for number, (rows, expected) in enumerate(counted):
            assert_that(rows, equal_to(expected), label=f"{number}")


def test_process_cache_loads_once_and_keeps_the_last_two_keys() -> None:
    loads: list[str] = []

    @process_cache
    def load(key: str) -> list[str]:
        loads.append(key)
        return [key]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(load, ["a"] * 32))
    assert all(one is found[0] for one in found) and loads == ["a"]
    assert load("b") == ["b"] and load("a") is found[0]
    assert load("c") == ["c"] and load("a") is found[0] and loads == ["a", "b", "c"]
    assert load("b") == ["b"] and loads == ["a", "b", "c", "b"]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_keep_the_order_of_elements(threads: int) -> None:
    assert list(threaded_map(range(4), lambda n: [n] * n, threads)) == [1, 2, 2, 3, 3, 3]
    assert list(threaded_map([], lambda n: [n], threads)) == []


def test_number_of_concurrent_elements_equals_the_number_of_threads() -> None:
    at_work, most, lock, both = 0, 0, Lock(), Barrier(2)

    def work(_: int) -> Iterator[None]:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        both.wait(SECONDS)
        with lock:
            at_work -= 1
        yield

    assert len(list(threaded_map(range(8), work, 2))) == 8
    assert most == 2


def test_single_thread_takes_elements_lazily() -> None:
    taken: list[int] = []

    def work(number: int) -> list[int]:
        taken.append(number)
        return [number]

    next(threaded_map(range(3), work, 1))
    assert taken == [0]


@pytest.mark.parametrize("threads", [1, 2])
def test_error_is_raised_after_the_results_of_earlier_elements(threads: int) -> None:
    made = threaded_map([1, 2, 0, 4], lambda n: [4 // n], threads)
    assert [next(made), next(made)] == [4, 2]
    with pytest.raises(ZeroDivisionError):
        next(made)
