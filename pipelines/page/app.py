"""The web application of `watchnext serve`: read-only pages over what is published.

    uvicorn.run(create_app(load_job("job.toml")), host="127.0.0.1")

Each page reads only what it shows: of a user, one row of one file of lists and the newest watches of one bucket.
Nothing comes from another server, and the pages need no script. A `Content-Security-Policy` forbids both, so that no
title or id can add them.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from pipelines.base import paths
from pipelines.config.jobs import Job
from pipelines.night import night_results
from pipelines.night.errors import EXPECTED_ERRORS, user_message
from pipelines.night.night import Night
from pipelines.page.publications import Publication, Publications
from pipelines.page.rendering import link, render
from pipelines.reports import nights_page, report, report_history
from pipelines.serving.user_lookup import Lookup, look_up
from transforms.core import files
from transforms.report.page import NightRow

FIRST_VIDEOS, MOST_VIDEOS = 50, 1_000  # of a list
LAST_WATCHES = 20
FOUND_VIDEOS, FOUND_USERS = 50, 20
SAMPLE_USERS = 12
RECENT_NIGHTS, NIGHTS_A_PAGE = 5, 20
PAGE_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'"
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'"  # a report contains its own style
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def create_app(job: Job, source: str = "files", *, host_names: frozenset[str] | None = LOOPBACK_NAMES) -> App:
    """Return the application. source: one of `command_lines.LIST_SOURCES`; host_names: the names that a browser may
    address the server by, without the port; None: any name.

    Checking the name keeps other web sites from reading the pages through a name of theirs that they let point here.
    """
    if job.storage.redis:  # a person waits for the page
        redis = job.storage.redis.model_copy(update={"retry_seconds": 1.0})
        job = job.model_copy(update={"storage": job.storage.model_copy(update={"redis": redis})})
    page = _Pages(Publications(job, source))
    routes = {
        "/": page.home,
        "/search": page.search,
        "/user": page.user,
        "/user/random": page.random_user,
        "/video": page.video,
        "/nights": page.nights,
        "/nights/{date}": page.night,
        "/nights/{date}/report": page.report,
    }
    app = Starlette(
        routes=[
            *(Route(path, _retried(page, show)) for path, show in routes.items()),
            Route("/index.html", lambda _: RedirectResponse("/nights")),  # where the reports link to
            Route("/style.css", lambda _: Response(render("page/style.css.jinja"), media_type="text/css")),
            Route("/icon.svg", lambda _: Response(render("page/icon.svg.jinja"), media_type="image/svg+xml")),
        ],
        exception_handlers={
            HTTPException: _not_found,
            Exception: _unexpected,
            **dict.fromkeys(EXPECTED_ERRORS, _expected),
        },
    )
    app.router.redirect_slashes = False
    return _Guarded(app, host_names)


@dataclass(frozen=True)
class _Guarded:
    """An application whose answers all have the headers for security, for requests with a known `Host` only."""

    app: App
    host_names: frozenset[str] | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                added = {**HEADERS, "Content-Security-Policy": _policy(PAGE_POLICY)}
                message["headers"] = [
                    *message["headers"],
                    *((n.lower().encode(), v.encode()) for n, v in added.items() if n.lower().encode() not in names),
                ]
            await send(message)

        if scope["type"] != "http":
            return
        if self.host_names is not None and _host_name(scope) not in self.host_names:
            text = "This server answers only requests to " + ", ".join(sorted(self.host_names))
            await Response(text, 421, media_type="text/plain")(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)


def _policy(policy: str) -> str:
    return f"{policy}; base-uri 'none'; frame-ancestors 'none'"


def _host_name(scope: Scope) -> str:
    """Return the name in the header `Host`, without the port."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return re.sub(r":\d*$", "", str(host, "latin-1")).lower()


def _retried(pages: _Pages, show: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Return a page that is made once more, from the files that are published by then, if a file cannot be read."""

    def answer(request: Request) -> Response:
        try:
            return show(request)
        except EXPECTED_ERRORS:
            pages.publications.reopen()
            return show(request)

    return answer


def _expected(request: Request, error: Exception) -> Response:
    return _page("error", 503, request=request, title="Not available", message=user_message(error) or str(error))


def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = "Not found" if error.status_code == 404 else "Not possible"
    return _page("error", error.status_code, request=request, title=title, message=error.detail)


def _unexpected(request: Request, error: Exception) -> Response:
    message = f"{type(error).__name__}: the server printed the traceback"
    return _page("error", 500, request=request, title="An error of watchnext", message=message)


def _page(template: str, status: int = 200, *, request: Request, **values: Any) -> Response:
    query = request.query_params.get("q", "")
    return HTMLResponse(render(f"page/{template}.html.jinja", query=query, **values), status)


@dataclass(frozen=True)
class _Pages:
    """One method per page."""

    publications: Publications
    _explaining: threading.Lock = field(default_factory=threading.Lock)  # the ranker needs all processors

    def home(self, request: Request) -> Response:
        of = self.publications.current()
        metric, rows = _rows(of.night, paths.nights(of.night.root)[-RECENT_NIGHTS:])
        recall = (of.entry and of.entry.recall) or {}
        return _page(
            "home",
            request=request,
            of=of,
            source=self.publications.source,
            users=of.some_users(SAMPLE_USERS),
            recall_rows=[(system, list(at.values())) for system, at in recall.items()],
            metric=metric,
            rows=rows,
        )

    def search(self, request: Request) -> Response:
        text = request.query_params.get("q", "").strip()
        if not text:
            return RedirectResponse("/", 303)
        of = self.publications.current()
        total, videos = of.videos.search(text, FOUND_VIDEOS)
        users = of.users_beginning_with(text, FOUND_USERS)
        if text not in users and of.served.list_of(text) is not None:
            users = [text, *users]
        found = [*(link("/user", id=user) for user in users), *(link("/video", id=video) for video, _ in videos)]
        if len(found) == 1 and found[0]:
            return RedirectResponse(found[0], 303)
        return _page("search", request=request, text=text, total=total, videos=videos, users=users)

    def user(self, request: Request) -> Response:
        user_id, country = _id(request), request.query_params.get("country") or None
        of, k, wants_why = (
            self.publications.current(),
            _number(request, "k", FIRST_VIDEOS),
            "why" in request.query_params,
        )
        problem = ""
        try:
            found = self._look_up(of, user_id, k, country, why=wants_why)
        except EXPECTED_ERRORS as error:
            if not wants_why:
                raise
            problem, found = user_message(error) or str(error), self._look_up(of, user_id, k, country, why=False)
        return _page("user", request=request, of=of, found=found, k=k, why=wants_why, problem=problem)

    def random_user(self, request: Request) -> Response:
        users = self.publications.current().some_users(1)
        if not users:
            raise HTTPException(404, "The ids of the users are not known: search for the id of a user.")
        return RedirectResponse(link("/user", id=users[0]), 303)

    def video(self, request: Request) -> Response:
        of, video_id = self.publications.current(), _id(request)
        similar = of.similar_to(video_id)
        ids = similar.video_ids if similar else []
        titles, lengths = of.videos.titles(ids), of.videos.lengths(ids)
        rows = [
            (video, titles.get(video), lengths.get(video), score)
            for video, score in zip(ids, (similar and similar.scores) or [], strict=True)
        ]
        found = of.videos.get(video_id)
        return _page("video", request=request, of=of, video_id=video_id, video=found, similar=similar, rows=rows)

    def nights(self, request: Request) -> Response:
        root, before = self.publications.root, request.query_params.get("before", "")
        dates = [date for date in paths.nights(root) if not before or date.isoformat() < before]
        shown = dates[-NIGHTS_A_PAGE:]
        metric, rows = _rows(Night(self.publications.job, shown[-1]), shown) if shown else ("", [])
        earlier = rows[-1].date if len(dates) > len(shown) else None
        return _page("nights", request=request, rows=rows, metric=metric, earlier=earlier)

    def night(self, request: Request) -> Response:
        of = self._night(request)
        _, (row,) = _rows(of, [of.date])
        outcome = report.outcome(of)
        return _page("night", request=request, row=row, gates=night_results.gates(of), outcome=outcome)

    def report(self, request: Request) -> Response:
        of = self._night(request)
        path = of.root.report(of.date)
        if not files.exists(path):
            raise HTTPException(404, f"The night of {of.date} has no report.")
        return HTMLResponse(files.read_bytes(path), headers={"Content-Security-Policy": _policy(REPORT_POLICY)})

    def _look_up(self, of: Publication, user_id: str, k: int, country: str | None, *, why: bool) -> Lookup:
        with self._explaining if why else nullcontext():
            return look_up(of.served, user_id, k, watches=LAST_WATCHES, country=country, why=why, catalogue=of.videos)

    def _night(self, request: Request) -> Night:
        """Return the night of the address. Raises HTTPException if there is none."""
        text = request.path_params["date"]
        dates = {date.isoformat(): date for date in paths.nights(self.publications.root)}
        if text not in dates:
            raise HTTPException(404, "There is no night of this date.")
        return Night(self.publications.job, dates[text])


def _rows(night: Night, dates: list[dt.date]) -> tuple[str, list[NightRow]]:
    """Return the metric that is shown of some nights, and their rows, newest first."""
    nights, served = [replace(night, date=date) for date in dates], report.served_date(night.root)
    metric = report_history.newest_metric(nights) or "recall"
    return metric, [nights_page.row(one, metric, served) for one in reversed(nights)]


def _id(request: Request) -> str:
    """Return the id in the address. Raises HTTPException if it is empty."""
    found = request.query_params.get("id", "")
    if not found:
        raise HTTPException(404, "The address has no id: search for a user or a video.")
    return found


def _number(request: Request, name: str, default: int) -> int:
    """Return a number of videos in the address; the default if it is not a number."""
    text = request.query_params.get(name, "")
    return min(max(int(text), 1), MOST_VIDEOS) if re.fullmatch(r"[0-9]{1,6}", text) else default
