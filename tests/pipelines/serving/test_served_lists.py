"""Lists read as servers read them, from the files of a night and from a Redis server that publish loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, DEFAULTS, published_night, write_job
from redis_server import Server
from redis_server import server as server

from pipelines import lookup
from pipelines.base import manifest
from pipelines.config.jobs import load_job
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.serving.served_lists import ServedList, open_lists

LISTS = pl.DataFrame(
    {"user_id": ["ann", "bob", "cleo"], "video_ids": [["v1", "v2"], ["v3"], []], "scores": [[3.0, 2.0], [1.0], []]},
    schema_overrides={"video_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)},
)


@pytest.fixture
def published(tmp_path: Path) -> Night:
    """A published night with default lists."""
    return published_night(write_job(tmp_path, 'watches = "w"'), LISTS, defaults=DEFAULTS)


def test_the_list_of_a_user_and_of_nobody(published: Night) -> None:
    served = open_lists(published.job, "files")
    assert served.of_user("ann") == ServedList(video_ids=["v1", "v2"], scores=[3.0, 2.0])
    assert served.of_user("bob") == ServedList(video_ids=["v3"], scores=[1.0])
    assert served.of_user("cleo") == ServedList(video_ids=[], scores=[])
    assert served.of_user("nobody") is None


def test_the_default_list_of_a_country_or_of_all(published: Night) -> None:
    served = open_lists(published.job, "files")
    overall = ServedList(video_ids=["v9", "v8"], scores=[2.0, 1.0], country=None)
    assert served.default("SE") == ServedList(video_ids=["v1"], scores=[0.5], country="SE")
    assert served.default("FR") == served.default(None) == overall


def test_lists_stay_that_a_later_run_replaced(published: Night) -> None:
    manifest.commit(published.folder("neighbours"), replace(published.require("neighbours"), files=[]))
    served = open_lists(published.job, "files")
    assert served.of_user("ann") == ServedList(video_ids=["v1", "v2"], scores=[3.0, 2.0])
    assert served.default("SE") == ServedList(video_ids=["v1"], scores=[0.5], country="SE")


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_served_file_that_cannot_be_read_is_named_with_the_way_back(published: Night, damage: str) -> None:
    for path in Path(published.folder("neighbours")).glob("*.parquet"):
        path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StageError, match=r"parquet cannot be read .* again from neighbours, or serve"):
        open_lists(published.job, "files").of_user("ann")


def test_an_unknown_format_is_an_error(published: Night) -> None:
    path = Path(published.root.published)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 3}))
    with pytest.raises(StageError, match=r"published\.json has format_version 3"):
        open_lists(published.job, "files")


@pytest.mark.parametrize("scores", [True, False])
def test_redis_is_read(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], scores: bool) -> None:
    settings = f'[storage.redis]\nurl = "{server.url}"\nscores = {str(scores).lower()}\n'
    path = write_job(tmp_path, 'watches = "w"', settings)
    with pytest.raises(StageError, match=r"no key watchnext:night: it serves no night; run watchnext nightly first"):
        open_lists(load_job(str(path)), "redis")
    of = published_night(path, LISTS, defaults=DEFAULTS)
    served, files_of = open_lists(of.job, "redis"), open_lists(of.job, "files")
    assert served.date == DATE

    def as_kept(found: ServedList | None) -> ServedList | None:
        return found if scores or found is None else replace(found, scores=None)

    for user in ("ann", "bob", "cleo", "nobody"):
        assert served.of_user(user) == as_kept(files_of.of_user(user))
    for country in ("SE", "FR", None):
        assert served.default(country) == as_kept(files_of.default(country))
    assert lookup.main([str(path), "ann", "--from", "redis"]) == 0
    shown = ["  1  3.0000  v1", "  2  2.0000  v2"] if scores else ["  1    v1", "  2    v2"]
    assert capsys.readouterr().out.splitlines()[2:4] == shown
    assert lookup.main([str(path), "nobody", "--from", "redis", "--country", "SE", "--json"]) == 1
    message = json.loads(capsys.readouterr().out)
    assert (message["source"], message["country"], message["items"][0]["score"]) == (
        "redis",
        "SE",
        0.5 if scores else None,
    )


def test_redis_without_its_table_in_the_job_is_an_error(published: Night, capsys: pytest.CaptureFixture[str]) -> None:
    assert lookup.main([str(Path(published.root.path).parent / "job.toml"), "ann", "--from", "redis"]) == 1
    assert "--from redis: the job has no [storage.redis]; add it" in capsys.readouterr().err
