"""Tell somebody how a night ended: a command that gets a JSON object, or a webhook that is sent one.

    [notify]
    command = ["mail", "-s", "watchnext", "someone"]    # JSON on its standard input, WATCHNEXT_* in its environment
    webhook_env = "ALERTS_URL"                          # the variable holds the URL: it is a secret

A notification that fails is a warning in the log and changes nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from dataclasses import asdict
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from pipelines import lifeline, lock
from pipelines.run_log import Outcome
from pipelines.settings import NotifySettings

_OURS = (lock.TOKEN_VARIABLE, lock.PATH_VARIABLE, lifeline.VARIABLE)  # of this run's own stages, nobody else's
_SHOWN = 500  # characters of what a command that failed wrote


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
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    told = {f"WATCHNEXT_{name.upper()}": str(value) for name, value in content.items()}
    try:
        done = subprocess.run(
            command,
            shell=isinstance(command, str),
            env=environment | told,
            input=json.dumps(content).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"notify.command took longer than {seconds:g} s (notify.timeout_seconds) and was ended"
    except (OSError, ValueError) as error:
        return f"notify.command cannot be run: {error}"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip()[-_SHOWN:]
    return f"notify.command ended with exit code {done.returncode}" + (f": {said}" if said else "")


def _post(variable: str, content: dict[str, Any], seconds: float) -> str:
    """Send to a URL. It is a secret: no message shows it."""
    url, name = os.environ.get(variable, ""), f"notify.webhook_env = {variable!r}"
    if urlsplit(url).scheme not in ("http", "https"):
        state = "holds no http or https URL" if url else "is not set"
        return f"{name}: the environment variable {state}, so nobody was told"
    body = json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=seconds):
            return ""
    except urllib.error.HTTPError as error:
        return f"{name}: the server answered {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"{name}: the server cannot be reached: {error.reason}"
    except (OSError, ValueError, HTTPException) as error:  # a connection that breaks off, a port that is none
        return f"{name}: the request failed: {type(error).__name__}"
