"""Tell somebody how a night ended: a command that gets a JSON object, or a webhook that is sent one.

    [notify]
    command = ["mail", "-s", "watchnext", "someone"]    # JSON on its standard input, WATCHNEXT_* in its environment
    webhook_env = "ALERTS_URL"                          # the variable holds the URL: it is a secret

A notification that fails is a warning in the log and changes nothing else.
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
from pipelines.night.outcome import Outcome
from transforms.core.printable import safe_variable_name

_OURS = (
    lock.TOKEN_VARIABLE,
    lock.PATH_VARIABLE,
    process_signals.PARENT_PIPE_VARIABLE,
)  # of this run's own stages, nobody else's
_SHOWN = 500  # characters of what a command that failed wrote
_LONGEST = 30_000  # characters of an environment variable: four bytes each, the system takes 131,072


def send(settings: NotifySettings, end: Outcome, *, root: str) -> str:
    """Tell how a night ended; what went wrong with telling it, in a line, empty where nothing did."""
    if settings.on == "failure" and end.code == 0:
        return ""
    content = message(end, root)
    troubles = []
    if settings.command:
        troubles.append(_run(settings.command, content, settings.timeout_seconds))
    if settings.webhook_env:
        troubles.append(_post(settings.webhook_env, content, settings.timeout_seconds))
    return "; ".join(trouble for trouble in troubles if trouble)


def message(end: Outcome, root: str) -> dict[str, Any]:
    """What is sent. `text` is what chat services show of a webhook."""
    status = "failed" if end.code else "done"
    text = f"watchnext: night {end.date} {status}" + (f" (exit code {end.code})" if end.code else "")
    named = {"status": status, "exit_code": end.code, "root": root, "text": f"{text}: {end.message}"}
    return {name: value for name, value in asdict(end).items() if name != "code"} | named


def _run(command: str | list[str], content: dict[str, Any], seconds: float) -> str:
    """Run a command in a session of its own, so that all that it started can be ended with it."""
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
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
        return f"notify.command cannot be run: {error}"
    try:
        _, errors = process.communicate(json.dumps(content).encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"notify.command took longer than {seconds:g} s (notify.timeout_seconds) and was ended"
    except BaseException:  # a signal ends the night
        _end(process)
        raise
    if process.returncode == 0:
        return ""
    shown = errors.decode(errors="replace").strip()[-_SHOWN:]
    return f"notify.command ended with exit code {process.returncode}" + (f": {shown}" if shown else "")


def _as_variable(value: Any) -> str:
    """A value as an environment variable may hold it: no NUL, no lone surrogates, not longer than the system takes."""
    return str(value).replace("\0", "").encode(errors="backslashreplace").decode()[:_LONGEST]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, and close the pipes to them."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    process.wait()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error. The library follows that of a POST by a GET, which loses what is sent."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(variable: str, content: dict[str, Any], seconds: float) -> str:
    """Send to a URL. It is a secret: no message shows it, nor where the server redirects to."""
    url, name = os.environ.get(variable, ""), f"notify.webhook_env = {safe_variable_name(variable)}"
    body = json.dumps(content).encode()
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            state = "holds no http or https URL" if url else "is not set"
            return f"{name}: the environment variable {state}, so nobody was told"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=seconds):
            return ""
    except urllib.error.HTTPError as error:
        hint = "; it redirects to another URL: name that one" if 300 <= error.code < 400 else ""
        return f"{name}: the server answered {error.code} {error.reason}{hint}"
    except urllib.error.URLError as error:
        return f"{name}: the server cannot be reached: {error.reason}"
    except Exception as error:  # a connection that breaks off, a URL that is none: the night has ended all the same
        return f"{name}: the request failed: {type(error).__name__}"
