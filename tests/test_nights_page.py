"""The page of all nights: what became of each, also of one that failed before its gates."""

import json
from pathlib import Path

import polars as pl
import pytest
from nights import night, published_night, write_job

from pipelines import nights_page, publish, report
from pipelines.run_log import Outcome

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
    with pytest.raises(RuntimeError, match="a sink"), nights_page.kept_up(of):
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
