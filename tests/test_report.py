"""The report: every part shown when there, explained when not, harmless whatever the data."""

import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from pipelines.report import folding
from transforms.report import Report, Status, Training, figure, render_report

ATTACK = "<script>alert(1)</script>"
FULL = Report(
    date="2026-11-21",
    status=Status(text="ungated", level="warn"),
    headline=[("users served", 1_999), ("recall@100", 0.30184)],
    metrics={
        "neighbours": {"users": 100, "recall@50": 0.1963, "recall@100": 0.3018, "map": 0.0512},
        "most popular": {"users": 100, "recall@50": 0.1487, "recall@100": 0.2256},
    },
    training=Training(steps=[0, 10, 20], losses=[7.5, 6.25, 5.0], epochs=[0.21, 0.27]),
    similar=[("Trains at night", [("Night trains", 0.934), ("Trains", 0.5)]), ("Alone", [])],
    folding={"similar": {"folded": 0.0123, "of another topic": 0.4}, "random": {"folded": 0.8765}},
    counts=[("ingest", "watches", 1_234_567)],
    rejects={"time in the future": 3, "null user_id": 12},
    vocabulary={"videos": {"kept": 9_876, "cut": 124}},
    seconds={"ingest": 12.34, "train": 72.0},
    settings={"model": {"hidden": [1024, 512], "history": "recency"}},
    versions={"tensorflow": "2.21.0"},
)
VOID = {"meta", "br", "link", "img", "path", "use"}


class Outline(HTMLParser):
    """Tags, attributes and visible text of a page; fails where tags do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and data.strip():
            self.words.append(" ".join(data.split()))


def test_shows_every_part() -> None:
    page = Outline(render_report(FULL))
    shown = set(page.words)
    assert {"Night of 2026-11-21", "ungated", "1,999", "0.3018", "Trains at night", "0.93", "no neighbours"} <= shown
    assert {"1,234,567", "null user_id", "9,876", "1,024, 512", "recency", "2.21.0", "12.3 s", "72.0 s"} <= shown
    assert {"recall@50", "0.1487", "0.1963", "0.2100"} <= shown
    assert page.words[page.words.index("folded", page.words.index("share of pairs")) :][:3] == [
        "folded",
        "0.0123",
        "0.8765",
    ]
    assert page.words.index("null user_id") < page.words.index("time in the future")  # the most frequent first
    assert [tag for tag, _ in page.tags].count("svg") == 3


def test_a_missing_figure_is_a_dash() -> None:
    words = Outline(render_report(FULL)).words
    assert words[words.index("map") :][:3] == ["map", "0.0512", "-"]


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Report) if f.name != "date"])
def test_every_part_may_be_missing(name: str) -> None:
    empty = getattr(Report(date="x"), name)
    Outline(render_report(dataclasses.replace(FULL, **{name: empty})))
    Outline(render_report(dataclasses.replace(Report(date="x"), **{name: getattr(FULL, name)})))


def test_shares_of_folded_pairs_come_from_the_counts() -> None:
    counts = {"pairs": 8, "apart": 4, "other_country": 2, "other_topic": 6, "folded": 1}
    shares = {"nobody watched both": 0.5, "of another country": 0.25, "of another topic": 0.75, "folded": 0.125}
    nothing = dict.fromkeys(counts, 0)
    assert folding({"folding": {"videos": 3, "similar": counts, "random": nothing}}) == {"similar": shares}
    assert folding({"users": 1}) == {}


def test_an_empty_night_says_why() -> None:
    page = Outline(render_report(Report(date="2026-11-21")))
    assert any("nothing was measured" in word for word in page.words)
    assert any("No training curve" in word for word in page.words)
    assert "svg" not in [tag for tag, _ in page.tags]


def test_data_is_never_markup() -> None:
    bad = Report(
        date=ATTACK,
        status=Status(text=ATTACK, level="bad"),
        headline=[(ATTACK, ATTACK)],
        metrics={ATTACK: {"recall@10": 0.5, ATTACK: 1.0}, "$x_{$ & y": {"recall@10": 0.1}},
        similar=[(ATTACK, [(ATTACK, 0.5)])],
        folding={ATTACK: {ATTACK: 0.5}},
        counts=[(ATTACK, ATTACK, 1)],
        rejects={ATTACK: 1},
        vocabulary={ATTACK: ATTACK},
        seconds={ATTACK: 1.0, "$\\frac$": 2.0},
        settings={ATTACK: {ATTACK: [ATTACK]}},
        versions={'" onload="alert(1)': ATTACK},
    )
    html = render_report(bad)
    page = Outline(html)
    assert "<script" not in html
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.words.count(ATTACK) >= 15
    assert {"$x_{$ & y", "$\\frac$"} <= set(page.words)


def test_opens_offline_in_one_small_file() -> None:
    html = render_report(FULL)
    page = Outline(html)
    links = [value for _, a in page.tags for name, value in a.items() if name in ("src", "href", "xlink:href")]
    assert all(str(link).startswith("#") for link in links)
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert len(html.encode()) < 200_000
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {str(link)[1:] for link in links} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert targets <= set(ids)


def test_long_curves_stay_small() -> None:
    many = Training(steps=range(1_000_000), losses=[1.0 / (i + 1) for i in range(1_000_000)])
    assert len(render_report(Report(date="x", training=many))) < 300_000


def test_the_same_night_gives_the_same_page() -> None:
    assert render_report(FULL) == render_report(FULL)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_234_567, "1,234,567"),
        (0.19634, "0.1963"),
        (12.345, "12.35"),
        (1234.5, "1,234"),
        (3.0, "3"),
        (0.0, "0"),
        (0.00002, "2e-05"),
        (float("nan"), "-"),
        (None, "-"),
        (True, "yes"),
        ([1, 0.5], "1, 0.5000"),
        ([], "none"),
        ("a", "a"),
    ],
)
def test_figures_as_people_read_them(value: object, text: str) -> None:
    assert figure(value) == text


def test_losses_need_steps() -> None:
    with pytest.raises(ValueError, match="each loss needs its step, but there are 1 and 2"):
        Training(steps=[1, 2], losses=[0.5])


def test_matplotlib_waits_for_a_report() -> None:
    code = "import sys, transforms.report; assert 'matplotlib' not in sys.modules and 'polars' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
