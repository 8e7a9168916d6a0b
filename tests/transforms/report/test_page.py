"""The report: every part is rendered or its absence explained, and all data is escaped."""

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from breadth import cases
from full_report import ATTACK, EARLIER_RUN, FULL
from nights import night, write_job

from pipelines.base import manifest, snapshot_store
from pipelines.base.manifest import Manifest
from pipelines.night.night_results import GateResults
from pipelines.reports.report import folding, gather, status
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.report.figures import format_value
from transforms.report.page import (
    Level,
    NightRow,
    Report,
    Status,
    Training,
    UserExample,
    render_nights,
    render_report,
    with_status,
)
from transforms.report.video_map import video_map

VOID = {"meta", "br", "link", "img", "path", "use"}


class Outline(HTMLParser):
    """Parse tags, attributes and visible text of a page; fail if tags are not closed in order."""

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


def test_the_cost_of_diversity_is_rendered() -> None:
    [line] = [words for words in Outline(render_report(FULL)).words if "neighbours.diversity" in words]
    assert re.findall(r"\d+\.\d+", line) == ["0.25", "0.30", "0.31", "0.012", "0.032", "0.0045"]


def test_the_effect_of_new_videos_is_rendered() -> None:
    [line] = [words for words in Outline(render_report(FULL)).words if "neighbours.new_videos" in words]
    assert re.findall(r"\d+(?:\.\d+)?", line) == [
        *("0.03", "100", "0.30", "57", "0.30", "0.0031", "0.0012", "0.0074"),
        *("27", "0.37"),
    ]


def test_what_became_of_new_videos_is_rendered() -> None:
    [line] = [words for words in Outline(render_report(FULL)).words if words.startswith("New videos of the night of")]
    assert re.findall(r"\d+(?:,\d+)*(?:\.\d+)?", line.partition(", in the lists")[2]) == [
        *("15", "400", "3.75", "140", "7,000", "2.00"),
        *("0.31", "48"),
    ]


def test_lists_published_before_without_new_videos_are_rendered() -> None:
    words = " ".join(Outline(render_report(dataclasses.replace(FULL, served={"date": "2026-11-20"}))).words)
    assert "New videos of the night" not in words
    assert "New videos of the night" in " ".join(Outline(render_report(FULL)).words)


def test_every_part_is_rendered() -> None:
    page = Outline(render_report(FULL))
    shown = set(page.words)
    assert {"Night of 2026-11-21", "ungated", "1,999", "0.30", "Trains at night", "0.93", "no neighbours"} <= shown
    assert {"1,234,567", "null user_id", "9,876", "1,024, 512", "recency", "2.21.0", "12.3 s", "72.0 s"} <= shown
    assert {"Good lists for 1,999 users.", "0.0275", "u-17", "Trains by day ✓", "Ferries", "212 s", "Trams"} <= shown
    assert {"under 1 min", "Length of the videos"} <= shown
    assert page.words[page.words.index("143.20") :][:3] == ["143.20", "2.5 GiB", "77 MiB"]
    assert {"The freshness curve", "days since upload", "50 %"} <= shown
    assert {"recall@50", "0.15", "0.20", "0.21"} <= shown
    assert page.words[page.words.index("folded", page.words.index("share of pairs")) :][:3] == [
        "folded",
        "0.012",
        "0.88",
    ]
    assert {
        "0.28 to 0.32",
        "0.076",
        "0.051 to 0.10",
        "0.48",
        "1,299",
        "Popular videos",
        "0.062",
        "0.41",
    } <= shown
    assert {"significantly better", "result at recall@100"} <= shown
    assert {"0.25", "0.21 to 0.27", "0.066 to 0.15", "0.36", "31.50", "29.75"} <= shown
    assert "watch time in the wrong order (per-user loss)" in shown
    assert {"217", "0.90", "0.88 to 0.93", "2.5 (chosen)", "0.27", "-0.031 to 0.041", "0.027 to 0.083"} <= shown
    assert page.words[page.words.index("FAILED") :][:3] == ["FAILED", "recall", ": lost too much"]  # red ones first
    folded = page.words.index("1 check passed, 1 not computed, as expected")
    assert page.words.index("FAILED") < folded < page.words.index("passed") < page.words.index("not computed")
    assert page.words.index("null user_id") < page.words.index("time in the future")  # the most frequent first
    assert [tag for tag, _ in page.tags].count("svg") == 10


def test_gates_that_should_have_been_computed_are_not_folded() -> None:
    missing = {"name": "skew", "ok": None, "expected": False, "message": "gate skew: no records"}
    words = Outline(render_report(dataclasses.replace(FULL, gates=[*FULL.gates, missing]))).words
    assert (
        words.index("skew") < words.index("1 check passed, 1 not computed, as expected") < words.index("index recall")
    )
    passed = Outline(render_report(dataclasses.replace(FULL, gates=[FULL.gates[0]] * 16))).words
    assert "16 checks passed" in passed


def test_ranked_lists_are_plotted_beside_unranked_ones() -> None:
    assert "Ranked and unranked lists" not in render_report(FULL)
    recalls = {"recall@7": 0.1, "recall@100": 0.3}
    figures = {"figures": {"users": 100, **recalls}, "intervals": {"recall@7": [0.05, 0.15]}}
    page = render_report(dataclasses.replace(FULL, systems={"ranking": figures, "neighbours": figures}))
    assert 'aria-label="Ranked and unranked lists"' in page and "watch time in the first 7" in page


def test_missing_value_is_a_dash() -> None:
    words = Outline(render_report(FULL)).words
    assert words[words.index("map") :][:3] == ["map", "0.051", "-"]


@pytest.mark.parametrize("name", cases((f.name for f in dataclasses.fields(Report) if f.name != "date"), 0.5))
def test_every_part_may_be_missing(name: str) -> None:
    empty = getattr(Report(date="x"), name)
    Outline(render_report(dataclasses.replace(FULL, **{name: empty})))
    Outline(render_report(dataclasses.replace(Report(date="x"), **{name: getattr(FULL, name)})))


def test_shares_of_folded_pairs_come_from_counts() -> None:
    counts = {"pairs": 8, "apart": 4, "other_country": 2, "other_topic": 6, "folded": 1}
    shares = {"no user watched both": 0.5, "different country": 0.25, "different topic": 0.75, "folded": 0.125}
    nothing = dict.fromkeys(counts, 0)
    assert folding({"folding": {"videos": 3, "similar": counts, "random": nothing}}) == {"similar": shares}
    assert folding({"users": 1}) == {}


def test_empty_report_explains_missing_parts() -> None:
    page = Outline(render_report(Report(date="2026-11-21")))
    assert any("There are no metrics" in word for word in page.words)
    assert any("no training curve" in word for word in page.words)
    assert "svg" not in [tag for tag, _ in page.tags]


def test_data_is_escaped() -> None:
    bad = Report(
        date=ATTACK,
        status=Status(text=ATTACK, level="bad"),
        headline=[(ATTACK, ATTACK)],
        systems={ATTACK: {"figures": {"recall@10": 0.5, ATTACK: 1.0}}, "$x_{$ & y": {"figures": {"recall@10": 0.1}}},
        gates=[{"name": ATTACK, "ok": False, "message": ATTACK}],
        map=video_map(np.eye(3), [ATTACK, "a", "b"], by=ATTACK),
        slices={ATTACK: {ATTACK: {ATTACK: {"figures": {"users": 1}}}}},
        summary=Status(text=ATTACK, level="ok"),
        users=[UserExample(user_id=ATTACK, watched=[(ATTACK, ATTACK, False)], listed=[(ATTACK, None)])],
        similar={ATTACK: [(ATTACK, [(ATTACK, 0.5)])]},
        folding={ATTACK: {ATTACK: 0.5}},
        counts=[(ATTACK, ATTACK, 1)],
        rejects={ATTACK: 1},
        vocabulary={ATTACK: ATTACK},
        seconds={ATTACK: 1.0, "$\\frac$": 2.0},
        costs=[(ATTACK, [ATTACK])],
        list_statistics={ATTACK: {"coverage": 1.0}},
        ages={ATTACK: [1.0]},
        settings={ATTACK: {ATTACK: [ATTACK]}},
        versions={'" onload="alert(1)': ATTACK},
    )
    html = render_report(bad)
    page = Outline(html)
    assert "<script" not in html
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.words.count(ATTACK) >= 15
    assert {"$x_{$ & y", "$\\frac$"} <= set(page.words)


def test_report_is_one_small_self_contained_file() -> None:
    html = render_report(FULL)
    page = Outline(html)
    links = [value for _, a in page.tags for name, value in a.items() if name in ("src", "href", "xlink:href")]
    links.remove("../../index.html")  # of all nights, beside it
    assert all(str(link).startswith("#") for link in links)
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert len(html.encode()) < 200_000
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {str(link)[1:] for link in links} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert targets <= set(ids)


def test_long_curves_are_thinned() -> None:
    many = Training(steps=range(1_000_000), losses=[1.0 / (i + 1) for i in range(1_000_000)])
    assert len(render_report(Report(date="x", training=many))) < 300_000


def test_equal_reports_give_equal_pages() -> None:
    assert render_report(FULL) == render_report(FULL)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_234_567, "1,234,567"),
        (0.19634, "0.20"),
        (0.0996, "0.10"),
        (-0.05437, "-0.054"),
        (0.0051, "0.0051"),
        (12.345, "12.35"),
        (1234.5, "1,234"),
        (3.0, "3"),
        (0.0, "0"),
        (0.00002, "2e-05"),
        (float("nan"), "-"),
        (None, "-"),
        (True, "yes"),
        ([1, 0.5], "1, 0.50"),
        ([], "none"),
        ("a", "a"),
    ],
)
def test_format_value(value: object, text: str) -> None:
    assert format_value(value) == text


WINDOW = {
    **dict.fromkeys(("watches", "robot_watches", "held_out_watches", "completed", "searches", "users"), 1),
    "birth_years": 0,
    "newest": "2026-11-20T23:00:00+00:00",
    "categories": {},
}


def test_costs_are_read_from_manifests(tmp_path: Path) -> None:
    of = night(write_job(tmp_path, 'watches = "w"'))
    entries = [FileEntry(name=f"{n}", rows=1, bytes=40 * 2**20, digest="") for n in range(2)]
    for stage, peak in (("ingest", 0), ("vocabulary", 3 * 2**30)):  # the first from before it was kept
        counts = {"snapshot": 1} if stage == "ingest" else {"window": WINDOW}
        done = Manifest(
            stage=stage, date="d", fingerprint="", files=entries if peak else [], seconds=2.5,
            processor_seconds=4.25, peak_bytes=peak, read_bytes=2**30, written_bytes=2**21, counts=counts,
        )  # fmt: skip
        manifest.commit(of.folder(stage), done)
    snapshot_store.commit(of.root.snapshots, snapshot_store.Snapshot(buckets=8, number=1))
    found = gather(of)
    assert found.costs == [("vocabulary", [4.25, "3.0 GiB", "1.0 GiB", "2 MiB", "80 MiB"])]
    assert found.seconds == {"ingest": 2.5, "vocabulary": 2.5}


def test_freshness_curves_of_lists_popular_and_watched_videos(tmp_path: Path) -> None:
    of = night(write_job(tmp_path, 'watches = "w"'))
    shown = {"watched": {"by_day": [0.5]}, "item to item": {"by_day": [0.1]}, "neighbours": {"by_day": [0.2]}}
    content = {"format_version": 1, "gate": "recall@5", "systems": {}, "shown": shown, "served": None}
    files.replace_file(f"{of.folder('evaluation')}/metrics.json", json.dumps(content).encode())
    assert list(gather(of).ages.items()) == [("neighbours", [0.2]), ("watched", [0.5])]
    before = {name: {"coverage": 1.0} for name in shown}
    files.replace_file(f"{of.folder('evaluation')}/metrics.json", json.dumps(content | {"shown": before}).encode())
    assert gather(of).ages == {}


def test_losses_and_steps_must_have_the_same_length() -> None:
    with pytest.raises(ValueError, match="have 1 and 2"):
        Training(steps=[1, 2], losses=[0.5])


def test_matplotlib_is_imported_lazily() -> None:
    code = "import sys, transforms.report.page; assert 'matplotlib' not in sys.modules and 'polars' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def results(given: dict[str, Any]) -> GateResults | None:
    """Write a `gates.json` of an earlier version."""
    listed = [{"value": None, "bound": "", "message": ""} | gate for gate in given.get("gates", ())]
    return GateResults(**{"date": "d", "why": "", "compared_with": None} | given | {"gates": listed}) if given else None


PASSED: dict[str, Any] = {"status": "passed"}
FAILED: dict[str, Any] = {"status": "failed", "gates": [{"name": "users", "ok": False}]}
NOT_COMPARED = {"status": "ungated", "why": "recall", "gates": [{"name": "recall", "ok": None, "expected": False}]}
ROLLED_BACK: dict[str, Any] = {"served": "2026-11-21", "withdrawn": {"2026-11-22"}}
SERVED = "2026-11-20"
STAYED = f"; the night of {SERVED} stayed served"
AWAY = "Redis is away; the night of 2026-11-20 is served meanwhile"


@pytest.mark.parametrize(
    ("gates", "published", "context", "text", "level"),
    [
        ({}, None, {}, "ungated: no gate has checked this night", "warn"),
        (PASSED, True, {}, "published", "ok"),
        (PASSED, None, {}, "gates computed, not yet published", "warn"),
        (PASSED, False, {}, "complete, not published: a later night is", "ok"),
        ({"status": "ungated", "why": "first"}, True, {}, "published, not compared (ungated): first", "neutral"),
        (NOT_COMPARED, True, {}, "published, not compared (ungated): recall", "warn"),
        ({"status": "forced", "why": "ok"}, True, {}, "published in spite of failed gates: ok", "bad"),
        (FAILED, None, {}, "not published: failed at users", "bad"),
        # after a rollback, and after another run
        (
            *(PASSED, True, {"night": "2026-11-21", **ROLLED_BACK}),
            *("published; served again after the withdrawal of 2026-11-22", "ok"),
        ),
        (
            *(PASSED, True, {"night": "2026-11-22", **ROLLED_BACK}),
            *("withdrawn after publication; the night of 2026-11-21 was served again", "warn"),
        ),
        (PASSED, True, {"night": "2026-11-20", **ROLLED_BACK}, "published", "ok"),
        (FAILED, True, {"night": "2026-11-21", **ROLLED_BACK}, f"{EARLIER_RUN}failed at users", "bad"),
        (PASSED, True, {"night": "2026-11-21", "failed": "no logs", **ROLLED_BACK}, f"{EARLIER_RUN}no logs", "bad"),
        # a failed run
        ({}, None, {"failed": "ingest failed", "served": SERVED}, f"not published: ingest failed{STAYED}", "bad"),
        ({}, True, {"failed": "ingest failed"}, "ungated: no gate has checked this night", "warn"),
        (PASSED, None, {"failed": AWAY, "served": SERVED}, f"not published: Redis is away{STAYED}", "bad"),
        (PASSED, True, {"failed": AWAY}, "published", "ok"),
        (FAILED, None, {"failed": "1 failed", "served": SERVED}, f"not published: failed at users{STAYED}", "bad"),
        (FAILED, True, {"failed": "1 failed"}, "not published: failed at users", "bad"),
    ],
)
def test_status_is_what_gates_publish_and_the_last_run_say(
    gates: dict[str, Any], published: bool | None, context: dict[str, Any], text: str, level: Level
) -> None:
    assert status(results(gates), published, **context) == Status(text=text, level=level)


def test_status_of_a_report_is_replaced() -> None:
    before, after = Status(text="published <b>", level="ok"), Status(text="withdrawn & gone \\1", level="warn")
    page = render_report(dataclasses.replace(FULL, status=before))
    assert with_status(page, after) == render_report(dataclasses.replace(FULL, status=after)) != page
    assert with_status(with_status(page, after), before) == page


def test_map_keeps_distances_of_vectors_in_a_plane() -> None:
    rng = np.random.default_rng(5)
    plane = rng.normal(size=(50, 2)) @ np.linalg.qr(rng.normal(size=(6, 2)))[0].T + 3
    found = video_map(plane, ["a"] * 50, by="x")
    assert found is not None and found.kept == pytest.approx(1)
    apart = [np.linalg.norm(points[:, None] - points, axis=-1) for points in (plane, found.places)]
    np.testing.assert_allclose(apart[0], apart[1], atol=1e-9)
    assert video_map(plane[:2], ["a"] * 2, by="x") is None


def test_map_keeps_the_seven_most_frequent_groups() -> None:
    names = [name for i, name in enumerate("abcdefghi") for _ in range(9 - i)]
    found = video_map(np.random.default_rng(1).normal(size=(len(names), 4)), names, by="x")
    assert found is not None and sorted(set(found.groups)) == [*"abcdefg", "the rest"]


def test_page_of_all_nights() -> None:
    good = NightRow(
        date="2026-11-21",
        status=FULL.status or Status(text="", level="ok"),
        recall=(0.3, 0.2, 0.4),
        users=9,
        link="nights/2026-11-21/report.html",
    )
    bad = NightRow(date=ATTACK, status=Status(text="failed in stage train", level="bad"), failed=["users", ATTACK])
    html = render_nights([bad, good], metric="recall@100")
    page = Outline(html)
    assert "<script" not in html and {"0.30", "0.20 to 0.40", "failed in stage train", "recall@100"} <= set(page.words)
    assert [a["href"] for tag, a in page.tags if tag == "a"] == ["nights/2026-11-21/report.html"]
