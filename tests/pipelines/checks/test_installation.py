from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from findings import only, request_with_watches
from nights import REPOSITORY

from pipelines.checks import installation as doctor_installation
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding

REQUEST = DoctorRequest(job="nowhere.toml")


def with_version(name: str, version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One package as if it were of another version, or not there."""
    real = metadata.version

    def of(request: str) -> str:
        if request == name:
            if version is None:
                raise metadata.PackageNotFoundError(request)
            return version
        return real(request)

    monkeypatch.setattr(doctor_installation.metadata, "version", of)


def test_this_python_will_do() -> None:
    found = only(doctor_installation.python(REQUEST))
    assert found.state == "ok" and found.what.startswith(platform.python_version())


@pytest.mark.parametrize("version", ["3.10.4", "3.14.0"])
def test_another_python_will_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "python_version", lambda: version)
    found = only(doctor_installation.python(REQUEST))
    assert (found.state, found.fix) == ("problem", "make setup PYTHON=python3.12")
    assert found.what.startswith(f"{version}, but ") and ">=3.11" in found.what and "<3.14" in found.what


def test_another_platform_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    found = only(doctor_installation.python(REQUEST))
    assert (
        found.state == "warning"
        and "on Darwin arm64: ScaNN and tfx-bsl have no packages for this platform" in found.what
    )


def test_the_packages_of_this_environment_will_do(tmp_path: Path) -> None:
    found = only(doctor_installation.packages(request_with_watches(tmp_path)))
    assert found.state == "ok" and "in their ranges (apache-beam 2.77" in found.what


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with_version("scann", None, monkeypatch)
    found = only(doctor_installation.packages(REQUEST))
    assert (found.state, found.what) == ("problem", "scann is missing")
    assert found.fix == f"make setup; or {sys.executable} -m pip install 'scann>=1.4.2'"


def test_a_version_out_of_range_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_version("tensorflow", "2.19.1", monkeypatch)
    found = only(doctor_installation.packages(REQUEST))
    assert found.state == "problem" and found.what.startswith("tensorflow is 2.19.1, but ")
    assert "<2.22" in found.what and ">=2.21" in found.what


def test_an_empty_environment_is_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_installation.metadata, "version", lambda name: "0.0.1")
    found = only(doctor_installation.packages(REQUEST))
    assert (found.state, found.fix) == ("problem", "make setup")
    assert "are missing or have a wrong version:" in found.what
    assert [line for line in found.details if line.startswith("scann ")] == ["scann is 0.0.1, but >=1.4.2 is needed"]


SINKS = {
    "bigtable": '[storage.bigtable]\nproject = "p"\ninstance = "i"\ntable = "t"\n',
    "bigquery": '[storage.bigquery]\nproject = "p"\ndataset = "d"\n',
    "redis": '[storage.redis]\nurl = "redis://localhost:6379/0"\n',
}


@pytest.mark.parametrize(
    ("more", "package", "extra", "setting"),
    [
        ('[storage]\nroot = "s3://bucket/runs"\n', "boto3", "aws", "storage.root = s3://bucket/runs"),
        ('[storage]\nroot = "gs://bucket/runs"\n', "google-cloud-storage", "gcp", "storage.root = gs://bucket/runs"),
        ('[privacy]\nforget = "s3://bucket/f.csv"\n', "boto3", "aws", "privacy.forget = s3://bucket/f.csv"),
        (SINKS["bigtable"], "google-cloud-bigtable", "gcp", "[storage.bigtable]"),
        (SINKS["bigquery"], "google-cloud-bigquery", "gcp", "[storage.bigquery]"),
        (SINKS["redis"], "redis", "redis", "[storage.redis]"),
    ],
)
def test_packages_of_an_extra(
    more: str, package: str, extra: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_version(package, None, monkeypatch)
    assert only(doctor_installation.packages(request_with_watches(tmp_path))).state == "ok"
    found = only(doctor_installation.packages(request_with_watches(tmp_path, more)))
    assert (found.state, found.what) == ("problem", f"{setting} needs watchnext[{extra}], but {package} is missing")
    assert found.fix == f"make setup; or {sys.executable} -m pip install 'watchnext[{extra}]'"


def test_all_missing_packages_of_an_extra_are_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version("google-cloud-bigtable", None, monkeypatch)
    with_version("google-cloud-storage", "1.0", monkeypatch)
    found = only(doctor_installation.packages(request_with_watches(tmp_path, SINKS["bigtable"])))
    assert found.fix.endswith("'watchnext[gcp]'")
    assert sorted([found.what.partition("but ")[2].split()[0], *(text.split()[0] for text in found.details)]) == [
        "google-cloud-bigtable",
        "google-cloud-storage",
    ]


def test_dataflow_needs_the_extra_gcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version("google-cloud-dataflow-client", None, monkeypatch)
    flags = ("--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t", "--setup_file=./s.py")
    found = only(doctor_installation.packages(replace(request_with_watches(tmp_path), flags=flags)))
    assert found.what == "DataflowRunner needs watchnext[gcp], but google-cloud-dataflow-client is missing"


def test_a_project_that_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_installation, "OURS", "watchnext-of-nobody")
    found = only(doctor_installation.packages(REQUEST))
    assert (found.state, found.fix) == ("problem", "make setup")
    assert "watchnext-of-nobody is not installed in " in found.what


def test_another_package_with_the_project_s_name_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_installation, "_place", lambda name: tmp_path / name)
    found = list(doctor_installation.packages(REQUEST))
    problems = [one.what.split(" is imported")[0] for one in found if one.state == "problem"]
    assert problems == [*doctor_installation.PACKAGES]
    assert f"remove {tmp_path / 'trainer'} from PYTHONPATH" in [one.fix.split(",")[0] for one in found]


def test_scann_builds_an_index_and_answers() -> None:
    found = only(doctor_installation.scann(REQUEST))
    assert found.state == "ok" and found.what.startswith(f"{metadata.version('scann')} loads in ")


def scripted(script: str, monkeypatch: pytest.MonkeyPatch) -> Finding:
    monkeypatch.setattr(doctor_installation, "TRY_TENSORFLOW", script)
    return only(doctor_installation.tensorflow(REQUEST))


def test_a_library_that_crashes_takes_nothing_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scripted("import os; os.abort()", monkeypatch)
    assert found.state == "problem" and found.what == "crashed (signal 6): no error output"
    assert found.fix.endswith("-m pip install --force-reinstall tensorflow")


def test_a_library_that_cannot_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scripted("raise ImportError('libcublas.so.12: cannot open shared object file')", monkeypatch)
    assert found.what == "could not be loaded: ImportError: libcublas.so.12: cannot open shared object file"


def test_a_library_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_installation, "IMPORT_SECONDS", 0.2)
    found = scripted("import threading; threading.Event().wait()", monkeypatch)
    assert found.state == "problem" and found.what.startswith("was not loaded within ")


@pytest.mark.parametrize(
    ("busy", "gpus", "state", "text"),
    [(4.0, 0, "ok", "no GPU"), (4.0, 1, "ok", "1 GPU"), (4.0, 2, "ok", "2 GPUs"), (11.0, 0, "warning", "slow")],
)
def test_tensorflow(busy: float, gpus: int, state: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.dumps({"version": "2.21.0", "seconds": 5.2, "busy": busy, "gpus": gpus})
    found = scripted(f"print({said!r})", monkeypatch)
    assert found.state == state and found.what.startswith("2.21.0 loads in 5.2 s") and text in found.what


def test_the_scripts_find_the_project_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = "import json, transforms; print(json.dumps(dict(version='1', seconds=0, busy=0, gpus=0)))"
    assert scripted(script, monkeypatch).state == "ok"
    assert doctor_installation.REPOSITORY == REPOSITORY
