"""Nights in a real Redis server: what a reader finds there, whatever happens while a night is loaded."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from nights import (
    DATE,
    REPOSITORY,
    night,
    published_json,
    published_night,
    wait_for,
    write_job,
)
from redis_server import Server
from redis_server import keeping_server as keeping_server
from redis_server import server as server

from pipelines import publish
from pipelines.base import manifest
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.serving import publication
from transforms.core import files
from transforms.sinks.redis_lists import BLOCK_ROWS, decode_list
from transforms.sinks.redis_server import Session

pytestmark = pytest.mark.usefixtures("without_plots")

USERS = [f"u{n}" for n in range(40)]
NEXT = DATE + dt.timedelta(days=1)


def lists(date: dt.date, users: list[str] = USERS, k: int = 3) -> pl.DataFrame:
    """Lists that tell which night they are of."""
    ids = [[f"{date}-{user}-{n}" for n in range(k)] for user in users]
    scores = pl.Series([[float(k - n) for n in range(k)] for _ in users], dtype=pl.List(pl.Float32))
    return pl.DataFrame({"user_id": users, "video_ids": ids, "scores": scores})


def expected(date: dt.date) -> dict[str, list[str]]:
    return {user: ids for user, ids, _ in lists(date).iter_rows()}


def ready(job: Path, date: dt.date = DATE, rows: pl.DataFrame | None = None) -> Night:
    """A night with lists, vectors and default lists, whose evaluation is done."""
    vectors = pl.DataFrame({"user_id": USERS, "vector": [[0.5, float(date.day)]] * len(USERS)})
    defaults = lists(date, ["", "SE"]).select("video_ids", "scores", country=pl.Series([None, "SE"]))
    rows = lists(date) if rows is None else rows
    return published_night(job, rows, vectors=vectors, defaults=defaults, date=date, publish=False)


def job_of(folder: Path, server: Server, more: str = "") -> Path:
    text = f'[storage.redis]\nurl = "{server.url}"\nretry_seconds = 0.3\n{more}'
    return write_job(folder, 'watches = "w"', text)


@pytest.fixture
def job(tmp_path: Path, server: Server) -> Path:
    return job_of(tmp_path, server)


def register(server: Server) -> dict[str, Any]:
    return {name.decode(): json.loads(state) for name, state in server.client.hgetall("watchnext:nights").items()}


def served(of: Night) -> str:
    return str(published_json(of.root)["sinks"]["redis"]["serves"])


def test_a_night_is_there_for_readers(job: Path, server: Server) -> None:
    of = ready(job)
    publish.run(of)
    version = served(of)
    assert version.startswith("2026-11-21-") and server.client.get("watchnext:night") == version.encode()
    assert server.lists() == expected(DATE)
    found = server.contents(f"watchnext:{version}.*")
    assert {name: decode_list(value)[0] for name, value in found.items()} == {
        f"watchnext:{version}.default:": [f"2026-11-21--{n}" for n in range(3)],
        f"watchnext:{version}.default:SE": [f"2026-11-21-SE-{n}" for n in range(3)],
    }
    assert of.require("publish").counts["sinks"] == {"redis": {"version": version, "keys": 42}}
    assert {server.client.ttl(name) for name in server.contents()} == {-1}


def test_vectors_and_scores_are_there_where_asked_for(tmp_path: Path, server: Server) -> None:
    of = ready(job_of(tmp_path, server, 'vectors = true\nscores = true\nprefix = "mine"\n'))
    publish.run(of)
    version = served(of)
    assert np.frombuffer(server.client.get(f"mine:{version}.vector:u7"), "<f4").tolist() == [0.5, 21.0]
    assert decode_list(server.client.get(f"mine:{version}:u7"))[1] == [3.0, 2.0, 1.0]
    assert {name.split(":")[0] for name in server.contents()} == {"mine"}


def test_other_settings_are_another_version(tmp_path: Path, server: Server) -> None:
    of = ready(job_of(tmp_path, server))
    publish.run(of)
    before = served(of)
    again = night(job_of(tmp_path, server, "scores = true\n"))
    assert not publish.plan(again).is_done(again)
    publish.run(again)
    assert served(again) != before and set(register(server)) == {before, served(again)}


def test_the_night_before_stays_and_older_ones_expire_after_a_switch_alone(job: Path, server: Server) -> None:
    found = []
    for days in range(3):
        of = ready(job, DATE + dt.timedelta(days=days))
        publish.run(of)
        found.append(served(of))
    first, *kept = ({server.client.ttl(name) for name in server.contents(f"watchnext:{one}*")} for one in found)
    assert first <= {3598, 3599, 3600} and kept == [{-1}, {-1}]
    assert server.lists() == expected(of.date)
    state = register(server)
    assert "expires" in state[found[0]] and state[found[2]] == {"loaded": True, "keys": 42}
    server.client.hset("watchnext:nights", found[0], json.dumps({"loaded": True, "expires": 1}))
    publish.run(ready(job, DATE + dt.timedelta(days=3)))
    assert found[0] not in register(server) and not server.contents(f"watchnext:{found[0]}*")


def test_a_night_that_was_to_expire_is_loaded_again_where_it_is_served_again(job: Path, server: Server) -> None:
    for days in range(3):
        publish.run(ready(job, DATE + dt.timedelta(days=days)))
    server.client.delete(*list(server.contents("watchnext:2026-11-21*"))[:5])
    publication.serve(night(job))
    assert server.lists() == expected(DATE)
    assert {server.client.ttl(name) for name in server.contents("watchnext:2026-11-21*")} == {-1}


def test_a_night_that_is_there_is_not_loaded_again(job: Path, server: Server) -> None:
    of = ready(job)
    publish.run(of)
    assert publication.serve(of) == {"redis": {"version": served(of), "keys": 0}}
    server.client.delete(f"watchnext:{served(of)}:u3")
    assert publication.serve(of) == {"redis": {"version": served(of), "keys": 42}}
    assert server.lists() == expected(DATE)


def test_forgotten_users_leave_every_night(tmp_path: Path, server: Server) -> None:
    job = job_of(tmp_path, server, "vectors = true\n")
    for date in (DATE, NEXT):
        publish.run(ready(job, date))
    before = set(server.contents())
    publication.forget(night(job), pl.Series(["u3", "u5", "nobody"]))
    gone = before - set(server.contents())
    versions = list(register(server))
    assert gone == {f"watchnext:{v}{kind}:{u}" for v in versions for kind in ("", ".vector") for u in ("u3", "u5")}
    assert len(versions) == 2


def test_the_documented_rights_are_enough(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
    rights = "~watchnext:* +@read +@write +@connection +info +eval"
    assert rights.replace("watchnext", "PREFIX") in page
    server.client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", *rights.split())
    monkeypatch.setenv("THE_USER", "ann")
    monkeypatch.setenv("THE_PASSWORD", "secret")
    job = job_of(tmp_path, server, 'vectors = true\nuser_env = "THE_USER"\npassword_env = "THE_PASSWORD"\n')
    for days in range(3):
        publish.run(ready(job, DATE + dt.timedelta(days=days)))
    publication.forget(night(job), pl.Series(USERS[:1]))
    assert "secret" not in json.dumps(published_json(night(job).root)) and len(register(server)) == 3
    assert set(server.lists()) == set(USERS[1:])


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_server_that_throws_away_what_is_served_is_refused(job: Path, server: Server, policy: str) -> None:
    server.client.config_set("maxmemory-policy", policy)
    message = rf"has maxmemory-policy {policy}: when full, it would evict lists that are served; set noeviction"
    with pytest.raises(StageError, match=message):
        publish.run(ready(job))
    assert not server.contents() and not files.exists(night(job).root.publishing)


def test_a_cluster_is_refused(job: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Session.do

    def do(self: Session, *command: Any) -> Any:
        return {"cluster_enabled": 1} if command == ("INFO", "cluster") else real(self, *command)

    monkeypatch.setattr(Session, "do", do)
    with pytest.raises(StageError, match="is a Redis Cluster"):
        publish.run(ready(job))


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
def test_a_full_server_is_an_error_and_not_half_a_night(job: Path, server: Server, policy: str) -> None:
    publish.run(ready(job))
    before = server.contents()
    users = [f"{n}" for n in range(8 * BLOCK_ROWS)]
    of = ready(job, NEXT, lists(NEXT, users, 10))
    server.client.config_set("maxmemory", server.client.info("memory")["used_memory"] + 1_000_000)
    server.client.config_set("maxmemory-policy", policy)
    message = r"Redis at .* is full: .*; the night of 2026-11-21 is served meanwhile"
    with pytest.raises(StageError, match=message):
        publish.run(of)
    assert server.contents() == before and list(register(server)) == [served(of)]
    assert server.lists() == expected(DATE)
    server.client.config_set("maxmemory", 0)
    publish.run(of)
    assert set(server.lists()) == set(users)


When = Callable[[int, tuple[Any, ...]], bool]  # of the number of a command, and the command


def at_command(monkeypatch: pytest.MonkeyPatch, at: When, do: Callable[[], None]) -> None:
    """`do` something once, before the first command that `at` is true of."""
    real, seen, done = Session._once, [0], [False]

    def once(self: Session, command: tuple[Any, ...]) -> Any:
        if not done[0] and at(seen[0], command):
            done[0] = True
            do()
        seen[0] += 1
        return real(self, command)

    monkeypatch.setattr(Session, "_once", once)


def test_a_server_that_is_gone_before_is_named_and_changes_nothing(job: Path, server: Server) -> None:
    publish.run(ready(job))
    of = ready(job, NEXT)
    entry = published_json(of.root)
    server.kill()
    message = r"^Redis at unix://.*redis.sock did not answer for 0.3 s: .*; the night of 2026-11-21 is served"
    with pytest.raises(StageError, match=message):
        publish.run(of)
    assert published_json(of.root) == entry and manifest.load(of.folder("publish")) is None
    assert not files.exists(of.root.publishing)


def test_a_server_that_is_gone_at_the_switch_serves_the_old_night_until_the_next_start(
    tmp_path: Path, keeping_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, keeping_server)
    publish.run(ready(job))
    of = ready(job, NEXT)
    at_command(monkeypatch, lambda _, command: command[:2] == ("SET", "watchnext:night"), keeping_server.kill)
    with pytest.raises(StageError, match="did not answer"):
        publish.run(of)
    keeping_server.start()
    assert keeping_server.lists() == expected(DATE) and published_json(of.root)["date"] == "2026-11-21"
    publication.recover(night(job, NEXT + dt.timedelta(days=1)))
    assert keeping_server.lists() == expected(NEXT) and published_json(of.root)["date"] == "2026-11-22"


def test_a_restart_during_a_load_is_noticed(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path, server)
    of = ready(job)

    def restart() -> None:
        server.kill()
        server.start()

    loads = iter(range(100))
    at_command(monkeypatch, lambda _, command: command[0] == "MSET" and next(loads) == 4, restart)
    with pytest.raises(StageError, match=r"of the 42 loaded keys: it was restarted, .*; run again; no night"):
        publish.run(of)
    assert not server.contents() and not files.exists(of.root.publishing)
    publish.run(of)
    assert server.lists() == expected(DATE)


def test_a_reader_never_sees_two_nights_or_misses_a_user(job: Path, server: Server) -> None:
    publish.run(ready(job))
    stop, seen, wrong = threading.Event(), list[str](), list[str]()

    def read() -> None:
        while not stop.is_set():
            version = server.client.get("watchnext:night").decode()
            values = server.client.mget([f"watchnext:{version}:{user}" for user in USERS])
            nights = {decode_list(value)[0][0][:10] if value else "missing" for value in values}
            if nights != {version[:10]}:
                wrong.append(f"{version}: {nights}")
            seen.append(version)

    reader = threading.Thread(target=read)
    reader.start()
    for days in range(1, 5):
        publish.run(ready(job, DATE + dt.timedelta(days=days)))
        wait_for(partial(seen.count, served(night(job))))
    stop.set()
    reader.join()
    assert not wrong and len(set(seen)) == 5


@pytest.mark.parametrize("garbage", [b"x", b"[]", b'{"loaded": 1}', b'{"loaded": true, "expires": "x"}', b"\xff"])
def test_a_foreign_field_of_the_register_is_named(job: Path, server: Server, garbage: bytes) -> None:
    server.client.hset("watchnext:nights", "mine", garbage)
    with pytest.raises(StageError, match=r"field b'mine' of the hash watchnext:nights is .* HDEL"):
        publish.run(ready(job))
    server.client.hdel("watchnext:nights", "mine")
    publish.run(ready(job))
    assert server.lists() == expected(DATE)
