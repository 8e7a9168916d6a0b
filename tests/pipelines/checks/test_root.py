from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from findings import only, request_of
from nights import DATE, published_night

from pipelines.base import lock
from pipelines.checks import doctor_request
from pipelines.checks import root as doctor_root
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.serving import publication
from transforms.core import files
from transforms.sinks import SinkError

LISTS = pl.DataFrame(
    {"user_id": ["ann"], "video_ids": [["v1"]], "scores": [[1.0]]},
    schema_overrides={"video_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)},
)
TODAY = dt.datetime.now(dt.UTC).date()


def test_a_job_that_can_be_read_is_ok(tmp_path: Path) -> None:
    found = only(doctor_root.job(request_of(tmp_path)))
    assert found.state == "ok" and found.what.endswith("the night of 2026-11-21, on FnApiRunner")
    assert f"the night of {TODAY}" in only(doctor_root.job(request_of(tmp_path, date=None))).what


def test_every_mistake_in_a_job_is_a_problem(tmp_path: Path) -> None:
    found = list(doctor_root.job(request_of(tmp_path, more="[examples]\nwindow_day = 3\nper_user = -1\n")))
    assert [one.state for one in found] == ["problem", "problem"]
    said = " ".join(sorted(one.what for one in found))
    assert "did you mean examples.window_days?" in said and "examples.per_user = -1: " in said
    missing = only(doctor_root.job(DoctorRequest(job=str(tmp_path / "nowhere.toml"))))
    assert missing.state == "problem" and "no such job file" in missing.what


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"flags": ("--paralelism=2",)}, "Beam has no option paralelism; did you mean parallelism?"),
        ({"runner_config": "moon"}, "moon: no such runner config"),
    ],
)
def test_a_mistake_in_the_options_is_a_problem(given: dict[str, Any], what: str, tmp_path: Path) -> None:
    found = only(doctor_root.job(request_of(tmp_path, **given)))
    assert (found.state, found.what) == ("problem", what) and "--runner-config" in found.fix


def test_a_root_that_can_be_written_to_is_left_as_it_is(tmp_path: Path) -> None:
    found = only(doctor_root.root(request_of(tmp_path)))
    assert found.state == "ok" and found.what == f"{tmp_path / 'runs'} can be written to"
    assert not (tmp_path / "runs").exists()


def test_a_root_below_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = only(doctor_root.root(request_of(tmp_path, more='[storage]\nroot = "file/runs"\n')))
    assert found.state == "problem" and found.fix.startswith("check root ([storage])")
    assert found.what == f"{tmp_path}/file/runs cannot be written to: {tmp_path}/file is a file"


def test_a_root_without_write_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_request.os, "access", lambda path, mode: False)
    found = only(doctor_root.root(request_of(tmp_path)))
    assert found.state == "problem" and found.what.endswith(f"this user may not write to {tmp_path}")


def refuse(path: str, content: bytes) -> None:
    raise PermissionError("403 no access to the bucket")


def never_answer(path: str, content: bytes) -> None:
    threading.Event().wait()


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (None, ""),
        (refuse, "PermissionError: 403 no access to the bucket"),
        (never_answer, "TimeoutError: no answer within 0.1 s"),
    ],
)
def test_a_remote_root_is_probed(
    answer: Callable[[str, bytes], None] | None, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_request, "ANSWER_SECONDS", 0.1 if answer is never_answer else 30)
    real = files.is_local
    monkeypatch.setattr(files, "is_local", lambda path: real(path) and path != str(tmp_path / "runs"))
    if answer is not None:
        monkeypatch.setattr(files, "replace_file", answer)
    (tmp_path / "runs").mkdir()
    found = only(doctor_root.root(request_of(tmp_path)))
    assert found.state == ("problem" if trouble else "ok") and found.what.endswith(trouble)
    assert files.list_files(str(tmp_path / "runs")) == []


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    assert only(doctor_root.lock(request)).state == "ok"
    with lock.hold(request.night.root.lock):
        found = only(doctor_root.lock(request))
    assert found.state == "warning" and "is running on this root (last heartbeat " in found.what and found.fix
    assert only(doctor_root.lock(request)).state == "ok"


def test_the_published_night_is_reported_with_its_age(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    assert only(doctor_root.published(request)).what == "nothing yet"
    published_night(Path(request.job), LISTS)
    found = only(doctor_root.published(request))
    assert found.state == "ok" and found.what.startswith("the night of 2026-11-21, 1 users, since ")


def test_a_night_that_is_served_too_long_is_reported(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    published_night(Path(request.job), LISTS, date=DATE - dt.timedelta(days=5))
    found = only(doctor_root.published(request))
    assert found.state == "warning" and found.what.endswith(": 5 days old") and "watchnext nightly" in found.fix
    assert only(doctor_root.published(request_of(tmp_path, date=DATE - dt.timedelta(days=4)))).state == "ok"


def test_missing_lists_of_the_published_night_are_reported(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    of = published_night(Path(request.job), LISTS)
    (Path(of.folder("neighbours")) / "COMPLETED").unlink()
    assert only(doctor_root.published(request)).state == "ok", "published.json names the files"
    next(Path(of.folder("neighbours")).glob("*.parquet")).unlink()
    found = only(doctor_root.published(request))
    assert found.state == "problem" and "1 of its files are gone, the first nights/2026-11-21/neighb" in found.what


def test_an_unfinished_publication_is_reported(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    published_night(Path(request.job), LISTS)
    Path(request.night.root.publishing).write_text("{}")
    found = list(doctor_root.published(request))
    assert [one.state for one in found] == ["warning", "ok"]
    assert "a publication was interrupted" in found[0].what


def test_a_record_of_what_is_published_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    (tmp_path / "runs").mkdir()
    Path(request.night.root.published).write_text("{")
    with pytest.raises(RuntimeError, match=r"published\.json cannot be read"):
        list(doctor_root.published(request))


class Place:
    """A sink that is there, or is not."""

    def __init__(self, name: str, error: str = "") -> None:
        self.name, self.error = name, error

    def ready(self) -> None:
        if self.error:
            raise SinkError(self.error)


def test_every_sink_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(tmp_path)
    assert only(doctor_root.sinks(request)).what == "none besides the night's files"
    places = [Place("bigtable", "no such instance"), Place("redis")]
    monkeypatch.setattr(publication, "configured_sinks", lambda night: places)
    found = list(doctor_root.sinks(request))
    assert [(one.state, one.what) for one in found] == [
        ("problem", "bigtable: no such instance"),
        ("ok", "redis can be reached"),
    ]
    assert found[0].fix == "start it, or correct [storage.bigtable] in the job file"


def test_an_unreachable_redis_is_reported_without_a_delay(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    found = only(doctor_root.sinks(request_of(tmp_path, more='[storage.redis]\nurl = "redis://127.0.0.1:1/0"\n')))
    assert found.state == "problem" and "127.0.0.1:1" in found.what and "[storage.redis]" in found.fix
