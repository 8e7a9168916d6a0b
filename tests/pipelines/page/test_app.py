"""The pages of `watchnext serve`, requested in this process, over nights made by hand and over whole nights."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import watchnext
from html_page import HtmlPage
from nights import DATE, DEFAULTS, published_night, write_job
from redis_server import Server
from redis_server import server as server
from web import Answer, App, get

from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.page import app as page_app
from pipelines.page.app import create_app

BEFORE = DATE - dt.timedelta(days=1)
LISTS = pl.DataFrame(
    {
        "user_id": ["ann", "anton", "bob", "cleo", "7"],
        "video_ids": [["v1", "v2", "v3"], ["v2"], ["v2"], [], ["v1"]],
        "scores": [[3.0, 2.0, 1.0], [0.5], [0.5], [], [0.0]],
    },
    schema_overrides={"video_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)},
)
TITLES = pl.DataFrame(
    {
        "video_id": ["v1", "v2", "v3", "v4"],
        "title": ["Piano blues", "Blues & more", None, "Gone"],
        "video_seconds": [90.0, 3_600.0, None, None],
        "channel": ["c1", None, "c2", "c2"],
        "available": [True, True, True, False],
    }
)
SIMILAR = pl.DataFrame(
    {"video_id": ["v1", "v2"], "video_ids": [["v2", "v9"], ["v1"]], "scores": [[0.75, 0.5], [0.75]]},
    schema_overrides={"scores": pl.List(pl.Float32)},
)


def publish(job: Path, date: dt.date = DATE, attempt: str = "aa", lists: pl.DataFrame = LISTS) -> Night:
    return published_night(job, lists, titles=TITLES, similar=SIMILAR, defaults=DEFAULTS, date=date, attempt=attempt)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = write_job(tmp_path, 'watches = "w"')
    publish(path)
    return path


@pytest.fixture
def app(job: Path) -> App:
    return create_app(load_job(str(job)))


def page_of(answer: Answer, status: int = 200) -> HtmlPage:
    assert answer.status == status, answer.text[-500:]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return HtmlPage.of(answer.text)


def test_the_first_page_shows_the_served_night_users_and_nights(app: App) -> None:
    page = page_of(get(app, "/"))
    assert f"Night of {DATE}" in page.text and "not a production server" in page.text
    assert {f"/user?id={user}" for user in LISTS["user_id"]} <= set(page.links)
    assert f"/nights/{DATE}" in page.links


def test_a_user_s_list_is_shown_with_titles_best_first(app: App) -> None:
    page = page_of(get(app, "/user", id="ann"))
    assert [link for link in page.links if link.startswith("/video")] == [f"/video?id=v{n}" for n in (1, 2, 3)]
    assert "1 Piano blues v1 3.0000 2 Blues & more v2 2.0000 3 v3 1.0000" in page.text
    assert "The first 3 of 3" in page.text and "Why this order?" not in page.text
    assert "The list is empty" in page_of(get(app, "/user", id="cleo")).text


@pytest.mark.parametrize("k", ["1", "0", "-1", "many", "9" * 40, "2"])
def test_the_number_of_videos_is_bounded(app: App, k: str) -> None:
    page, wanted = page_of(get(app, "/user", id="ann", k=k)), {"1": 1, "0": 1, "2": 2}.get(k, 3)
    assert sum(link.startswith("/video") for link in page.links) == wanted
    assert ("Show all" in page.text) == (wanted < 3)


def test_an_id_is_found_as_the_logs_spell_it(app: App) -> None:
    assert "User 7" in page_of(get(app, "/user", id=" 7.0 ")).text


def test_an_unknown_user_is_shown_the_default_list_of_the_country(app: App) -> None:
    for country, name, videos in ((None, "all countries", ["v9", "v8"]), ("SE", "SE", ["v1"])):
        query: dict[str, Any] = {"id": "nobody"} | ({"country": country} if country else {})
        page = page_of(get(app, "/user", **query))
        assert f"shows the default list of {name}" in page.text
        assert [link for link in page.links if link.startswith("/video")] == [f"/video?id={one}" for one in videos]


def test_a_video_is_shown_with_its_similar_videos(app: App) -> None:
    page = page_of(get(app, "/video", id="v1"))
    assert "channel c1" in page.text and "length 1:30" in page.text
    assert "1 Blues & more v2 · 1:00:00 0.750 2 v9 0.500" in page.text
    assert "not available" in page_of(get(app, "/video", id="v4")).text
    unknown = page_of(get(app, "/video", id="v99")).text
    assert "not in the catalogue" in unknown and "None: only videos" in unknown


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("bob", "/user?id=bob"),
        ("v3", "/video?id=v3"),
        ("PIANO", "/video?id=v1"),
        ("more blues", "/video?id=v2"),
        (" ", "/"),
    ],
)
def test_a_search_that_finds_one_thing_leads_to_it(app: App, text: str, location: str) -> None:
    answer = get(app, "/search", q=text)
    assert (answer.status, answer.headers["location"]) == (303, location)


def test_a_search_lists_users_by_the_beginning_of_the_id_and_videos_by_id_or_title(app: App) -> None:
    found = page_of(get(app, "/search", q="an")).links
    assert [link for link in found if link.startswith("/user?")] == ["/user?id=ann", "/user?id=anton"]
    page = page_of(get(app, "/search", q="blues"))
    assert [link for link in page.links if link.startswith("/video?")] == ["/video?id=v2", "/video?id=v1"]
    assert "2 videos" in page.text and "No user with a list" in page.text
    nothing = page_of(get(app, "/search", q="nothing")).text
    assert "No user with a list" in nothing and "No video has an id" in nothing


def test_any_user_is_one_with_a_list(app: App) -> None:
    answer = get(app, "/user/random")
    assert answer.status == 303
    assert answer.headers["location"].removeprefix("/user?id=") in LISTS["user_id"].to_list()


def test_a_night_that_is_published_meanwhile_is_shown_at_the_next_request(job: Path, app: App) -> None:
    assert "v7" not in page_of(get(app, "/user", id="bob")).text
    day_after = DATE + dt.timedelta(days=1)
    publish(job, day_after, "bb", LISTS.with_columns(video_ids=pl.lit(["v7"])))
    page = page_of(get(app, "/user", id="bob"))
    assert f"List of {day_after}" in page.text and "/video?id=v7" in page.links
    assert f"Night of {day_after}" in page_of(get(app, "/")).text
    assert watchnext("rollback", job).code == 0
    assert f"List of {DATE}" in page_of(get(app, "/user", id="bob")).text


def test_files_that_were_replaced_are_read_once_more(job: Path, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get(app, "/user", id="bob").status == 200
    real, tried = page_app.look_up, []

    def once_gone(*arguments: object, **options: object) -> object:
        tried.append(arguments)
        if len(tried) == 1:
            raise FileNotFoundError("gone")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(page_app, "look_up", once_gone)
    assert get(app, "/user", id="bob").status == 200
    assert len(tried) == 2 and tried[0][0] is not tried[1][0]


def test_nothing_published_is_said_and_seen_when_it_is(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    app = create_app(load_job(str(job)))
    assert "nothing is published" in page_of(get(app, "/"), 503).text
    assert "There are none" in page_of(get(app, "/nights")).text
    publish(job)
    assert f"Night of {DATE}" in page_of(get(app, "/")).text


def test_redis_is_shown_as_it_serves(server: Server, tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"', f'[storage.redis]\nurl = "{server.url}"\n')
    app = create_app(load_job(str(job)), "redis")
    assert "serves no night" in page_of(get(app, "/"), 503).text
    publish(job, BEFORE)
    publish(job, DATE, "bb", LISTS.with_columns(video_ids=pl.lit(["v7"])))
    assert "served from Redis" in page_of(get(app, "/")).text
    assert "/video?id=v7" in page_of(get(app, "/user", id="bob")).links
    before = next(name for name in server.client.hkeys("watchnext:nights") if name.startswith(str(BEFORE).encode()))
    server.client.set("watchnext:night", before)
    page = page_of(get(app, "/user", id="bob"))
    assert f"List of {BEFORE}" in page.text and "/video?id=v2" in page.links
    assert "cosine" in page_of(get(app, "/video", id="v1")).text
    server.kill()
    assert "did not answer for 1 s" in page_of(get(app, "/user", id="bob"), 503).text


def test_pseudonyms_are_not_listed_and_the_raw_id_finds_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.base import snapshot_store
    from pipelines.night import privacy
    from transforms.logs.privacy import pseudonym

    key = "correct horse battery staple"
    monkeypatch.setenv("KEY", key)
    job = write_job(tmp_path, 'watches = "w"', '[privacy]\npseudonym_key_env = "KEY"\n')
    kept_as = pseudonym("ann", key.encode())
    of = publish(job, lists=LISTS.head(1).with_columns(user_id=pl.lit(kept_as)))
    check = privacy.check_of(key.encode())
    snapshot_store.commit(of.root.snapshots, snapshot_store.Snapshot(buckets=8, number=2, key_check=check))
    app = create_app(load_job(str(job)))
    assert kept_as not in get(app, "/").text and get(app, "/user/random").status == 404
    page = page_of(get(app, "/user", id="ann"))
    assert "The first 3 of 3" in page.text and kept_as not in page.text


def test_the_style_and_the_icon_come_from_this_server(app: App) -> None:
    page = page_of(get(app, "/"))
    loaded = [value for tag, name, value in page.attributes if tag == "link" and name == "href"]
    assert loaded == ["/style.css", "/icon.svg"]
    assert get(app, "/style.css").headers["content-type"] == "text/css; charset=utf-8"
    assert get(app, "/icon.svg").headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize("target", ["/", "/user?id=ann", "/nowhere", "/style.css", "/nights/1/report", "/search?q="])
def test_every_answer_forbids_scripts_and_other_servers(app: App, target: str) -> None:
    headers = get(app, target).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading_is_possible(app: App, method: str) -> None:
    for target in ("/", "/user?id=ann", "/search?q=a", f"/nights/{DATE}"):
        assert get(app, target, method=method).status == 405
    assert get(app, "/", method="HEAD").status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((name, 200) for name in ("localhost:8000", "127.0.0.1", "LOCALHOST", "[::1]:8000")),
        *((name, 421) for name in ("example.com", "localhost.example.com", "", "127.0.0.1.example.com:8000", "\xe9")),
    ],
)
def test_requests_under_another_name_are_refused(app: App, host: str, status: int) -> None:
    assert get(app, "/", host=host).status == status


def test_any_name_is_answered_if_the_server_is_open(job: Path) -> None:
    assert get(create_app(load_job(str(job)), host_names=None), "/", host="example.com").status == 200


@pytest.mark.parametrize(
    "target",
    [
        *("/user", "/video", "/user?id=", "/nowhere", "/nights/", "/nights/2026-11-22", "/nights/2026-02-31"),
        *("/nights/../job.toml", "/nights/..", "/nights/%2e%2e/report", f"/nights/{DATE}/report"),
        "/nights/2026-11-21%2f..%2f..%2fpublished.json",
    ],
)
def test_what_does_not_exist_is_not_found(job: Path, app: App, target: str) -> None:
    (job.parent / "runs" / "nights" / str(DATE) / "report.html").unlink()
    page_of(get(app, target), 404)


def test_an_unexpected_error_shows_no_details(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(page_app, "look_up", broken)
    answer = get(app, "/user", id="ann", raises=KeyError)  # the server prints it
    assert "An error of watchnext" in page_of(answer, 500).text and "a secret" not in answer.text


def test_whole_nights_are_shown_with_gates_and_report(two_nights: Path) -> None:
    app = create_app(load_job(str(two_nights / "job.toml")))
    nights = page_of(get(app, "/nights"))
    assert [link for link in nights.links if link.startswith("/nights/")] == [f"/nights/{DATE}", f"/nights/{BEFORE}"]
    assert "served now" in nights.text
    gates = json.loads((two_nights / "runs" / "nights" / str(DATE) / "gates.json").read_text())["gates"]
    night = page_of(get(app, f"/nights/{DATE}"))
    assert all(gate["name"] in night.text for gate in gates) and f"/nights/{DATE}/report" in night.links
    report = get(app, f"/nights/{DATE}/report")
    assert report.body == (two_nights / "runs" / "nights" / str(DATE) / "report.html").read_bytes()
    assert "default-src 'none'; style-src 'unsafe-inline'" in report.headers["content-security-policy"]
    assert "script-src" not in report.headers["content-security-policy"]
    assert get(app, "/index.html").headers["location"] == "/nights"
    user = page_of(get(app, "/user", id="u0000001"))
    assert "Before the night, newest first, times in UTC" in user.text


def test_nights_are_shown_in_pages(two_nights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_app, "NIGHTS_A_PAGE", 1)
    app = create_app(load_job(str(two_nights / "job.toml")))
    first = page_of(get(app, "/nights"))
    assert f"/nights?before={DATE}" in first.links and f"/nights/{BEFORE}" not in first.links
    second = page_of(get(app, f"/nights?before={DATE}"))
    assert f"/nights/{BEFORE}" in second.links and "earlier nights" not in second.text


def test_a_ranked_list_shows_seconds_and_why(ranked_nights: Path) -> None:
    app = create_app(load_job(str(ranked_nights / "job.toml")))
    page = page_of(get(app, "/user", id="u0000001"))
    assert "by expected seconds" in page.text and "/user?id=u0000001&k=50&why=1" in page.links
    assert page.tags.count("meter") > 5
    explained = page_of(get(app, "/user", id="u0000001", why=1))
    assert "factors on the odds" in explained.text and explained.text.count(" \u00d7") >= 3


def test_a_list_that_cannot_be_explained_is_shown_with_the_reason(app: App) -> None:
    page = page_of(get(app, "/user", id="ann", why=1))
    assert "was not ranked, so --why cannot explain" in page.text and "1 Piano blues v1" in page.text
