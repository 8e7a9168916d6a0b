"""What Google's services refuse, wherever it was raised; and the parts of a night that are loaded. Without the client
libraries: test_bigtable_sink.py, test_bigquery_sink.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from google.api_core.exceptions import PermissionDenied
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.bigtable.batcher import MutationsBatchError
from night_files import night_files
from nights import REPOSITORY, night, write_job

from pipelines.night.errors import StageError
from pipelines.serving import publication
from pipelines.sinks import gcp
from transforms.sinks import SinkError
from transforms.sinks.list_rows import ListPart

REMOTE = """Traceback (most recent call last):
  File "worker.py", line 1, in <module>
google.api_core.exceptions.NotFound: 404 Table not found
"""


def chained(error: Exception) -> Exception:
    """As a runner raises what a worker raised."""
    outer = RuntimeError("a worker failed")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionDenied("not yours"), "place: 403 not yours"),
        (chained(PermissionDenied("not yours")), "place: 403 not yours"),
        (chained(MutationsBatchError("Errors in batch.", [PermissionDenied("no"), OSError()])), "place: 403 no"),
        (RuntimeError(REMOTE), "place: 404 Table not found"),
        (
            RuntimeError("BigQuery job a_1 failed. Error Result: <ErrorProto: 'bad'> [while running 'x']"),
            "place: <ErrorProto: 'bad'>",
        ),
        (
            DefaultCredentialsError("none"),
            "place: no credentials (none): set GOOGLE_APPLICATION_CREDENTIALS or log in with gcloud",
        ),
    ],
)
def test_the_message_of_a_refusal_begins_with_its_place(error: Exception, message: str) -> None:
    with pytest.raises(SinkError) as caught, gcp.translate_errors("place"):
        raise error
    assert str(caught.value) == message and caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError("disk full"), SinkError("told already")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, gcp.translate_errors("place"):
        raise error
    assert caught.value is error


def test_parts_begin_in_different_places_with_the_vectors_of_their_bucket(tmp_path: Path) -> None:
    files = night_files(tmp_path)
    first, second = files.lists
    (defaults,), (vectors,) = files.defaults, files.vectors
    assert gcp.list_parts(files, vectors=True) == [
        ListPart(lists=first),
        ListPart(lists=second, vectors=vectors, start=0.5),
        ListPart(lists=defaults),
    ]
    assert [part.vectors for part in gcp.list_parts(files, vectors=False)] == ["", "", ""]
    assert gcp.default_rows(files) == 2 and gcp.default_rows(replace(files, defaults=())) == 0


def test_modules_are_imported_without_the_client_libraries() -> None:
    names = ("pipelines.sinks.bigtable_sink", "pipelines.sinks.bigquery_sink", "pipelines.publish")
    blocked = "import sys; sys.modules.update({'google.cloud': None, 'apache_beam.io.gcp': None})\n"
    script = blocked + "\n".join(f"import {name}" for name in names)
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)


@pytest.mark.parametrize(
    ("name", "place"),
    [("bigtable", 'instance = "main"\ntable = "lists"'), ("bigquery", 'dataset = "d"\ntemp = "gs://b/t"')],
)
def test_a_missing_library_is_named(name: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, f"google.cloud.{name}", None)
    of = night(write_job(tmp_path, 'watches = "w"', f'[storage.{name}]\nproject = "p"\n{place}\n'))
    (sink,) = publication.configured_sinks(of)
    message = rf"^\[storage.{name}\] needs the package google.cloud.{name}: pip install 'watchnext\[gcp\]'$"
    with pytest.raises(StageError, match=message):
        sink.ready()
    with pytest.raises(StageError, match=message):
        sink.forget(pl.Series(["ann"]))
