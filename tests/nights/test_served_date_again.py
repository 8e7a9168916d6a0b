"""A date that is served is run again in many ways, while readers ask for the lists of all users, in the files and in
Redis, before and after every change of a file: they see the old lists of every user or the new ones, never a mixture,
and nobody's list is missing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

import polars as pl
import pytest
from nights import DATE, night, published_json
from redis_server import Server
from redis_server import server as server
from serving_reader import Reader
from stores import DAYS, USERS, daily, day_of_watches, ingested, write_day

from pipelines import gates, ingest, lookup, publish, rollback
from pipelines.base import manifest, paths
from pipelines.base.manifest import Outputs
from pipelines.night import publication_file
from pipelines.night.errors import GateError
from pipelines.night.night import Night
from pipelines.night.outputs import EvaluationOutputs, NeighboursOutputs, RankingOutputs
from pipelines.night.stage import Plan, StageResult, Work, complete
from pipelines.serving import publication
from pipelines.sinks.redis_sink import RedisSink
from transforms.core import files
from transforms.core.digests import bucket_of
from transforms.search.neighbours import LISTS

pytestmark = pytest.mark.usefixtures("without_plots")

BEFORE = DATE - dt.timedelta(days=1)
DEFAULTS = pl.DataFrame({"country": [None], "video_ids": [["d"]], "scores": [[1.0]]})
Lists = dict[str, list[str]]


class KillError(BaseException):
    """The process is gone: nothing after it is done."""


def lists_of(mark: str) -> Lists:
    """Lists that tell of which run they are."""
    return {user: [f"{mark}-{user}-{n}" for n in range(3)] for user in USERS}


OTHER_OUTPUTS: dict[str, Outputs] = {
    "ranking": RankingOutputs(ranked=None),
    "evaluation": EvaluationOutputs(figures={}),
}


@dataclass
class World:
    """A job with two published nights, a Redis server, and readers that look whenever a file is changed."""

    job: Path
    server: Server
    allowed: list[Lists] = field(default_factory=list)
    lock: RLock = field(default_factory=RLock)
    reader: Reader | None = None  # one that followed published.json when it last looked
    polls: int = 0
    found: list[str] = field(default_factory=list)  # what was wrong
    not_asked: set[str] = field(default_factory=set)  # users who may come or go

    @property
    def of(self) -> Night:
        return night(self.job)

    def run(self, mark: str, date: dt.date = DATE, fails: str = "") -> None:
        """The stages from neighbours on, as a run with another seed would leave them; killed in the stage `fails`."""
        of = night(self.job, date)

        def neighbours(night: Night, folder: str, attempt: str) -> StageResult:
            entries = []
            for bucket in range(of.ingested.snapshot.buckets):
                own = [(u, ids, [1.0] * 3) for u, ids in lists_of(mark).items() if self.bucket(of, u) == bucket]
                rows = pl.DataFrame(own, LISTS, orient="row")
                name = paths.shard(bucket, of.ingested.snapshot.buckets, attempt, "parquet")
                entries.append(files.write_parquet(rows, folder, name))
                vectors = rows.select("user_id", vector="scores")
                entries.append(files.write_parquet(vectors, folder, f"../user_vectors/{name}"))
                if fails == "neighbours" and bucket == 4:
                    raise KillError
            entries.append(files.write_parquet(DEFAULTS, folder, f"../defaults/defaults-{attempt}.parquet"))
            return StageResult(entries, NeighboursOutputs(users=len(USERS)))

        def other(stage: str) -> Work:
            def work(night: Night, folder: str, attempt: str) -> StageResult:
                entry = files.write_parquet(DEFAULTS, folder, f"vocabulary/rows-{attempt}.parquet")
                if fails == stage:
                    raise KillError
                return StageResult([entry], OTHER_OUTPUTS[stage])

            return work

        complete(of, Plan("neighbours", {"mark": mark}, {}), neighbours)
        for stage in ("ranking", "evaluation"):
            complete(of, Plan(stage, {"neighbours": of.require("neighbours").digest}, {}), other(stage))
        publish.run(of)

    def bucket(self, of: Night, user: str) -> int:
        return bucket_of(user, of.ingested.snapshot.buckets)

    def in_files(self) -> Lists:
        """What a server finds that reads files."""
        with self.lock:
            return self._read(Reader(self.of.root.path))

    def _read(self, reader: Reader) -> Lists:
        found = {user: reader.list_of(user) for user in USERS}
        return {user: one[0] for user, one in found.items() if one is not None}

    def poll(self) -> None:
        """Ask for all lists, in the files, in Redis, and of a reader that began before the last change."""
        with self.lock:
            self.polls += 1
            before, self.reader = self.reader, Reader(self.of.root.path)
            places = {"files": self._read(self.reader), "redis": self.server.lists()}
            if before is not None:
                places["files as of before"] = self._read(before)
            for place, lists in places.items():
                asked = {user: ids for user, ids in lists.items() if user not in self.not_asked}
                if asked not in [{u: i for u, i in one.items() if u not in self.not_asked} for one in self.allowed]:
                    self.found.append(f"poll {self.polls}, {place}: {asked}")

    def check(self, *now: Lists) -> None:
        """That nothing was wrong, and that everything serves one of these lists now."""
        self.poll()
        assert self.found == [] and self.polls > 5
        assert self.in_files() in now and self.server.lists() in now
        shown = lookup.lookup(self.of.job, USERS[1], 9)
        assert [item.video_id for item in shown.items] in [one[USERS[1]] for one in now]


@pytest.fixture
def world(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "forget.csv").write_text("user_id\n")
    more = f'[privacy]\nforget = "forget.csv"\n[storage.redis]\nurl = "{server.url}"\nretry_seconds = 0.3\n'
    made = World(daily(tmp_path, more), server)
    for date, mark in ((BEFORE, "before"), (DATE, "old")):
        ingested(made.job, date)
        made.run(mark, date=date)
    made.allowed = [lists_of("old")]
    for name in ("write_parquet", "replace_parquet", "replace_file", "remove_files"):
        monkeypatch.setattr(files, name, polled(made, getattr(files, name)))
    for name in ("load", "switch", "settle", "drop"):
        monkeypatch.setattr(RedisSink, name, polled(made, getattr(RedisSink, name)))
    return made


def polled(world: World, real: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a look of the readers before and after it."""

    def call(*given: Any, **named: Any) -> Any:
        world.poll()
        result = real(*given, **named)
        world.poll()
        return result

    return call


def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Night) -> None:
        raise GateError("recall is 0.01")

    monkeypatch.setattr(gates, "check", fail)


def test_another_seed(world: World) -> None:
    world.allowed.append(lists_of("new"))
    world.run("new")
    world.check(lists_of("new"))


def test_a_gate_that_fails_and_the_night_after_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        failing(patched)
        for mark in ("bad", "worse"):
            with pytest.raises(GateError, match="the night of 2026-11-21 is served meanwhile"):
                world.run(mark)
    world.check(lists_of("old"))
    world.allowed.append(lists_of("good"))
    world.run("good")
    world.check(lists_of("good"))


@pytest.mark.parametrize(
    "stage", ["neighbours", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("ranking", "evaluation"))]
)
def test_a_kill_in_a_stage(world: World, stage: str) -> None:
    for mark in ("cut", "cut again"):
        with pytest.raises(KillError):
            world.run(mark, fails=stage)
    world.check(lists_of("old"))
    world.allowed.append(lists_of("new"))
    world.run("new")
    world.check(lists_of("new"))


def test_days_that_are_ingested_again(world: World) -> None:
    write_day(world.job.parent, DAYS[1], day_of_watches(DAYS[1], mark="again"))
    ingested(world.job, DATE, DAYS[1])
    world.check(lists_of("old"))
    world.allowed.append(lists_of("new"))
    world.run("new")
    world.check(lists_of("new"))


def test_another_user_is_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also out of lists that are served and that no stage lists any more."""
    with monkeypatch.context() as patched, pytest.raises(GateError):
        failing(patched)
        world.run("bad")
    world.not_asked.add(USERS[3])
    (world.job.parent / "forget.csv").write_text(f"user_id\n{USERS[3]}\n")
    ingest.run(world.of)
    left = {user: ids for user, ids in lists_of("old").items() if user != USERS[3]}
    world.check(left)
    served = published_json(world.of.root)
    assert served["users"] == len(left) and publication_file.served(world.of.root) is not None
    listed = files.file_entry(world.of.root.path, served["lists"]["file"])
    assert listed.digest == served["lists"]["digest"]
    lists = publication_file.served(world.of.root)
    assert lists is not None
    publication.check_files(world.of, lists)
    for path in Path(world.of.root.nights).rglob("*.parquet"):
        rows = pl.read_parquet(path)
        assert "user_id" not in rows.columns or USERS[3] not in rows["user_id"].to_list(), path


def test_a_rollback_in_between(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, pytest.raises(GateError):
        failing(patched)
        world.run("bad")
    world.allowed.append(lists_of("before"))
    rollback.rollback(world.of, None)
    world.check(lists_of("before"))
    assert publication_file.withdrawn(world.of.root) == {DATE.isoformat()}
    rollback.rollback(world.of, DATE)
    world.check(lists_of("old"))  # not those whose gates failed, which are what stage neighbours left
    world.allowed = [lists_of("old"), lists_of("new")]
    world.reader = None
    world.run("new")
    world.check(lists_of("new"))


@pytest.mark.parametrize(
    "when", [*(pytest.param(when, marks=pytest.mark.slow) for when in ("before load", "before switch")), "after switch"]
)
def test_a_publication_that_is_interrupted(world: World, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    world.allowed.append(lists_of("new"))
    with monkeypatch.context() as patched, pytest.raises(KillError):
        name = when.split()[1]
        real = getattr(RedisSink, name)

        def killed(*given: Any) -> None:
            if when == "after switch":
                real(*given)
            raise KillError

        patched.setattr(RedisSink, name, killed)
        world.run("new")
    assert world.in_files() == lists_of("old") and files.exists(world.of.root.publishing)
    assert world.server.lists() == lists_of("new" if when == "after switch" else "old")
    world.poll()
    with pytest.raises(KillError):  # the next attempt at the date is killed too, before it publishes
        world.run("newer", fails="neighbours")
    publication.recover(night(world.job, DATE + dt.timedelta(days=1)))
    now = lists_of("old" if when == "before load" else "new")
    world.check(now)
    world.allowed = [now, lists_of("last")]
    world.reader = None
    world.run("last")
    world.check(lists_of("last"))


def test_two_publications_stay_readable_and_no_more(world: World) -> None:
    for n in range(2):
        world.allowed.append(lists_of(f"new {n}"))
        world.run(f"new {n}")
    root = world.of.root
    served = published_json(root)
    named = {served["lists"]["file"], served["before"]["lists"]["file"]}
    there = {path[len(root.path) + 1 :] for path in files.list_files(root.stage(DATE, "publish"))}
    assert {name for name in there if name.endswith(".json")} == named and len(named) == 2
    assert len([path for path in files.list_files(root.stage(DATE, "neighbours")) if path.endswith("parquet")]) == 16


def test_a_root_of_an_older_watchnext_is_pinned_before_a_stage_changes_it(tmp_path: Path, server: Server) -> None:
    (tmp_path / "forget.csv").write_text("user_id\n")
    world = World(daily(tmp_path), server)
    ingested(world.job)
    world.run("old")
    root = world.of.root
    older = {name: value for name, value in published_json(root).items() if name != "lists"}
    files.remove_files(map(str, Path(root.path).glob("nights/*/publish/lists-*.json")))
    files.replace_file(root.published, publication_file.to_json(older))
    assert [item.video_id for item in lookup.lookup(world.of.job, USERS[1], 9).items] == lists_of("old")[USERS[1]]
    with pytest.raises(KillError):
        world.run("new", fails="neighbours")
    assert world.in_files() == lists_of("old")
    assert published_json(root) | older == published_json(root)
    manifest.revoke(world.of.folder("neighbours"))
    assert world.in_files() == lists_of("old")
