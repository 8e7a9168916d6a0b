"""Notify about the end of a night: run a command, or call a webhook, with a JSON object.

    [notify]
    command = ["mail", "-s", "watchnext", "someone"]    # JSON on its standard input, WATCHNEXT_* in its environment
    webhook_env = "ALERTS_URL"                          # the variable holds the URL: it is a secret

A notification that fails is logged as a warning and has no other effect.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from pipelines.base import lock, process_signals
from pipelines.config.settings import NotifySettings
from pipelines.night.night import Outcome
from transforms.core.messages import safe_variable_name

_INTERNAL = (
    lock.TOKEN_VARIABLE,
    lock.PATH_VARIABLE,
    process_signals.PARENT_PIPE_VARIABLE,
)  # not passed to commands
_SHOWN = 500  # characters of the output of a failed command
_LONGEST = 30_000  # characters of an environment variable: up to 4 bytes each, and the system limit is 131,072 bytes


def send(settings: NotifySettings, end: Outcome, *, root: str) -> str:
    """Send the notifications of a night's end. Return the errors in one line; empty if there are none."""
    if settings.on == "failure" and end.code == 0:
        return ""
    content = message(end, root)
    problems = []
    if settings.command:
        problems.append(_run(settings.command, content, settings.timeout_seconds))
    if settings.webhook_env:
        problems.append(_post(settings.webhook_env, content, settings.timeout_seconds))
    return "; ".join(problem for problem in problems if problem)


def message(end: Outcome, root: str) -> dict[str, Any]:
    """Return the content of a notification. Chat services display the field `text` of a webhook."""
    status = "failed" if end.code else "done"
    text = f"watchnext: night {end.date} {status}" + (f" (exit code {end.code})" if end.code else "")
    fields = {"status": status, "exit_code": end.code, "root": root, "text": f"{text}: {end.message}"}
    return {name: value for name, value in asdict(end).items() if name != "code"} | fields


def _run(command: str | list[str], content: dict[str, Any], seconds: float) -> str:
    """Run a command in its own session, so that all processes that it starts can be ended. Return an error message."""
    environment = {name: value for name, value in os.environ.items() if name not in _INTERNAL}
    fields = {f"WATCHNEXT_{name.upper()}": _as_variable(value) for name, value in content.items()}
    try:
        process = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            env=environment | fields,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"notify.command could not be run: {error}"
    try:
        _, errors = process.communicate(json.dumps(content).encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"notify.command took longer than {seconds:g} s (notify.timeout_seconds) and was ended"
    except BaseException:  # such as Stopped, after a signal
        _end(process)
        raise
    if process.returncode == 0:
        return ""
    shown = errors.decode(errors="replace").strip()[-_SHOWN:]
    return f"notify.command ended with exit code {process.returncode}" + (f": {shown}" if shown else "")


def _as_variable(value: Any) -> str:
    """Return a value as text for an environment variable: without NUL and lone surrogates, and of limited length."""
    return str(value).replace("\0", "").encode(errors="backslashreplace").decode()[:_LONGEST]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those that it started, and close the pipes to them."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    process.wait()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Treat a redirect as an error. urllib would follow the redirect of a POST with a GET, which loses the content."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(variable: str, content: dict[str, Any], seconds: float) -> str:
    """Send to a URL. Return an error message, which shows neither the URL, as it is a secret, nor a redirect target."""
    url, name = os.environ.get(variable, ""), f"notify.webhook_env = {safe_variable_name(variable)}"
    body = json.dumps(content).encode()
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            state = "holds no http or https URL" if url else "is not set"
            return f"{name}: the environment variable {state}, so no notification was sent"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=seconds):
            return ""
    except urllib.error.HTTPError as error:
        hint = "; it redirects to another URL: use that one" if 300 <= error.code < 400 else ""
        return f"{name}: the server answered {error.code} {error.reason}{hint}"
    except urllib.error.URLError as error:
        return f"{name}: the server cannot be reached: {error.reason}"
    except Exception as error:  # a lost connection, an invalid URL: neither may change the result of the night
        return f"{name}: the request failed: {type(error).__name__}"
