from __future__ import annotations

from collections.abc import Iterator
from threading import Barrier, Lock

import pytest

from transforms.side_by_side import side_by_side


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
