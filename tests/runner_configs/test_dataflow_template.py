"""What starts a night on Dataflow from a template, and the images: what they are made of is there and fits the rest."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import yaml
from google.cloud.dataflow_v1beta3.types import ContainerSpec
from google.protobuf import json_format
from kubernetes_fields import check_fields
from nights import REPOSITORY, write_job

from pipelines import nightly, train
from pipelines.config.beam_options import pipeline_options
from pipelines.config.jobs import load_job
from pipelines.night.stage import stage_parser
from runner_configs.dataflow import night
from runner_configs.dataflow.night import NightError

CONFIGS = REPOSITORY / "runner_configs"
IMAGES = [CONFIGS / "dataflow" / "Dockerfile", CONFIGS / "flink" / "Dockerfile", CONFIGS / "training" / "Dockerfile"]
PLACES = 'watches = "gs://my-bucket/logs/{date}.parquet"\n'
ROOT = '[storage]\nroot = "gs://my-bucket/runs"\n'


def metadata() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFIGS / "dataflow" / "metadata.json").read_text(encoding="utf-8"))
    return found


def instructions(path: Path) -> list[list[str]]:
    """The instructions of a Dockerfile as words."""
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def copied(path: Path) -> list[str]:
    """What a Dockerfile takes from the repository."""
    found = [words[1:-1] for words in instructions(path) if words[0] == "COPY" and not words[1].startswith("--from")]
    return [name for names in found for name in names]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.parent.name)
def test_what_an_image_copies_is_there_and_pinned(path: Path) -> None:
    assert all((REPOSITORY / name).exists() for name in copied(path))
    (install,) = [" ".join(words) for words in instructions(path) if "--require-hashes" in words]
    assert "requirements.txt" in install
    (ours,) = [" ".join(words) for words in instructions(path) if "--no-deps" in words]
    assert "--no-build-isolation" in ours  # else the build would download its own setuptools


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.parent.name)
def test_an_image_runs_as_a_user_who_is_not_root(path: Path) -> None:
    words = [words for words in instructions(path) if words[0] in ("USER", "RUN", "COPY", "ENTRYPOINT", "FROM")]
    users = [at for at, one in enumerate(words) if one[0] == "USER"]
    assert [words[at][1] for at in users] == ["1000"], "a number: Kubernetes cannot tell of a name that it is not root"
    assert not [one for one in words[users[-1] :] if one[0] in ("RUN", "COPY", "FROM")], "nothing is installed after it"
    assert any("useradd" in one and "1000" in one for one in words)


@pytest.mark.parametrize("path", [IMAGES[0], IMAGES[2]], ids=lambda path: path.parent.name)
def test_the_images_hold_all_that_is_installed_and_are_built_of_nothing_else(path: Path) -> None:
    packages = {name.partition(".")[0] for name in re.findall(r'^        "([\w.]+)",$', SETUP, re.M)} & {*copied(path)}
    assert packages == {"pipelines", "transforms", "trainer", "runner_configs"}
    apply_cap = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {re.sub(r"requirements.*txt", "requirements*.txt", name) for name in copied(path)} <= apply_cap


SETUP = (REPOSITORY / "setup.py").read_text(encoding="utf-8")


def test_workers_run_the_beam_and_the_python_that_submit() -> None:
    for path in IMAGES[:2]:
        base = [words[1] for words in instructions(path) if words[0] == "FROM"][-1]
        assert base == f"apache/beam_python3.11_sdk:{version('apache-beam')}"
    (training,) = [words[1] for words in instructions(IMAGES[2]) if words[0] == "FROM"]
    assert training.startswith("python:3.11-")  # for which requirements-gpu.txt is made


def test_the_template_starts_a_program_that_is_in_its_image() -> None:
    words = [word for line in instructions(IMAGES[0]) for word in line]
    (program,) = [word.partition("=")[2] for word in words if word.startswith("FLEX_TEMPLATE_PYTHON_PY_FILE=")]
    assert (REPOSITORY / program.removeprefix("/opt/watchnext/")).exists()
    assert not any(word.startswith("ENTRYPOINT") for word in words)  # Beam's starts workers


def test_the_template_s_parameters_are_what_the_program_takes() -> None:
    ours = {action.option_strings[0][2:]: action for action in night.parser()._actions if action.dest != "help"}
    listed = {one["name"]: one for one in metadata()["parameters"]}
    assert listed.keys() - {"sdk_container_image"} == ours.keys()
    assert {name for name in ours if not listed[name].get("isOptional")} == {"job"}
    for name, examples in {"job": "gs://b/f/job.toml", "date": "2026-11-21", "only": "train", "from": "index"}.items():
        (pattern,) = listed[name]["regexes"]
        assert re.fullmatch(pattern, examples) and not re.fullmatch(pattern, f"no {examples}")
    for name in ("only", "from"):
        choices = ours[name].choices or ()
        assert set(re.findall(r"\w+", listed[name]["regexes"][0])) == set(choices)


def test_the_specification_is_one_that_dataflow_knows_with_the_same_parameters() -> None:
    given = json.loads((CONFIGS / "dataflow" / "spec.json").read_text(encoding="utf-8"))
    spec = json_format.ParseDict(given, ContainerSpec.pb(ContainerSpec()))  # raises for a field it does not have
    assert given["metadata"] == metadata()
    assert (spec.sdk_info.language, spec.default_environment.max_workers) == (2, 1)  # Python; one worker is the night
    assert spec.image.startswith("FILL-IN") and spec.image.endswith(f":{version('watchnext')}")


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[beam.Pipeline]:
    """Pipelines that are handed over, in place of their run."""
    found: list[beam.Pipeline] = []

    class Kept(beam.Pipeline):
        def __init__(self, argv: list[str]) -> None:
            flags = [flag for flag in argv if flag != "--runner=DataflowRunner"]
            super().__init__(runner="FnApiRunner", argv=flags)
            self.given = argv

        def run(self, test_runner_api: Any = "AUTO") -> Any:
            found.append(self)

    monkeypatch.setattr(beam, "Pipeline", Kept)
    return found


CLOUD = ["--project=my-project", "--region", "europe-west1", "--temp_location=gs://my-bucket/temp"]
CLOUD += ["--sdk_container_image=there/watchnext:0.1.0", "--template_location=gs://my-bucket/object", "--num_workers=1"]


def test_the_job_that_is_handed_over_is_the_night_itself(
    tmp_path: Path, handed_over: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, ran = write_job(tmp_path, PLACES, ROOT), []

    def run(command: list[str], check: bool) -> Any:
        ran.append((command, load_job(command[3]).storage.root))
        return subprocess.CompletedProcess(command, 0)

    more = ["--date=2026-11-21", "--from=index", "--options=--max_num_workers=200 --no_use_public_ips"]
    night.main([f"--job={job}", *more, *CLOUD])
    (pipeline,) = handed_over
    assert pipeline.given == [*CLOUD, "--runner=DataflowRunner", "--no_save_main_session"]
    monkeypatch.setattr(night.subprocess, "run", run)
    beam.pipeline.Pipeline.run(pipeline).wait_until_finish()
    ((command, root),) = ran
    assert command[:3] == [sys.executable, "-m", "pipelines.nightly"] and root == "gs://my-bucket/runs"
    args, flags = nightly.parser().parse_known_args(command[3:])
    assert (str(args.date), args.first, args.runner_config, args.log_format) == (
        "2026-11-21",
        "index",
        "dataflow",
        "json",
    )
    options = pipeline_options(args.runner_config, flags, "index").get_all_options(drop_default=True)
    handed = ("project", "region", "temp_location", "sdk_container_image", "max_num_workers", "use_public_ips")
    assert [options.get(name) for name in handed] == [
        "my-project",
        "europe-west1",
        "gs://my-bucket/temp",
        "there/watchnext:0.1.0",
        200,
        False,
    ]
    assert "template_location" not in options and "num_workers" not in options  # those are of the template's own job


def test_a_night_that_fails_fails_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess[str]([], 3)
    monkeypatch.setattr(night.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(NightError, match="the night ended with exit code 3"):
        night.run_night(str(write_job(tmp_path, PLACES, ROOT)), [])


@pytest.mark.parametrize(
    ("logs", "more", "message"),
    [
        ('watches = "watches"', ROOT, r"logs\.watches = '/.*/watches' is on a local disk"),
        (PLACES, "", r"storage\.root = '/.*/runs' is on a local disk, which workers cannot reach: use gs://"),
        (f'{PLACES}users = "users.csv"', ROOT, r"logs\.users = "),
        (PLACES, f'{ROOT}[privacy]\nforget = "forget.csv"', r"privacy\.forget = "),
    ],
)
def test_a_path_that_workers_cannot_reach_is_reported_before_anything_starts(
    tmp_path: Path, handed_over: list[Any], logs: str, more: str, message: str
) -> None:
    with pytest.raises(NightError, match=message):
        night.main([f"--job={write_job(tmp_path, logs, more)}", *CLOUD])
    assert handed_over == []


def test_tables_of_bigquery_are_reached(tmp_path: Path) -> None:
    tables = 'watches = "bigquery:my-project.logs.watches"\n'
    night.check_paths(load_job(str(write_job(tmp_path, tables, ROOT))))
    with pytest.raises(NightError) as caught:
        night.check_paths(load_job(str(write_job(tmp_path, f'{tables}users = "users.csv"', ROOT))))
    assert "logs.users" in str(caught.value) and "logs.watches" not in str(caught.value)


def test_training_is_a_job_of_its_own_with_an_accelerator() -> None:
    text = (CONFIGS / "training" / "job.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert (found["apiVersion"], found["kind"]) == ("batch/v1", "Job")
    check_fields(found["metadata"], "ObjectMeta", "metadata")
    check_fields(found["spec"], "JobSpec", "spec")
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1" and "FILL-IN" in container["image"]
    (entry,) = [words[1:] for words in instructions(IMAGES[2]) if words[0] == "ENTRYPOINT"]
    assert json.loads(" ".join(entry)) == ["python", "-m", "pipelines.train"]
    arguments = [word.replace("FILL-IN-THE-NIGHT", "2026-11-21") for word in container["args"]]
    args, flags = stage_parser(train).parse_known_args(arguments)
    assert (args.job, str(args.date), flags) == ("/job/job.toml", "2026-11-21", [])
    (in_order, _) = found["spec"]["podFailurePolicy"]["rules"]
    assert in_order["onExitCodes"] == {"containerName": "train", "operator": "In", "values": [2]}
