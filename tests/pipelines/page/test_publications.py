"""Which publication is open, and what is read of it once."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, night, published_night, write_job

from pipelines.night.errors import StageError
from pipelines.page import publications
from pipelines.page.publications import Publications

LISTS = pl.DataFrame(
    {"user_id": ["ann", "bob", "ångström"], "video_ids": [["v1"]] * 3, "scores": [[1.0]] * 3},
    schema_overrides={"scores": pl.List(pl.Float32)},
)


@pytest.fixture
def opened(tmp_path: Path) -> Publications:
    job = write_job(tmp_path, 'watches = "w"')
    published_night(job, LISTS)
    return Publications(night(job).job, "files")


def test_a_publication_stays_open_until_another_one_is_published(opened: Publications) -> None:
    first = opened.current()
    assert opened.current() is first and first.night.date == DATE
    job = Path(opened.root.path).parent / "job.toml"
    published_night(job, LISTS, date=DATE + dt.timedelta(days=1), attempt="bb", publish=False)
    assert opened.current() is first
    published_night(job, LISTS, date=DATE + dt.timedelta(days=1), attempt="bb")
    second = opened.current()
    assert second is not first and second.night.date == DATE + dt.timedelta(days=1)
    opened.reopen()
    assert opened.current() is not second


def test_nothing_published_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="nothing is published in"):
        Publications(night(write_job(tmp_path, 'watches = "w"')).job, "files").current()


def test_users_are_found_by_the_beginning_of_their_id(opened: Publications) -> None:
    of = opened.current()
    assert of.users_beginning_with("a", 9) == ["ann"] and of.users_beginning_with("ån", 9) == ["ångström"]
    assert of.users_beginning_with("", 9) == of.users_beginning_with("nn", 9) == of.users_beginning_with("(", 9) == []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_some_users_are_distinct_and_in_order(opened: Publications, count: int) -> None:
    found = opened.current().some_users(count)
    assert len(found) == min(count, 3) and found == sorted(set(found)) and set(found) <= set(LISTS["user_id"])


def test_too_many_users_are_not_listed(opened: Publications, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publications, "MOST_IDS", 2)
    of = opened.current()
    assert of.user_ids is None and of.some_users(3) == of.users_beginning_with("a", 9) == []
