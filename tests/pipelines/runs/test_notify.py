from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from nights import has_ended, wait_for

from pipelines.base import lock, process_signals
from pipelines.config.settings import NotifySettings
from pipelines.night.night import Outcome
from pipelines.runs import notify

FAILED = Outcome(run="r1", date="2026-11-21", code=1, message="stage train ended", seconds=3.5)
DONE = Outcome(run="r2", date="2026-11-22", code=0, message="published", seconds=4.5)
SENT = {
    "run": "r1",
    "date": "2026-11-21",
    "status": "failed",
    "exit_code": 1,
    "seconds": 3.5,
    "root": "/runs",
    "message": "stage train ended",
    "text": "watchnext: night 2026-11-21 failed (exit code 1): stage train ended",
}


def send(end: Outcome = FAILED, **settings: Any) -> str:
    return notify.send(NotifySettings(**settings), end, root="/runs")


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where `writes` puts what it was told."""
    return tmp_path / "told.json"


def writes(told: Path) -> list[str]:
    """A command that keeps its standard input and those of its variables that are ours."""
    script = "import json, os, sys\nours = {k: v for k, v in os.environ.items() if k.startswith('WATCHNEXT_')}\n"
    script += "json.dump([json.load(sys.stdin), ours], open(sys.argv[1], 'w'))"
    return [sys.executable, "-c", script, str(told)]


def test_a_command_gets_the_message_as_json_and_as_variables(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lock.TOKEN_VARIABLE, "token")
    monkeypatch.setenv(process_signals.PARENT_PIPE_VARIABLE, "3")
    assert send(command=writes(told)) == ""
    content, variables = json.loads(told.read_text())
    assert content == SENT
    assert variables.items() >= {f"WATCHNEXT_{name.upper()}": str(value) for name, value in SENT.items()}.items()
    assert not variables.keys() & {lock.TOKEN_VARIABLE, process_signals.PARENT_PIPE_VARIABLE}


def test_a_command_may_be_a_line_for_the_shell(told: Path) -> None:
    assert send(command=f'printf %s "$WATCHNEXT_DATE $WATCHNEXT_STATUS" > {told} && cat > /dev/null') == ""
    assert told.read_text() == "2026-11-21 failed"


@pytest.mark.parametrize(
    ("on", "end", "tells"),
    [("failure", FAILED, True), ("failure", DONE, False), ("always", FAILED, True), ("always", DONE, True)],
)
def test_a_successful_night_is_notified_if_configured(told: Path, on: str, end: Outcome, tells: bool) -> None:
    assert send(end, command=writes(told), on=on) == ""
    assert told.exists() == tells


def test_of_a_night_that_went_well_no_exit_code_is_shown() -> None:
    found = notify.message(DONE, "/runs")
    assert found["text"] == "watchnext: night 2026-11-22 done: published" and found["exit_code"] == 0


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        (["/nowhere/mail"], "notify.command could not be run: .*No such file"),
        ("echo out of paper >&2; exit 4", "notify.command ended with exit code 4: out of paper"),
        ("exit 5", "notify.command ended with exit code 5$"),
        (
            [sys.executable, "-c", "import threading; threading.Event().wait()"],
            r"notify.command took longer than 0\.2 s \(notify.timeout_seconds\) and was ended",
        ),
    ],
)
def test_a_command_that_fails_is_a_warning(command: str | list[str], trouble: str) -> None:
    with pytest.raises(AssertionError, match=trouble):
        raise AssertionError(send(command=command, timeout_seconds=0.2 if "0" in trouble else 10))


def test_at_the_timeout_all_that_a_command_started_is_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"sleep 1000 & echo $$ $! > {pids}; wait"
    trouble = send(command=command, timeout_seconds=3)
    assert trouble == "notify.command took longer than 3 s (notify.timeout_seconds) and was ended"
    wait_for(lambda: not [pid for pid in pids.read_text().split() if not has_ended(int(pid))])


def test_a_message_that_no_variable_can_hold_is_sent_whole(told: Path) -> None:
    message = "\0\ud800" + "x" * 200_000
    assert send(replace(FAILED, message=message), command=writes(told)) == ""
    content, variables = json.loads(told.read_text())
    assert content["message"] == message and variables["WATCHNEXT_MESSAGE"].startswith("\\ud800xxx")


@contextmanager
def server(answer: int, location: str = "") -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """A web server on this machine with one answer: its URL, and what was sent to it (method, content type, body)."""
    got: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.command, self.headers["Content-Type"], json.loads(body)))
            self.send_response(answer)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    web = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_port}/hook?key=secret", got
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


def test_a_webhook_is_sent_the_same_json(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(204) as (url, got):
        monkeypatch.setenv("ALERTS", url)
        assert send(webhook_env="ALERTS") == ""
    assert got == [("POST", "application/json", SENT)]


REDIRECTS = [(301, "Moved Permanently"), (302, "Found"), (307, "Temporary Redirect")]


@pytest.mark.parametrize(("code", "reason"), [(403, "Forbidden"), *REDIRECTS])
def test_a_webhook_that_refuses_or_redirects(code: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(code, "/login?token=secret" if code < 400 else "") as (url, got):
        monkeypatch.setenv("ALERTS", url)
        warning = send(webhook_env="ALERTS")
    hint = "; it redirects to another URL: use that one" if code < 400 else ""
    assert len(got) == 1 and warning == f"notify.webhook_env = 'ALERTS': the server answered {code} {reason}{hint}"


def test_a_webhook_that_cannot_be_reached_is_a_warning_without_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(204) as (url, _):
        pass
    monkeypatch.setenv("ALERTS", url)  # of a server that is gone
    trouble = send(webhook_env="ALERTS")
    assert trouble.startswith("notify.webhook_env = 'ALERTS': the server cannot be reached: ")
    assert "secret" not in trouble


@pytest.mark.parametrize(
    ("url", "trouble"),
    [
        (None, "the environment variable is not set, so no notification was sent"),
        ("file:///etc/secret", "the environment variable holds no http or https URL, so no notification was sent"),
        ("http://127.0.0.1:secret/", "the request failed: "),
        ("http://[secret/", "the request failed: "),
        ("http://127.0.0.1:99999999/secret", "the "),
        ("http://127.0.0.1/sec ret", "the request failed: "),
        ("http://127.0.0.1/s\u00e9cret", "the request failed: "),
        ("http:///secret", "the server cannot be reached: "),
    ],
)
def test_a_wrong_webhook_is_a_warning(url: str | None, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALERTS", raising=False)
    if url:
        monkeypatch.setenv("ALERTS", url)
    said = send(webhook_env="ALERTS")
    assert said.startswith(f"notify.webhook_env = 'ALERTS': {trouble}") and "secret" not in said


def test_both_are_notified_and_both_may_fail() -> None:
    assert send(command="exit 1", webhook_env="NO_SUCH_ALERTS").count(";") == 1
