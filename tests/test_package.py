"""What `python -m build` makes: all that is ours is in it and nothing else; it runs a night where nothing else is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms import environments
from nights import REPOSITORY

from pipelines.config.beam_options import pipeline_options

PACKAGES = ("pipelines", "transforms", "trainer", "runner_configs")
BESIDE = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
OURS = ("PYTHON", "VIRTUAL_ENV", "WATCHNEXT_")  # of the environment, what would lead back to the repository


def ours() -> set[str]:
    """The files below the packages that are under version control, or will be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.splitlines() if (REPOSITORY / name).exists()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it, of a copy: building writes beside setup.py."""
    folder = tmp_path_factory.mktemp("built")
    for name in (*ours(), *BESIDE, "tests/test_package.py"):
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / "copy" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "copy")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


def contents(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}


def test_the_wheel_holds_all_of_the_packages_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == "watchnext-0.1.0-py3-none-any.whl"
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == ours()


def test_the_sdist_holds_what_the_wheel_is_built_of(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    made = {name for name in contents(sdist) if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert contents(sdist) - made == ours() | set(BESIDE)


def test_workers_get_the_packages_by_setup_file_and_nothing_of_the_main_program() -> None:
    flags = ["--runner=DataflowRunner", "--project=my-project", "--region=europe-west1"]
    flags += ["--temp_location=gs://my-bucket/temp", f"--setup_file={REPOSITORY / 'setup.py'}"]
    sent = {}
    for dependency in environments.python_sdk_dependencies(pipeline_options(None, flags)):
        name = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(dependency.role_payload).staged_name
        sent[name] = Path(beam_runner_api_pb2.ArtifactFilePayload.FromString(dependency.type_payload).path)
    assert sent.keys() - {"submission_environment_dependencies.txt"} == {"workflow.tar.gz"}
    found = contents(sent["workflow.tar.gz"])
    assert ours() <= found and not any(name.startswith(("tests/", "benchmarks/")) for name in found)


def run(command: list[str], folder: Path, seconds: float = 1200) -> subprocess.CompletedProcess[str]:
    """A command in another folder than the repository, with none of its environment's programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    path = os.pathsep.join([str(Path(command[0]).parent), os.defpath])
    return subprocess.run(
        command, cwd=folder, env=kept | {"PATH": path}, capture_output=True, text=True, timeout=seconds, check=False
    )


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs of an environment that was empty before the wheel came: what the wheel requires, in the versions
    that are pinned."""
    folder = tmp_path_factory.mktemp("empty")
    pins = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    lines = re.findall(r"^[\w.-]+==[^\\\n]*", pins, re.M)  # without hashes and extras, which constraints may not have
    (folder / "pins.txt").write_text("\n".join(lines), encoding="utf-8")
    (wheel,) = built.glob("*.whl")
    python, pinned = folder / "bin" / "python", ["--constraint", str(folder / "pins.txt"), str(wheel)]
    if uv := shutil.which("uv"):
        run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)], folder)
        done = run([uv, "pip", "install", "--quiet", "--python", str(python), *pinned], folder)
    else:
        run([sys.executable, "-m", "venv", str(folder)], folder)
        done = run([str(python), "-m", "pip", "install", "--quiet", *pinned], folder)
    assert done.returncode == 0, done.stderr
    yield folder / "bin"
    shutil.rmtree(folder)  # 3 GB


@pytest.mark.package
def test_a_night_runs_where_nothing_else_is_installed(installed: Path, tmp_path: Path) -> None:
    watchnext = str(installed / "watchnext")
    size = ["--users", "120", "--videos", "60", "--days", "5", "--last-day", "2026-11-20"]
    assert run([watchnext, "simulate", "demo", *size], tmp_path).returncode == 0
    with (tmp_path / "demo" / "job.toml").open("a") as job:
        job.write("[gates]\nitem_to_item = false\n")  # five days of 120 users are too few to learn much
    done = run([watchnext, "nightly", "demo/job.toml", "--date", "2026-11-21"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("demo/**/published.json"))
    looked_up = run([watchnext, "lookup", "demo/job.toml", "u0000001"], tmp_path)
    assert looked_up.returncode == 0, looked_up.stderr


@pytest.mark.package
@pytest.mark.parametrize(("name", "asked"), [("flink", "--job_endpoint"), ("dataflow", "--project")])
def test_an_installed_wheel_has_the_runner_configs(installed: Path, tmp_path: Path, name: str, asked: str) -> None:
    (tmp_path / "job.toml").write_text('[logs]\nwatches = "watches"\n')
    done = run([str(installed / "watchnext"), "nightly", "job.toml", "--runner-config", name], tmp_path)
    assert done.returncode == 2 and asked in done.stderr and "Traceback" not in done.stderr


@pytest.mark.package
def test_the_sdist_installs_too(built: Path, installed: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    python = str(installed / "python")
    uv = shutil.which("uv")
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    command = [*install, "--no-deps", "--force-reinstall", str(sdist)]
    assert (done := run(command, tmp_path)).returncode == 0, done.stderr
    assert run([str(installed / "watchnext"), "--help"], tmp_path).returncode == 0
