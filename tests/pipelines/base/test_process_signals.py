from __future__ import annotations

import os
import signal
import threading

import pytest

from pipelines.base import process_signals
from pipelines.base.process_signals import Stopped


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_is_raised_and_says_its_exit_code(number: signal.Signals, code: int) -> None:
    outside = signal.signal(number, signal.default_int_handler)  # under nohup the tests too ignore SIGHUP
    try:
        message = f"stopped by {number.name}; nothing was published"
        with pytest.raises(Stopped, match=message) as caught, process_signals.raise_stopped():
            os.kill(os.getpid(), number)
            threading.Event().wait(10)
        assert caught.value.code == code and signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, outside)


def test_nothing_that_goes_on_after_errors_swallows_it() -> None:
    assert not issubclass(Stopped, Exception)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process_signals.raise_stopped():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_changes() -> None:
    seen = []

    def look() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with process_signals.raise_stopped():
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [True]
