"""A publication whose sink or disk fails at any step: readers of files and of Redis see one night or the other, whole,
and the next run of the same command comes to the end of an undisturbed one."""

from __future__ import annotations

import datetime as dt
import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from damage import Injected
from nights import DATE, night, published_night, write_job
from redis import exceptions
from redis_server import Server, serving

from pipelines import publish
from pipelines.night.errors import EXPECTED_ERRORS
from pipelines.serving.served_lists import open_lists
from transforms.core import files
from transforms.sinks import redis_server

USERS = [f"u{n}" for n in range(24)]
NEXT = DATE + dt.timedelta(days=1)
Lists = dict[str, list[str]]


class KillError(BaseException):
    """The process is gone: nothing after it is done."""


@dataclass
class Steps:
    """Counts the commands to Redis and the writes of small files; one of them fails, and with `for_good` all later
    commands to Redis too."""

    at: int = -1
    before: bool = True  # the step is not done; else it is done, and its answer is lost
    for_good: bool = False
    errors: dict[str, Callable[[], BaseException]] = field(default_factory=dict)  # by what fails: redis, disk
    count: int = 0  # of the steps that can fail
    failed: bool = False

    def take(self, name: str, step: Callable[[], Any]) -> Any:
        if name not in self.errors:
            return step()
        fails = self.count == self.at or (self.for_good and self.failed)
        self.count, self.failed = self.count + 1, self.failed or fails
        if fails and self.before:
            raise self.errors[name]()
        answer = step()
        if fails:
            raise self.errors[name]()
        return answer


@contextmanager
def counted(steps: Steps) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        once = redis_server.Session._once
        patch.setattr(redis_server, "FIRST_WAIT_SECONDS", 0.001)
        patch.setattr(
            redis_server.Session, "_once", lambda session, command: steps.take("redis", lambda: once(session, command))
        )
        for name in ("replace_file", "remove_files"):
            patch.setattr(files, name, _counted(steps, getattr(files, name)))
        yield


def _counted(steps: Steps, write: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: steps.take("disk", lambda: write(*given))


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


FAULTS: dict[str, dict[str, Any]] = {
    "lost connection": {"errors": {"redis": exceptions.ConnectionError}},
    "lost answer": {"errors": {"redis": exceptions.TimeoutError}, "before": False},
    "server gone": {"errors": {"redis": exceptions.ConnectionError}, "for_good": True},
    "server full": {"errors": {"redis": exceptions.OutOfMemoryError}, "for_good": True},
    "server refuses": {"errors": {"redis": exceptions.NoPermissionError}},
    "kill": {"errors": {"redis": KillError, "disk": KillError}},
    "kill after a step": {"errors": {"redis": KillError, "disk": KillError}, "before": False},
    "full disk": {"errors": {"disk": no_space}},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from serving()


def lists(mark: str) -> pl.DataFrame:
    """Lists that tell which publication they are of."""
    ids = [[f"{mark}-{user}-{n}" for n in range(3)] for user in USERS]
    return pl.DataFrame({"user_id": USERS, "video_ids": ids, "scores": [[3.0, 2.0, 1.0]] * len(USERS)})


def ready(job: Path, date: dt.date, mark: str) -> None:
    """A night whose lists are written and evaluated."""
    defaults = lists(mark).head(1).select("video_ids", "scores", country=pl.lit(None, pl.String))
    published_night(job, lists(mark), date=date, publish=False, defaults=defaults, attempt=mark)


def read_all(job: Path, source: str) -> set[str]:
    """The marks of the lists that all users have in one place; of a missing list "missing"."""
    of = night(job).job
    opened = open_lists(of, source)
    found = (opened.of_user(user) for user in USERS)
    return {one.video_ids[0].rsplit("-", 2)[0] if one else "missing" for one in found}


def attempt(job: Path, date: dt.date) -> str:
    """Publish as a process of its own would; how that ended."""
    try:
        publish.run(night(job, date))
    except EXPECTED_ERRORS as error:
        return str(error)
    except BaseException as error:
        if KillError.__name__ in repr(error):  # Beam wraps what its workers raise
            return "killed"
        raise
    return "published"


SCENARIOS = {"next night": (NEXT, "new"), "same night again": (DATE, "new")}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_failing_step(tmp_path: Path, server: Server, injected: Injected, scenario: str, fault: str) -> None:
    date, mark = SCENARIOS[scenario]
    text = f'[storage.redis]\nurl = "{server.url}"\nretry_seconds = 0.001\n'
    base = write_job(tmp_path / "base", 'watches = "w"', text)
    server.client.flushall()
    ready(base, DATE, "old")
    assert attempt(base, DATE) == "published"
    ready(base, date, mark)
    published = {key: server.client.dump(key) for key in server.client.scan_iter()}
    at = 0
    while True:
        job = Path(shutil.copytree(base.parent, tmp_path / str(at))) / "job.toml"
        server.client.flushall()
        for key, value in published.items():
            server.client.restore(key, 0, value)
        steps = Steps(at=at, **FAULTS[fault])
        with counted(steps):
            outcome = attempt(job, date)
        if not steps.failed:
            break
        injected(fault)
        for source in ("files", "redis"):
            assert read_all(job, source) in ({"old"}, {"new"}), (at, source, outcome)
        assert attempt(job, date) == "published", at
        assert [read_all(job, source) for source in ("files", "redis")] == [{"new"}, {"new"}], (at, outcome)
        assert not files.exists(night(job).root.publishing)
        at += 1
    assert at >= 6, "there were fewer steps than a publication has"
