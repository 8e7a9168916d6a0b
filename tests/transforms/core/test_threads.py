"""Elements at once on one machine: in their order, truly together, and what all of them share loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms.core.threads import ThreadedMap, process_cache, side_by_side

SECONDS = 60  # that one waits for another; only a failure takes so long


def test_elements_are_worked_on_together_and_what_is_made_comes_in_their_order() -> None:
    both = Barrier(2)

    def work(element: int) -> Iterator[tuple[int, str]]:
        both.wait(SECONDS)  # goes on once both are here
        yield from ((element, part) for part in "ab")

    assert list(side_by_side([2, 1], work, 2)) == [(2, "a"), (2, "b"), (1, "a"), (1, "b")]


def test_one_element_is_worked_on_as_it_is_asked_for() -> None:
    made: list[int] = []

    def work(element: int) -> Iterator[int]:
        for n in range(element):
            made.append(n)
            yield n

    found = side_by_side([3], work, 2)
    assert next(found) == 0 and made == [0]
    assert list(found) == [1, 2]


def test_an_error_is_raised_when_those_beside_it_are_done() -> None:
    failed, done = Barrier(2), list[str]()

    def work(element: str) -> Iterator[str]:
        failed.wait(SECONDS)
        if element == "bad":
            raise ValueError(f"{element} element")
        done.append(element)
        yield element

    with pytest.raises(ValueError, match="bad element"):
        list(side_by_side(["bad", "good"], work, 2))
    assert done == ["good"]


def test_a_pipeline_makes_all_of_every_element_under_its_tag() -> None:
    def work(element: int) -> Iterator[object]:
        yield element
        yield beam.pvalue.TaggedOutput("squares", element**2)

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(range(5)) | ThreadedMap(work, threads=2, tags=("squares",), main="own")
        counted = [(found.own, [0, 1, 2, 3, 4]), (found.squares, [0, 1, 4, 9, 16])]
        for number, (rows, expected) in enumerate(counted):
            assert_that(rows, equal_to(expected), label=f"{number}")


def test_what_is_loaded_once_is_kept_for_the_last_two_keys() -> None:
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
def test_all_that_is_made_comes_in_the_order_of_the_elements(threads: int) -> None:
    assert list(side_by_side(range(4), lambda n: [n] * n, threads)) == [1, 2, 2, 3, 3, 3]
    assert list(side_by_side([], lambda n: [n], threads)) == []


def test_as_many_as_there_are_threads_are_in_work_at_once_and_no_more() -> None:
    at_work, most, lock, both = 0, 0, Lock(), Barrier(2)

    def work(_: int) -> Iterator[None]:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        both.wait(timeout=60)  # breaks where one is alone
        with lock:
            at_work -= 1
        yield

    assert len(list(side_by_side(range(8), work, 2))) == 8
    assert most == 2


def test_one_thread_takes_an_element_when_what_the_last_gave_was_taken() -> None:
    taken: list[int] = []
    made = side_by_side(range(3), lambda n: taken.append(n) or [n], 1)
    next(made)
    assert taken == [0]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_one_is_raised_after_what_came_before_it(threads: int) -> None:
    made = side_by_side([1, 2, 0, 4], lambda n: [4 // n], threads)
    assert [next(made), next(made)] == [4, 2]
    with pytest.raises(ZeroDivisionError):
        next(made)
