"""An earlier night served again, those after it withdrawn."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, night, published_json, published_night, write_job
from redis_server import Server
from redis_server import server as server

from pipelines import cli, nightly, publish, rollback
from pipelines.base import manifest
from pipelines.night import publication_file
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.runs.run_log import RunLog

pytestmark = pytest.mark.usefixtures("without_plots")

DAYS = [DATE + dt.timedelta(days=n) for n in range(4)]


def ready(job: Path, date: dt.date, *, publish: bool = True) -> Night:
    """A night whose lists tell which it is."""
    scores = pl.Series([[1.0]], dtype=pl.List(pl.Float32))
    lists = pl.DataFrame({"user_id": ["ann"], "video_ids": [[f"v{date}"]], "scores": scores})
    return published_night(job, lists, date=date, publish=publish)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job with four published nights."""
    job = write_job(tmp_path, 'watches = "w"')
    for date in DAYS:
        ready(job, date)
    return job


def served(job: Path) -> str:
    return str(published_json(night(job).root)["date"])


def test_the_night_before_is_served_again_and_the_later_one_is_withdrawn(job: Path) -> None:
    message = rollback.rollback(night(job), None)
    assert message == "the night of 2026-11-23 is served again; withdrawn: 2026-11-24"
    assert served(job) == "2026-11-23" and publication_file.withdrawn(night(job).root) == {"2026-11-24"}
    assert rollback.rollback(night(job), None).endswith("2026-11-22 is served again; withdrawn: 2026-11-23")
    assert served(job) == "2026-11-22" and publication_file.withdrawn(night(job).root) == {"2026-11-23", "2026-11-24"}


def test_a_named_night_takes_back_all_after_it(job: Path) -> None:
    rollback.rollback(night(job), DAYS[0])
    assert served(job) == "2026-11-21"
    assert json.loads(Path(night(job).root.withdrawn).read_text()) == ["2026-11-22", "2026-11-23", "2026-11-24"]


def test_a_night_that_was_withdrawn_can_be_served_again(job: Path) -> None:
    rollback.rollback(night(job), DAYS[0])
    assert rollback.rollback(night(job), DAYS[2]) == "the night of 2026-11-23 is served again; none withdrawn"
    assert served(job) == "2026-11-23" and publication_file.withdrawn(night(job).root) == {"2026-11-22", "2026-11-24"}


def test_a_new_run_of_a_night_that_was_withdrawn_counts_again(job: Path) -> None:
    rollback.rollback(night(job), DAYS[2])
    of = night(job, DAYS[3])
    assert publish.plan(of).is_done(of)  # the same night again would be as bad: it stays withdrawn
    publish.run(of)
    assert served(job) == "2026-11-23"
    manifest.commit(of.folder("neighbours"), replace(of.require("neighbours"), counts={"users": 1, "better": 1}))
    publish.run(of)
    assert served(job) == "2026-11-24" and publication_file.withdrawn(of.root) == set()


def test_a_run_of_a_night_that_was_withdrawn_says_how_it_is_served_again(job: Path) -> None:
    rollback.rollback(night(job), None)
    messages = [
        nightly.run(night(job, date), str(job), ("publish",), RunLog(run="x", as_json=True)) for date in DAYS[2:]
    ]
    assert messages == [
        "night 2026-11-23: nothing to do, every stage is complete",
        "night 2026-11-24: nothing to do, every stage is complete; it was withdrawn, and watchnext rollback "
        "--to 2026-11-24 serves it again",
    ]


def test_a_night_no_longer_in_redis_is_loaded_again(tmp_path: Path, server: Server) -> None:
    job = write_job(tmp_path, 'watches = "w"', f'[storage.redis]\nurl = "{server.url}"\n')
    for date in DAYS:
        ready(job, date)
    server.client.delete(*server.contents("watchnext:2026-11-21*"))
    rollback.rollback(night(job), DAYS[0])
    assert server.lists() == {"ann": ["v2026-11-21"]}
    server.client.flushall()
    assert rollback.rollback(night(job), DAYS[0]) == "the night of 2026-11-21 is served again; none withdrawn"
    assert server.lists() == {"ann": ["v2026-11-21"]}


def test_there_must_be_a_night_to_go_back_to(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    with pytest.raises(StageError, match=r"nothing is published in .*runs: there is nothing to withdraw"):
        rollback.rollback(night(job), None)
    ready(job, DATE)
    with pytest.raises(StageError, match="there is no night before 2026-11-21 to go back to"):
        rollback.rollback(night(job), None)
    ready(job, DAYS[1], publish=False)
    message = "the night of 2026-11-22 does not exist, or never reached stage publish; nights to serve: 2026-11-21"
    with pytest.raises(StageError, match=message):
        rollback.rollback(night(job), DAYS[1])
    assert served(job) == "2026-11-21"


def test_the_command_says_what_it_did(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rollback", str(job), "--to", "2026-11-22"]) == 0
    assert capsys.readouterr().err == ("the night of 2026-11-22 is served again; withdrawn: 2026-11-23, 2026-11-24\n")
    assert cli.main(["rollback", str(job), "--to", "2026-11-02"]) == 1
    assert "watchnext: the night of 2026-11-02 does not exist" in capsys.readouterr().err
