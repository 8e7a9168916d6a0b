"""What commands print: to whom, under which name, and without control characters."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import TextIO

import pytest

from pipelines.base import console
from pipelines.night.errors import StageError, run_command


def throw(error: Exception) -> int:
    raise error


@contextmanager
def closed_pipe() -> Iterator[TextIO]:
    """A standard output that nobody reads, as after `| head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output, redirect_stdout(output):
        yield output


@pytest.mark.parametrize("text", ["short", "long " * 100_000], ids=["flushed at the end", "in between"])
def test_output_that_nobody_reads_ends_a_command_without_a_traceback(text: str) -> None:
    def work() -> int:
        print(text)
        return 0

    said: list[str] = []
    with closed_pipe() as output:
        assert run_command(work, said.append) == 141 and said == []
        print("more", file=output, flush=True)  # goes nowhere: the interpreter can flush when it ends


def test_help_that_nobody_reads_is_no_error() -> None:
    with closed_pipe(), pytest.raises(SystemExit) as caught:
        console.Parser("nightly", "Run a night.").parse_args(["--help"])
    assert caught.value.code == 141


def test_another_broken_pipe_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(partial(throw, BrokenPipeError(32, "Broken pipe"))) == 1
    assert capsys.readouterr().err == "watchnext: BrokenPipeError: [Errno 32] Broken pipe\n"


def test_a_locale_without_the_letters_of_a_title_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert run_command(lambda: print("Zo\u00eb \u6f22") or 0) == 0
    assert written.getvalue() == b"Zo\\xeb \\u6f22\n"


@pytest.mark.parametrize(
    ("called", "usage"),
    [
        ("/opt/bin/watchnext", "watchnext nightly"),
        ("/src/pipelines/cli.py", "watchnext nightly"),
        ("/src/pipelines/nightly.py", "python -m pipelines.nightly"),
    ],
)
def test_usage(called: str, usage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [called, "nightly"])
    with pytest.raises(SystemExit):
        console.Parser("nightly", "Run a night.").parse_args(["\x1b[31m"])
    message = f"{usage}: error: unrecognized arguments: \\x1b[31m\n"
    assert capsys.readouterr().err == f"usage: {usage} [-h]\n{message}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07 \x9b31m", r"\x1b]0;title\x07 \x9b31m"),
        ("a\r\u2028\u202eb\ud800", r"a\r\u2028\u202eb\ud800"),
        ("two lines\n\tZo\u00eb \u6f22\u3000\U0001f469\u200d\U0001f680", None),
    ],
    ids=["terminal", "lines and directions", "letters"],
)
def test_control_characters_are_written_as_escapes(text: str, shown: str | None) -> None:
    assert console.printable(text) == (text if shown is None else shown)
    for encoding in ("utf-8", "ascii", "latin-1"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        as_json = console.printable_json(json.dumps(text, ensure_ascii=False), stream)
        assert json.loads(as_json.encode(encoding).decode(encoding)) == text and "\x9b" not in as_json


def test_messages_of_errors_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(partial(throw, StageError("user \x1b[2J is not known\nsecond line"))) == 1
    assert capsys.readouterr().err == "watchnext: user \\x1b[2J is not known\nsecond line\n"


@pytest.mark.parametrize("text", ["0001-01-01", "1969-12-31", "3000-01-01", "9999-12-31", "2026-11-31", "today"])
def test_a_date_without_logs_is_a_wrong_argument(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a date"):
        console.parse_date(text)


@pytest.mark.parametrize("text", ["1970-01-01", "2026-11-21", "2999-12-31"])
def test_other_dates_are_read(text: str) -> None:
    assert console.parse_date(text).isoformat() == text
