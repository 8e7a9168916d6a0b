"""A thousand hostile ids and titles change nothing: neither a page, nor what it loads, nor any file."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
import xxhash
from hostile import SECRET, hostile_job, hostile_texts
from html_page import HtmlPage
from nights import DATE
from web import App, get

from pipelines.config.jobs import load_job
from pipelines.page.app import create_app
from pipelines.page.rendering import shown

TEXTS = hostile_texts(1_000)
ALLOWED = {
    *("html", "head", "meta", "title", "link", "body", "div", "a", "form", "input", "button", "nav", "main", "header"),
    *("footer", "h1", "h2", "section", "p", "table", "thead", "tbody", "tr", "th", "td", "ol", "ul", "li", "span"),
    *("bdi", "dl", "dt", "dd", "strong"),
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_job(tmp_path_factory.mktemp("hostile"), TEXTS)


@pytest.fixture(scope="module")
def app(job: Path) -> App:
    return create_app(load_job(str(job)))


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in files}


def structure(page: HtmlPage) -> list[str]:
    """The elements without links, which a text that is too long for an address does not have."""
    return [tag for tag in page.tags if tag != "a"]


def check(page: HtmlPage) -> None:
    assert set(page.tags) <= ALLOWED
    assert not [one for one in page.attributes if one[1].startswith("on") or one[1] in ("style", "srcdoc")]
    assert all(link.startswith("/") and not link.startswith("//") for link in page.links)
    assert SECRET not in page.text


def test_every_user_and_video_has_the_page_of_a_plain_one(job: Path, app: App) -> None:
    before = contents(job.parent)
    for path, heading in (("/user", "User {}"), ("/video", "id {}")):
        plain = HtmlPage.of(get(app, path, id="plain").text)
        for text in TEXTS:
            answer = get(app, path, id=text)
            assert answer.status == 200
            page = HtmlPage.of(answer.text)
            check(page)
            assert structure(page) == structure(plain), repr(text)
            assert " ".join(heading.format(shown(text)).split()) in page.text, repr(text)
    assert contents(job.parent) == before


def test_every_text_can_be_searched_for_and_requested(job: Path, app: App) -> None:
    """The texts take turns in these places; in a path as one part, or as the parts that a browser sends."""
    before = contents(job.parent)
    pages = ("/search?q={}", "/user?id=x{}", "/user?id=plain&k={}", "/user?id=plain&why={}", "/user?id=x&country={}")
    paths = ("/{}", "/nights/{}", f"/nights/{DATE}/{{}}", "/nights/{}/report", "/nights?before={}")
    for number, text in enumerate(TEXTS):
        place = (*pages, *paths)[number % 10]
        answer = get(app, place.format(quote(text, safe="/" if place in paths and number // 10 % 2 else "")))
        location = answer.headers.get("location", "/")
        assert answer.status in (200, 303 if "search" in place else 200, 404 if place in paths else 200), (place, text)
        assert location.startswith("/") and not location.startswith("//") and "\n" not in location
        assert "set-cookie" not in answer.headers
        check(HtmlPage.of(answer.text))
    assert contents(job.parent) == before


def test_the_lists_of_hostile_texts_are_not_all_links() -> None:
    """What the tests above compare: long texts have no link, others have one."""
    from pipelines.page.rendering import link

    assert {bool(link("/user", id=text)) for text in TEXTS} == {True, False}
    assert len(set(TEXTS)) == 1_000
