"""Requests to a web application in this process, sent as they are: no client normalises paths or refuses names.

answer = get(app, "/user?id=ann")
answer.status, answer.text, answer.headers["content-type"]

with serving(app) as address:    # for a browser
    ...
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

import pytest
import uvicorn

from pipelines.serve import listen

App = Callable[..., Awaitable[None]]
_RUNNER = asyncio.Runner()  # one for all requests: a new one starts a thread each time


@dataclass(frozen=True)
class Answer:
    """An answer; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


def get(
    app: App,
    target: str,
    *,
    method: str = "GET",
    host: str = "127.0.0.1:8000",
    raises: type[Exception] | None = None,
    **query: object,
) -> Answer:
    """Request a path, with its query or with that of the keywords. raises: what the application must raise after it has
    answered, for the server to print."""
    path, _, given = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode(errors="replace"),
        "raw_path": path.encode(),
        "query_string": (given or urlencode(query)).encode(),
        "root_path": "",
        "headers": [(b"host", host.encode())],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8_000),
    }
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    with pytest.raises(raises) if raises else nullcontext():
        _RUNNER.run(_answered(app(scope, receive, send)))
    headers = {str(name, "latin-1"): str(value, "latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


async def _answered(answer: Awaitable[None]) -> None:
    await answer


@contextmanager
def serving(app: App) -> Iterator[str]:
    """Serve an application on a free port of this machine for as long as the block lasts; yield its address."""
    config = uvicorn.Config(app, lifespan="off", log_level="error")
    server, listening = uvicorn.Server(config), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
