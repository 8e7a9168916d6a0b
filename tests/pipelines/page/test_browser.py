"""The local page in a real browser: no messages, no requests outside, and a layout that fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import CHROMIUM, MISSING, Browser
from hostile import hostile_job, hostile_texts
from web import serving

from pipelines.config.jobs import load_job
from pipelines.page.app import create_app
from pipelines.page.rendering import shown

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=MISSING)]
TEXTS = hostile_texts(1_000)
LONGEST_ADDRESS = 8_000


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as opened:
        opened.resize(390, 844)
        yield opened


def check(browser: Browser, address: str, where: object) -> None:
    """The page has loaded nothing from elsewhere, logged nothing, was not changed, and is as wide as the phone."""
    assert browser.messages == [], where
    assert all(request.startswith(f"{address}/") for request in browser.requests), where
    assert browser.evaluate("document.scripts.length + document.images.length + document.styleSheets.length") == 1
    assert browser.fits, where


def test_hostile_users_and_videos_do_nothing_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    """The page of every third text also shows the two texts after it, each with a title that is another one."""
    with serving(create_app(load_job(str(hostile_job(tmp_path, TEXTS))))) as address:
        requested = [text for text in TEXTS[::3] if len(quote(text)) < LONGEST_ADDRESS]
        assert len(requested) > 300
        for number, text in enumerate(requested):
            kind = "user" if number % 2 else "video"
            browser.open(f"{address}/{kind}?id={quote(text, safe='')}")
            title = " ".join(browser.evaluate("document.title").split())
            assert title == " ".join(f"{kind.title()} {shown(text)}".split()), repr(text)
            check(browser, address, repr(text))
        for path in ("/", "/search?q=e", "/search?q=" + quote("<"), "/nights"):
            browser.open(address + path)
            check(browser, address, path)


def test_whole_nights_are_read_by_following_links(tmp_path: Path, browser: Browser, ranked_nights: Path) -> None:
    with serving(create_app(load_job(str(ranked_nights / "job.toml")))) as address:
        for width in (390, 1_280):
            browser.resize(width, 844)
            browser.open(f"{address}/")
            check(browser, address, "the first page")
            for selector in (".users a", "a[href*=why]", ".list a", ".list a", "a[href='/nights']", ".mark a"):
                browser.click(selector)
                check(browser, address, selector)
            assert browser.evaluate("document.querySelectorAll('.gates tbody tr').length") > 5
            browser.click("a[href$=report]")
            assert browser.evaluate("document.querySelector('h1').textContent").startswith("Night of")
            browser.click("nav a")
            assert browser.evaluate("location.pathname") == "/nights"
            check(browser, address, "nights")


def test_a_page_that_loads_from_elsewhere_or_is_too_wide_is_detected(tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "bad.html").write_text("<img src=https://example.com/x.png><p style='width:900px'>wide")
    browser.open((tmp_path / "bad.html").as_uri())
    assert browser.messages and "https://example.com/x.png" in browser.requests
    assert not browser.fits
