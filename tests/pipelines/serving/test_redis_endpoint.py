"""The endpoint that docs/serving.md shows, over a Redis server that publish loaded."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis_endpoint
from nights import DATE, DEFAULTS, REPOSITORY, published_night, write_job
from redis_server import Server
from redis_server import server as server
from web import Answer, get

LISTS = pl.DataFrame(
    {
        "user_id": ["ann", "bob/../ann", "cleo"],
        "video_ids": [["v1", "v2", "v3"], ["v3"], []],
        "scores": [[3.0, 2.0, 1.0], [1.0], []],
    },
    schema_overrides={"video_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)},
)


@pytest.fixture(autouse=True)
def connected(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_endpoint, "server", server.client)
    monkeypatch.setattr(redis_endpoint, "served", {"version": "", "read_at": 0.0})


def videos(**query: Any) -> Answer:
    return get(redis_endpoint.app, "/videos", **query)


@pytest.fixture(params=["true", "false"], ids=["with scores", "without scores"])
def job(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    settings = f'[storage.redis]\nurl = "{server.url}"\nscores = {request.param}\n'
    return write_job(tmp_path, 'watches = "w"', settings)


def test_a_user_gets_the_list_of_the_night(job: Path) -> None:
    published_night(job, LISTS, defaults=DEFAULTS)
    for user, ids, _ in LISTS.iter_rows():
        wanted = {"night": str(DATE), "list": "user", "video_ids": ids}
        assert videos(user=user, country="SE").json() == wanted
    assert videos(user="ann", k=2).json()["video_ids"] == ["v1", "v2"]


@pytest.mark.parametrize(
    ("country", "name", "ids"),
    [("SE", "SE", ["v1"]), ("", "all countries", ["v9", "v8"]), ("FR", "all countries", ["v9", "v8"])],
)
def test_a_user_without_a_list_gets_the_default_list(job: Path, country: str, name: str, ids: list[str]) -> None:
    published_night(job, LISTS, defaults=DEFAULTS)
    found = videos(user="nobody", country=country).json()
    assert found == {"night": str(DATE), "list": name, "video_ids": ids}


def test_a_later_night_is_seen_after_the_time_for_it(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = DATE - dt.timedelta(days=1)
    published_night(job, LISTS, date=before)
    assert videos(user="ann").json()["night"] == str(before)
    published_night(job, LISTS.with_columns(video_ids=pl.lit(["v7"])), attempt="bb")
    assert videos(user="ann").json()["night"] == str(before)
    monkeypatch.setattr(redis_endpoint, "REFRESH_SECONDS", 0)
    later = {"night": str(DATE), "list": "user", "video_ids": ["v7"]}
    assert videos(user="ann").json() == later


@pytest.mark.parametrize("k", [0, 201, "many"])
def test_a_wrong_number_of_videos_is_refused(k: object) -> None:
    assert videos(user="ann", k=k).status == 422


def test_redis_without_a_night_or_without_an_answer_is_an_error_to_retry(server: Server) -> None:
    found = videos(user="ann")
    assert (found.status, found.json()) == (503, {"detail": "no night is loaded"})
    server.kill()
    found = videos(user="ann")
    assert (found.status, found.json()) == (503, {"detail": "Redis does not answer"})


def test_the_documentation_shows_this_endpoint() -> None:
    source = (REPOSITORY / "tests" / "support" / "redis_endpoint.py").read_text(encoding="utf-8")
    assert f"\n```python\n{source}```\n" in (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
    code = source.partition('"""\n\n')[2].splitlines()
    assert sum(bool(line.strip()) for line in code) <= 32
