"""The sink of Bigtable, on a stand-in and on Google's emulator: what lies in the table after each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bigtables import Emulated, StandIn, emulator, stand_in
from google.rpc.status_pb2 import Status
from night_files import LISTS, night_files
from nights import night, published_night, write_job

from pipelines.config.jobs import JobError
from pipelines.config.sink_settings import BigtableSettings
from pipelines.night.sink_protocol import NightFiles
from pipelines.serving import publication
from pipelines.sinks.bigtable_sink import BigtableSink
from transforms.sinks import SinkError
from transforms.sinks.redis_lists import decode_list

pytestmark = [
    pytest.mark.usefixtures("without_plots"),
    pytest.mark.filterwarnings("ignore:Connecting to Bigtable emulator:RuntimeWarning"),
]

TABLE = '[storage.bigtable]\nproject = "my-project"\ninstance = "main"\ntable = "lists"\n'


def sink_of(folder: Path, more: str = "") -> BigtableSink:
    of = night(write_job(folder, 'watches = "w"', TABLE + more))
    assert of.job.storage.bigtable is not None
    return BigtableSink(of, of.job.storage.bigtable)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with emulator(tmp_path_factory.mktemp("emulator")) as found:
        yield found


@pytest.fixture(params=["stand-in", pytest.param("emulator", marks=pytest.mark.slow)])
def table(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[StandIn | Emulated]:
    if request.param == "stand-in":
        with stand_in(monkeypatch, "watchnext") as found:
            yield found
    else:
        monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", request.getfixturevalue("host"))
        emulated = Emulated("my-project", "main", "lists", "watchnext")
        yield emulated
        emulated.table.delete()


def lists_of(table: Any, version: str) -> dict[str, list[str]]:
    """What a server finds of a version, by the ends of the keys."""
    column = f"list:{version}".encode()
    return {key.decode(): decode_list(row[column])[0] for key, row in table.everything().items() if column in row}


def loaded(sink: BigtableSink, files: NightFiles) -> str:
    """The version of a night that is loaded and switched to."""
    sink.load(files)
    sink.switch(sink.version(files))
    return sink.version(files)


WANTED = {
    "watchnext#default#": ["v9"],
    "watchnext#default#SE": ["v8", "v9"],
    "watchnext#user#ann": ["v1", "v2"],
    "watchnext#user#bob": [],
    "watchnext#user#用户": ["v3"],
}


def test_a_night_is_loaded_and_only_then_switched_to(table: Any, tmp_path: Path) -> None:
    sink, files = sink_of(tmp_path, "vectors = true\nscores = true\n"), night_files(tmp_path)
    version = sink.version(files)
    assert version.startswith("2026-11-21-") and len(version) == 19
    sink.ready()
    assert sink.load(files) == {"version": version, "users": 3, "rows": 5}
    assert lists_of(table, version) == WANTED
    rows = table.everything()
    assert decode_list(rows[b"watchnext#user#ann"][f"list:{version}".encode()]) == (["v1", "v2"], [2.0, 1.0])
    assert np.frombuffer(rows["watchnext#user#用户".encode()][f"vector:{version}".encode()], "<f4").tolist() == [
        0.25,
        1.0,
    ]
    assert set(rows[b"watchnext#user#bob"]) == {f"list:{version}".encode()}
    assert rows[b"watchnext#night"] == {f"version:{version}".encode(): b"loaded"} and sink.served() is None
    sink.switch(version)
    assert table.everything()[b"watchnext#night"][b"served"] == version.encode()


def test_what_is_loaded_is_not_loaded_again(table: Any, tmp_path: Path) -> None:
    sink, files = sink_of(tmp_path), night_files(tmp_path)
    sink.load(files)
    Path(files.lists[0]).unlink()
    sink.load(files)
    half = replace(files, attempt="bb")
    with pytest.raises(FileNotFoundError):
        sink.load(half)
    assert table.everything()[b"watchnext#night"][f"version:{sink.version(half)}".encode()] == b"loading"


def test_the_night_before_stays_and_older_ones_leave_with_their_users(table: Any, tmp_path: Path) -> None:
    sink = sink_of(tmp_path, "vectors = true\n")
    gone = [("old", ["v1"], [1.0])]
    first, second, third = (
        loaded(sink, night_files(tmp_path, f"2026-11-{day}", lists))
        for day, lists in ((19, LISTS + gone), (20, LISTS), (21, LISTS[1:]))
    )
    sink.settle({second, third})
    assert lists_of(table, first) == {}
    assert lists_of(table, second) == WANTED
    assert lists_of(table, third) == {key: ids for key, ids in WANTED.items() if not key.endswith("ann")}
    rows = table.everything()
    assert b"watchnext#user#old" not in rows and not any(first in str(row) for row in rows.values())
    sink.switch(second)
    assert sink.served() == second
    assert set(rows[b"watchnext#night"]) == {b"served", *(f"version:{one}".encode() for one in (second, third))}


def test_a_switch_is_undone_and_what_was_loaded_for_it_leaves(table: Any, tmp_path: Path) -> None:
    sink = sink_of(tmp_path)
    before = loaded(sink, night_files(tmp_path, "2026-11-20"))
    after = loaded(sink, night_files(tmp_path))
    sink.drop(after)
    assert lists_of(table, after) == WANTED  # servers read it
    sink.switch(before)
    sink.drop(after)
    sink.drop("2026-01-01-00000000")
    assert lists_of(table, after) == {} and lists_of(table, before) == WANTED and sink.served() == before
    sink.switch(None)
    assert sink.served() is None
    sink.settle(set())
    assert table.everything() == {}


def test_a_version_that_is_not_there_is_not_switched_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sink = sink_of(tmp_path)
    with stand_in(monkeypatch, "watchnext"):
        version = loaded(sink, night_files(tmp_path))
        with pytest.raises(SinkError, match=r"^Bigtable my-project/main/lists: 2026-01-01-0 is not loaded"):
            sink.switch("2026-01-01-0")
        assert sink.served() == version


def test_users_are_forgotten_in_every_version(table: Any, tmp_path: Path) -> None:
    sink = sink_of(tmp_path)
    versions = [loaded(sink, night_files(tmp_path, f"2026-11-{day}")) for day in (20, 21)]
    sink.forget(pl.Series(["ann", "用户", "never seen"]))
    for version in versions:
        assert set(lists_of(table, version)) == set(WANTED) - {"watchnext#user#ann", "watchnext#user#用户"}


def test_jobs_with_other_prefixes_share_a_table(table: Any, tmp_path: Path) -> None:
    one, other = sink_of(tmp_path), sink_of(tmp_path / "other", 'prefix = "watchnext.b"\n')
    version = loaded(one, night_files(tmp_path))
    assert loaded(other, night_files(tmp_path, lists=LISTS[:1], attempt="bb")) != version
    other.switch(None)
    other.settle(set())
    other.forget(pl.Series(["ann"]))
    assert lists_of(table, version) == WANTED and one.served() == version
    assert not any(key.startswith(b"watchnext.b#") for key in table.everything())


def test_a_version_is_of_the_files_and_of_what_of_them_is_loaded(tmp_path: Path) -> None:
    files = night_files(tmp_path)
    texts = ("", "vectors = true\n", "scores = true\n", 'prefix = "other"\n')
    plain, vectors, scores, prefix = (sink_of(tmp_path, more).version(files) for more in texts)
    assert len({plain, vectors, scores}) == 3 and plain == prefix
    assert sink_of(tmp_path).version(replace(files, attempt="bb")) != plain


def test_an_unknown_family_is_an_error_before_the_first_write(table: Any, tmp_path: Path) -> None:
    sink = sink_of(tmp_path, 'family = "other"\n')
    sink.ready()
    with pytest.raises(SinkError, match=r'^Bigtable my-project/main/lists: .*unknown family "?\'?other'):
        sink.load(night_files(tmp_path))
    assert table.everything() == {}


@pytest.mark.slow
def test_a_missing_table_is_an_error(host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", host)
    with pytest.raises(SinkError, match=r"^Bigtable my-project/main/lists: .*not found"):
        sink_of(tmp_path).ready()


def test_missing_rows_after_the_load_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sink, files = sink_of(tmp_path), replace(night_files(tmp_path), users=4)
    with stand_in(monkeypatch, "watchnext") as table:
        with pytest.raises(SinkError, match=r": 5 rows have 2026-11-21-\w+ after the load, but 6 were"):
            sink.load(files)
        sink.drop(sink.version(files))
        assert table.everything() == {}


def test_a_refusal_of_beam_s_sink_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sink, files = sink_of(tmp_path), night_files(tmp_path)
    with stand_in(monkeypatch, "watchnext") as table:
        monkeypatch.setattr(BigtableSink, "_write_night", lambda *_: None)
        table.refuses = Status(code=7, message="no permission to write")
        with pytest.raises(SinkError, match=r"^Bigtable my-project/main/lists: no permission to write$"):
            sink.load(files)


def test_the_settings_have_defaults_and_rules(tmp_path: Path) -> None:
    assert sink_of(tmp_path).settings == BigtableSettings(project="my-project", instance="main", table="lists")
    for more, message in (
        ('prefix = "a#b"\n', r"storage.bigtable.prefix = 'a#b': String should match pattern"),
        ('family = ""\n', r"storage.bigtable.family = '': String should match pattern"),
        ("vector = true\n", r"unknown setting storage.bigtable.vector; did you mean storage.bigtable.vectors\?"),
    ):
        with pytest.raises(JobError, match=message):
            sink_of(tmp_path, more)
    with pytest.raises(JobError, match=r"storage.bigtable.instance is missing and has no default"):
        night(write_job(tmp_path, 'watches = "w"', '[storage.bigtable]\nproject = "p"\ntable = "t"\n'))


def test_a_job_that_names_it_publishes_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sink = sink_of(tmp_path)
    assert publication.configured_sinks(sink.night) == [sink]
    rows = pl.DataFrame(LISTS, schema=["user_id", "video_ids", "scores"], orient="row")
    with stand_in(monkeypatch, "watchnext") as table:
        published_night(tmp_path / "job.toml", rows)
        version = sink.served()
        assert version is not None
        users = {key: ids for key, ids in WANTED.items() if "#user#" in key}
        assert users.items() <= lists_of(table, version).items()
