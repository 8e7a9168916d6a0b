"""The key for pseudonyms: each process reads it, and no job graph contains it."""

from __future__ import annotations

import base64
import os
import pickle
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from graphs import carried, steps_of
from nights import night, write_job

from pipelines.base.raw_files import RawFiles
from pipelines.base.snapshot_store import Snapshot, TakenFile
from pipelines.config.jobs import JobError, load_job
from pipelines.logs.log_reader import Reader
from pipelines.night import privacy
from transforms.core.messages import safe_variable_name
from transforms.logs import key_source
from transforms.logs.key_source import KeySource
from transforms.logs.privacy import PrivacyFilter, pseudonym
from transforms.logs.readers import LogSettingError

VARIABLE = "KEY_OF_THIS_TEST"
KEYS = {
    "ascii": b"a key of sixteen characters",
    "not UTF-8": b"\xff\xfe0123456789abcdef",
    "of 8 letters": "äöüßéèçñ".encode(),
}
SECRET = "projects/p/secrets/s/versions/1"


@pytest.fixture(params=list(KEYS.values()), ids=list(KEYS))
def key(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv(VARIABLE, os.fsdecode(request.param))
    return bytes(request.param)


def job_with_key(folder: Path, settings: str = f'pseudonym_key_env = "{VARIABLE}"') -> Path:
    return write_job(folder, 'watches = "w.csv"', f"[privacy]\n{settings}\n")


def test_key_of_any_bytes(key: bytes, tmp_path: Path) -> None:
    privacy_filter = privacy.load_filter(load_job(str(job_with_key(tmp_path))), None)
    named = privacy_filter.pseudonymise(pl.DataFrame({"user_id": ["ann"]}))
    assert named["user_id"].to_list() == [pseudonym("ann", key)]
    assert privacy.stored_id(load_job(str(job_with_key(tmp_path))), "ann", privacy.check_of(key)) == pseudonym(
        "ann", key
    )


def forms(key: bytes) -> list[bytes]:
    """Return the encodings in which a key may be written."""
    return [key, key.hex().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key), repr(key)[2:-1].encode()]


def graph_of(job: Path) -> bytes:
    """Return all bytes of the graph of an ingest of one file, with its unpacked functions."""
    of = night(job)
    privacy_filter = privacy.load_filter(of.job, None)
    found = RawFiles(files=(TakenFile(path=str(job.parent / "w.csv"), bytes=1, changed=1.0),))
    tables = defaultdict(RawFiles, watches=found)
    reader = Reader(
        night=of, folder=of.folder("ingest"), attempt="aa", buckets=8, privacy_filter=privacy_filter, found=tables
    )
    pipeline = of.beam.pipeline("ingest")
    for source in reader.log_sources(found.files, Snapshot(buckets=8), None):
        if source.raw:
            reader.branch(pipeline, source)
    graph: Any = pipeline.to_runner_api()
    pickles = [carried(step) for step in steps_of(graph).values()]
    assert any(b"ReadLogs" in pickle for pickle in pickles), "the functions that read logs are among them"
    return b"".join([graph.SerializeToString(), *pickles])


def test_job_graph_does_not_contain_the_key(key: bytes, tmp_path: Path) -> None:
    graph = graph_of(job_with_key(tmp_path))
    assert VARIABLE.encode() in graph
    assert [form for form in forms(key) if form in graph] == []


def filter_with_key(folder: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> PrivacyFilter:
    monkeypatch.setenv(VARIABLE, os.fsdecode(key))
    return privacy.load_filter(load_job(str(job_with_key(folder))), None)


@pytest.mark.parametrize(
    ("on_worker", "trouble"),
    [
        ({}, "the environment variable is not set on this worker"),
        ({VARIABLE: "another key of sixteen characters"}, "this worker has a different key"),
    ],
)
def test_worker_without_the_key_fails(
    on_worker: dict[str, str], trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    privacy_filter = filter_with_key(tmp_path, KEYS["ascii"], monkeypatch)
    monkeypatch.delenv(VARIABLE)
    for name, value in on_worker.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LogSettingError, match=f"= '{VARIABLE}': {trouble}"):
        privacy_filter.pseudonymise(pl.DataFrame({"user_id": ["ann"]}))


@pytest.mark.parametrize(
    ("value", "trouble"),
    [
        (b" " * 16, "is too simple: it repeats one byte"),
        (b"\xff" * 40, "is too simple: it repeats one byte"),
        (b"0" * 15, "has 15 characters"),
        (b"\xff\x00"[:1] + b"0123456789abcd", "has 15 bytes"),
        ("äöüßé".encode(), "has 10 bytes"),
    ],
)
def test_short_or_simple_key_is_refused_and_not_shown(
    value: bytes, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobError) as caught:
        filter_with_key(tmp_path, value, monkeypatch)
    assert str(caught.value) == (
        f"privacy.pseudonym_key_env = '{VARIABLE}': the environment variable {trouble}; it must contain the key "
        "for pseudonyms, at least 16 bytes"
    )


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the secrets that are requested of a secret manager with one secret."""
    asked: list[str] = []

    def access(name: str) -> Any:
        asked.append(name)
        return SimpleNamespace(payload=SimpleNamespace(data=KEYS["not UTF-8"]))

    client = SimpleNamespace(SecretManagerServiceClient=lambda: SimpleNamespace(access_secret_version=access))
    monkeypatch.setitem(sys.modules, "google.cloud.secretmanager", client)
    key_source._read_secret.cache_clear()
    return asked


def test_key_is_read_from_a_secret_manager_once_per_process(manager: list[str], tmp_path: Path) -> None:
    job = load_job(str(job_with_key(tmp_path, f'pseudonym_key_secret = "{SECRET}"')))
    privacy_filter = privacy.load_filter(job, None)
    for user in ("ann", "bob"):
        assert privacy_filter.pseudonymise(pl.DataFrame({"user_id": [user]}))["user_id"][0] == pseudonym(
            user, KEYS["not UTF-8"]
        )
    assert manager == [SECRET]
    assert [form for form in forms(KEYS["not UTF-8"]) if form in pickle.dumps(privacy_filter, protocol=0)] == []


def test_environment_variable_takes_precedence_over_the_secret(
    manager: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = f'pseudonym_key_env = "{VARIABLE}"\npseudonym_key_secret = "{SECRET}"'
    job = load_job(str(job_with_key(tmp_path, settings)))
    monkeypatch.setenv(VARIABLE, os.fsdecode(KEYS["ascii"]))
    assert privacy.pseudonym_key(job) == KEYS["ascii"] and manager == []
    monkeypatch.delenv(VARIABLE)
    assert privacy.pseudonym_key(job) == KEYS["not UTF-8"] and manager == [SECRET]


@pytest.mark.parametrize("setting", ["pseudonym_key_env", "pseudonym_key_secret"])
def test_key_in_the_job_file_is_refused_and_not_shown(setting: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=f"privacy.{setting}") as caught:
        load_job(str(job_with_key(tmp_path, f'{setting} = "a key of sixteen characters"')))
    assert "sixteen" not in str(caught.value)


def test_value_that_may_be_a_key_is_not_shown() -> None:
    assert KeySource(variable="hunter2") and safe_variable_name("hunter2").startswith("(not shown")
