from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, night, published_night, write_job

from pipelines import manifest, publish
from pipelines.errors import StageError
from pipelines.manifest import ManifestError
from pipelines.stages import Night

LISTS = pl.DataFrame({"user_id": ["a", "b", "c"], "video_ids": [["v"], ["w"], ["v"]], "scores": [[1.0], [2.0], [3.0]]})


def ready(job: Path, date: dt.date = DATE) -> Night:
    """A night whose lists are written and whose report is done."""
    return published_night(job, LISTS, date=date, publish=False)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_job(tmp_path, 'watches = "w"')


def test_nothing_is_published_before_the_first_night(job: Path) -> None:
    assert publish.read(night(job).root) is None


def test_a_night_is_published_with_what_a_reader_needs(job: Path) -> None:
    of = ready(job)
    publish.run(of)
    served = publish.read(of.root)
    assert served is not None
    assert dt.datetime.fromisoformat(served.pop("published_at")).tzinfo == dt.UTC
    digest = of.require("neighbours").digest
    assert served == {"format_version": 1, "date": "2026-11-21", "neighbours": digest, "users": 3, "buckets": 8}
    assert publish.plan(of).is_done(of) and of.require("publish").counts == {"published": True}


def test_a_backfill_never_moves_what_is_served_backwards(job: Path) -> None:
    publish.run(ready(job))
    before = Path(night(job).root.published).read_text()
    earlier = ready(job, DATE - dt.timedelta(days=1))
    publish.run(earlier)
    assert Path(earlier.root.published).read_text() == before
    assert earlier.require("publish").counts == {"published": False, "later": "2026-11-21"}
    later = ready(job, DATE + dt.timedelta(days=1))
    publish.run(later)
    assert json.loads(Path(later.root.published).read_text())["date"] == "2026-11-22"


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_lists_that_are_not_whole_are_not_published(job: Path, damage: str) -> None:
    of = ready(job)
    path = next(Path(of.folder("neighbours")).glob("*.parquet"))
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StageError, match=rf"{path.name} is not the file stage neighbours wrote: run the night again"):
        publish.run(of)
    assert publish.read(of.root) is None and manifest.load(of.folder("publish")) is None


def test_other_lists_are_published_anew(job: Path) -> None:
    of = ready(job)
    publish.run(of)
    listed = of.require("neighbours")
    manifest.commit(of.folder("neighbours"), replace(listed, counts={"users": 4}))
    assert not publish.plan(of).is_done(of)
    publish.run(of)
    assert (publish.read(of.root) or {})["users"] == 4


def test_a_night_without_lists_is_not_published(job: Path) -> None:
    with pytest.raises(ManifestError, match="stage neighbours is not complete"):
        publish.run(night(job))


def test_a_damaged_file_is_named(job: Path) -> None:
    root = night(job).root
    Path(root.path).mkdir()
    Path(root.published).write_text("{")
    with pytest.raises(StageError, match=r"published.json cannot be read .*: run the night again"):
        publish.read(root)
