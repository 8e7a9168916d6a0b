from __future__ import annotations

import threading

import pytest

from pipelines.checks.patience import within


def test_an_answer_in_time_is_given() -> None:
    assert within(60, lambda: 7) == 7
    assert within(60, lambda: None) is None


def test_an_error_in_time_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)


def test_what_does_not_answer_is_left_alone() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        within(0.05, threading.Event().wait)
