from __future__ import annotations

import threading

import pytest

from pipelines.checks.timeouts import with_timeout


def test_an_answer_in_time_is_given() -> None:
    assert with_timeout(60, lambda: 7) == 7
    assert with_timeout(60, lambda: None) is None


def test_an_error_in_time_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        with_timeout(60, lambda: 1 // 0)


def test_what_does_not_answer_is_left_alone() -> None:
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        with_timeout(0.05, threading.Event().wait)
