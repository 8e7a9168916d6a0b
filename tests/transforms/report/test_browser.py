"""The report in a real browser: no requests, no console messages, and a layout that fits a phone."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from full_report import FULL

from transforms.report.page import render_report
from transforms.report.video_map import video_map

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")]
SECONDS = 2  # that a report may take to open


def page() -> str:
    """A report with a map of the maximal number of videos."""
    vectors = np.random.default_rng(2).normal(size=(2_000, 8))
    groups = [f"language {i % 9}" for i in range(2_000)]
    return render_report(dataclasses.replace(FULL, map=video_map(vectors, groups, by="language")))


def browse(path: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Load the page in a browser without network, and return its output."""
    own = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}/profile",
        "--enable-logging=stderr",
    ]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--no-first-run"]
    command = [CHROMIUM, *own, *offline, *arguments, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def scripted(html: str, script: str) -> str:
    """Return a copy that allows a script which writes its findings into the title."""
    opened = re.sub(r"<meta http-equiv=[^>]*>", "", html)
    return opened.replace(
        "</body>", f"<script>addEventListener('load', () => {{ document.title = {script} }})</script></body>"
    )


def title(done: subprocess.CompletedProcess[str]) -> str:
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert found
    return found[1]


def test_page_loads_without_requests_and_console_messages(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(), encoding="utf-8")
    done = browse(tmp_path / "report.html", tmp_path, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    counted = scripted(page(), "performance.getEntriesByType('resource').length")
    (tmp_path / "counted.html").write_text(counted, encoding="utf-8")
    assert title(browse(tmp_path / "counted.html", tmp_path, "--dump-dom")) == "0"


def test_broken_page_is_detected(tmp_path: Path) -> None:
    html = page().replace("</body>", '<img src="https://example.com/x.png"></body>')
    (tmp_path / "bad.html").write_text(html, encoding="utf-8")
    assert "CONSOLE" in browse(tmp_path / "bad.html", tmp_path, "--dump-dom").stderr


def test_page_fits_a_phone(tmp_path: Path) -> None:
    """The page is in a frame of a phone's width, because a headless window is at least 500 pixels wide."""
    (tmp_path / "report.html").write_text(page(), encoding="utf-8")
    frame = '<title></title><body><iframe src="report.html" style="width:390px;height:800px;border:0"></iframe></body>'
    inside = "document.querySelector('iframe').contentDocument.documentElement"
    found = scripted(frame, f"[{inside}.clientWidth, {inside}.scrollWidth].join()")
    (tmp_path / "frame.html").write_text(found, encoding="utf-8")
    client, scroll = map(
        int, title(browse(tmp_path / "frame.html", tmp_path, "--allow-file-access-from-files", "--dump-dom")).split(",")
    )
    assert 370 <= client <= 390 and scroll <= client


def test_page_opens_quickly(tmp_path: Path) -> None:
    html = scripted(page(), "Math.round(performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd)")
    (tmp_path / "timed.html").write_text(html, encoding="utf-8")
    assert len(html.encode()) < 5_000_000
    assert 0 < int(title(browse(tmp_path / "timed.html", tmp_path, "--dump-dom"))) < 1_000 * SECONDS
