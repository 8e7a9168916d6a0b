"""The page of all nights, and the reports: what became of each night, also after one that failed and a rollback."""

import datetime as dt
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, night, published_night, with_figures, write_job

from pipelines import publish, rollback
from pipelines.night.errors import GateError
from pipelines.night.night import Night, Outcome
from pipelines.reports import nights_page, report
from pipelines.runs import openmetrics

LISTS = pl.DataFrame(
    {"user_id": ["1u"], "video_ids": [["1v", "2v"]], "scores": [[0.5, 0.25]]},
    schema_overrides={"scores": pl.List(pl.Float32)},
)
FAILED = Outcome(run="r1", date="2026-11-21", code=1, message="no logs", seconds=1.5)


def test_a_night_that_failed_is_shown_with_its_stage(tmp_path: Path) -> None:
    of = night(write_job(tmp_path, 'watches = "w.parquet"'))
    assert nights_page.write(of, FAILED) == ""
    page = Path(of.root.index).read_text(encoding="utf-8")
    assert "failed in stage ingest" in page and 'href="nights/2026-11-21/report.html"' in page
    assert json.loads(Path(of.root.outcome(of.date)).read_bytes())["message"] == "no logs"
    assert "Night of 2026-11-21" in Path(of.root.report(of.date)).read_text(encoding="utf-8")


def test_publish_keeps_page_and_report_up_also_when_it_fails(tmp_path: Path) -> None:
    of = published_night(write_job(tmp_path, 'watches = "w.parquet"'), LISTS, publish=False)
    with pytest.raises(RuntimeError, match="a sink"), nights_page.refreshing_index(of):
        raise RuntimeError("a sink")
    assert "under way" in Path(of.root.index).read_text(encoding="utf-8")
    publish.run(of)
    assert "under way" not in Path(of.root.index).read_text(encoding="utf-8")
    assert "ungated" in Path(of.root.report(of.date)).read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_fails_no_night(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = published_night(write_job(tmp_path, 'watches = "w.parquet"'), LISTS, publish=False)
    for path in (of.root.index, of.root.report(of.date)):
        Path(path).mkdir(parents=True)
    assert "index.html is not up to date: " in nights_page.write(of)
    assert "report.html is not up to date: " in report.write(of)
    assert "report.html is not up to date: " in capsys.readouterr().err


DAYS = [DATE + dt.timedelta(days=n) for n in range(4)]


class Rows(HTMLParser):
    """The page of all nights by date: the classes within each row, and its words."""

    def __init__(self, of: Night) -> None:
        super().__init__()
        self.classes: dict[str, list[str]] = {}
        self.words: dict[str, str] = {}
        self._row: tuple[list[str], list[str]] | None = None
        self.feed(Path(of.root.index).read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self._row = ([], [])
        elif self._row:
            self._row[0].extend(str(value) for name, value in attrs if name == "class")

    def handle_data(self, data: str) -> None:
        if self._row and data.strip():
            self._row[1].append(" ".join(data.split()))

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self._row:
            classes, words = self._row
            self.classes[words[0]], self.words[words[0]] = classes, " | ".join(words[1:])


def good(job: Path, date: dt.date, k: int = 10) -> Night:
    """A night that is published."""
    of = published_night(job, LISTS, date=date, publish=False)
    publish.run(with_figures(of, k, {10: 0.4, k: 0.5}))
    return ended(of)


def ended(of: Night, code: int = 0, message: str = "done") -> Night:
    """The night, as its run leaves it."""
    end = Outcome(run="r1", date=str(of.date), code=code, message=message, seconds=1.5)
    assert nights_page.write(of, end) == "" and openmetrics.write(of, end) == ""
    return of


def status(of: Night) -> tuple[str, str]:
    """Level and text of the status of the night's report."""
    page = Path(of.root.report(of.date)).read_text(encoding="utf-8")
    found = re.findall(r'<span class="status (\w+)">([^<]*)</span>', page)
    assert len(found) == 1
    return found[0][0], found[0][1]


def test_a_healthy_first_night_is_not_red(job: Path) -> None:
    of = good(job, DATE)
    first = "published, not compared (ungated): first night: there is no published night before it"
    assert status(of) == ("neutral", first)
    page = Rows(of)
    assert "bad" not in page.classes[str(DATE)] and "warn" not in page.classes[str(DATE)]
    assert page.words[str(DATE)].startswith(f"served now | {first} | 0.50 | 0.49 to 0.51")
    shown = Path(of.root.report(DATE)).read_text(encoding="utf-8")
    assert 'class="mark bad"' not in shown and 'class="mark warn"' not in shown
    assert shown.count('class="mark absent">not computed') == 3


def test_a_failed_night_leaves_the_recall_of_earlier_ones_as_it_was(job: Path) -> None:
    nights = [good(job, date) for date in DAYS[:2]]
    before = Rows(nights[1])
    failed = night(job, DAYS[2])
    ended(failed, 1, "no logs of 2026-11-22")
    after = Rows(failed)
    assert {date: after.words[date] for date in before.words} == before.words
    assert after.words[str(DAYS[2])].startswith("failed in stage ingest | -")
    shown = Path(failed.root.report(failed.date)).read_text(encoding="utf-8")
    assert "Recall by night" in shown, "the trend of the nights before"
    assert status(failed) == ("bad", "not published: no logs of 2026-11-22; the night of 2026-11-22 stayed served")


def test_nights_with_lists_of_another_length_name_their_figure(job: Path) -> None:
    good(job, DAYS[0], k=10)
    of = with_figures(published_night(job, LISTS, date=DAYS[1], publish=False), 20, {20: 0.6})
    publish.run(replace(of, force_publish="longer lists"))
    page = Rows(ended(of))
    assert "0.60 | 0.59 to 0.60" in page.words[str(DAYS[1])]
    assert "0.50 | recall@10: 0.49 to 0.51" in page.words[str(DAYS[0])]


def test_a_backfill_leaves_the_figure_of_the_page_as_it_is(job: Path) -> None:
    of = good(job, DAYS[1], k=20)
    before = Rows(of).words[str(DAYS[1])]
    assert Rows(good(job, DAYS[0], k=10)).words[str(DAYS[1])] == before


def test_after_a_rollback_pages_and_metrics_say_what_is_served_and_what_was_withdrawn(job: Path) -> None:
    nights = [good(job, date) for date in DAYS[:3]]
    untouched = Path(nights[0].root.report(DAYS[0])).read_bytes()
    rollback.rollback(night(job), DAYS[1])
    assert status(nights[1]) == ("ok", "published; served again after the withdrawal of 2026-11-23")
    assert status(nights[2]) == ("warn", "withdrawn after publication; the night of 2026-11-22 was served again")
    page = Rows(nights[0])
    assert [date for date, words in page.words.items() if "served now" in words] == ["2026-11-22"]
    assert [date for date, words in page.words.items() if "withdrawn after" in words] == ["2026-11-23"]
    metrics = Path(nights[0].root.metrics).read_text()
    assert re.search(r'^watchnext_served_users{date="2026-11-22",list="neighbours-\w{8}"} 1\.0$', metrics, re.MULTILINE)
    assert 'watchnext_withdrawn_night_timestamp_seconds{date="2026-11-23"} ' in metrics
    assert 'watchnext_last_run_exit_code{date="2026-11-23"} 0.0' in metrics
    rollback.rollback(night(job), DAYS[2])
    assert status(nights[2]) == status(nights[1]) == ("ok", "published")
    assert "withdrawn" not in Path(nights[0].root.metrics).read_text()
    assert Path(nights[0].root.report(DAYS[0])).read_bytes() == untouched


def test_a_forced_night_is_red_and_says_why(job: Path) -> None:
    good(job, DAYS[0])
    of = with_figures(published_night(job, LISTS, date=DAYS[1], publish=False), 10, {10: 0.2})
    with pytest.raises(GateError, match="gate recall: "):
        publish.run(of)
    failed = "not published: failed at recall; the night of 2026-11-21 stayed served"
    assert status(ended(of, 3, "1 of 4 gates failed")) == ("bad", failed)
    publish.run(replace(of, force_publish="a strike"))
    assert status(ended(of)) == ("bad", "published in spite of failed gates: a strike")
    assert Rows(of).words[str(DAYS[1])].startswith("served now | published in spite of failed gates: a strike")


def test_a_gate_that_should_have_been_computed_is_a_warning_on_the_page(job: Path) -> None:
    Path(good(job, DAYS[0]).folder("evaluation"), "metrics.json").write_text("{")
    of = good(job, DAYS[1])
    assert status(of)[0] == "warn" and "not computed: recall" in Rows(of).words[str(DAYS[1])]
    assert "metrics.json cannot be read" in Rows(of).words[str(DAYS[1])]
