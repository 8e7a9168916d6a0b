"""Doctor's checks of the installation: Python, package versions, and whether TensorFlow and ScaNN work.

Imports only the standard library. Code that may crash runs in a separate process.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.findings import Finding, ok, problem, warning

OURS = "watchnext"
PACKAGES = ("pipelines", "transforms", "trainer", "runner_configs")
SETUP = "make setup"
REPOSITORY = Path(__file__).parents[2]
EXTRA_OF_SINKS = {"redis": "redis", "bigtable": "gcp", "bigquery": "gcp"}
EXTRA_OF_PATHS = {"s3://": "aws", "gs://": "gcp", "bigquery:": "gcp"}  # prefix of a path -> extra
FEW = 3  # number of wrong packages up to which each gets its own finding
IMPORT_SECONDS = 120.0
SLOW_SECONDS = 9.0  # of processor time; compiled, TensorFlow needs about 5

TRY_TENSORFLOW = """\
import json, time
from importlib.metadata import version
began = time.perf_counter()
from transforms.core.tensorflow_import import import_tensorflow
tf = import_tensorflow()
seconds, busy = time.perf_counter() - began, time.process_time()
gpus = len(tf.config.list_physical_devices("GPU"))
print(json.dumps({"version": version("tensorflow"), "seconds": seconds, "busy": busy, "gpus": gpus}))
"""
TRY_SCANN = """\
import json, time
from importlib.metadata import version
import numpy as np
began = time.perf_counter()
from transforms.search.top_k import build_index
vectors = np.random.default_rng(7).standard_normal((500, 8)).astype(np.float32)
index = build_index(vectors, k=5, exact_below=0)
found = index.search(vectors[:3], 5).positions.shape
assert index.info.kind == "scann" and found == (3, 5), (index.info, found)
seconds, busy = time.perf_counter() - began, time.process_time()
print(json.dumps({"version": version("scann"), "seconds": seconds, "busy": busy}))
"""


def python(_request: DoctorRequest) -> Iterator[Finding]:
    """Check the version of Python, and whether the packages have wheels for the platform."""
    from packaging.specifiers import SpecifierSet

    have, wanted = platform.python_version(), _wanted_python()
    where = f"{platform.system()} {platform.machine()}"
    if wanted is not None and not SpecifierSet(wanted).contains(have, prereleases=True):
        yield problem("python", f"{have}, but {wanted} is needed", f"{SETUP} PYTHON=python3.12")
    elif where != "Linux x86_64":
        fix = "run it on Linux x86_64, or in a container of it"
        yield warning("python", f"{have} on {where}: ScaNN and tfx-bsl have no packages for this platform", fix)
    else:
        yield ok("python", f"{have} on {where}, {len(os.sched_getaffinity(0))} cores")


def packages(request: DoctorRequest) -> Iterator[Finding]:
    """Check that all packages have a version in the required range, and that our package names are not shadowed."""
    from packaging.requirements import Requirement

    try:
        listed = [Requirement(text) for text in metadata.requires(OURS) or ()]
    except metadata.PackageNotFoundError:
        yield problem("packages", f"{OURS} is not installed in {sys.prefix}", SETUP)
        return
    wanted = _required(listed)
    wrong = [found for one in wanted if (found := _wrong(one)) is not None]
    if len(wrong) > FEW:
        texts = [text for text, _ in wrong]
        yield problem("packages", f"{len(wrong)} of {len(wanted)} are missing or have a wrong version:", SETUP, *texts)
    else:
        for text, requirement in wrong:
            yield problem("packages", text, f"{SETUP}; or {sys.executable} -m pip install '{requirement}'")
    is_complete = not wrong
    for extra, setting in _extras(request).items():
        more = [one for one in _required(listed, extra) if one.name not in {other.name for other in wanted}]
        texts = [found[0] for one in more if (found := _wrong(one)) is not None]
        if texts:
            fix = f"{SETUP}; or {sys.executable} -m pip install '{OURS}[{extra}]'"
            is_complete = False
            yield problem("packages", f"{setting} needs {OURS}[{extra}], but {texts[0]}", fix, *texts[1:])
        wanted += more
    for name in PACKAGES:
        if (at := _place(name)) != REPOSITORY / name:
            fix = f"remove {at} from PYTHONPATH, or uninstall the package that installed it"
            yield problem("packages", f"{name} is imported from {at}: another program uses the same name", fix)
    if is_complete:
        versions = ", ".join(f"{one.name} {metadata.version(one.name)}" for one in wanted[:3])
        yield ok("packages", f"{len(wanted)} in their ranges ({versions}, ...)")


def tensorflow(_request: DoctorRequest) -> Iterator[Finding]:
    """Check that TensorFlow can be imported, and count its GPUs."""
    yield from _tried("tensorflow", TRY_TENSORFLOW, lambda got: f"{got['gpus'] or 'no'} GPU{'s' * (got['gpus'] > 1)}")


def scann(_request: DoctorRequest) -> Iterator[Finding]:
    """Check that ScaNN can be imported, and can build and search an index."""
    yield from _tried("scann", TRY_SCANN, lambda _: "an index of 500 vectors was built and searched")


def _tried(package: str, script: str, describe: Callable[[dict[str, Any]], str]) -> Iterator[Finding]:
    """Run a script in a separate process. describe: returns the message for the JSON object that the script prints."""
    reinstall = f"{SETUP}; or {sys.executable} -m pip install --force-reinstall {package}"
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=IMPORT_SECONDS,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        yield problem(package, f"was not loaded within {IMPORT_SECONDS:.0f} s", "is the disk or machine overloaded?")
        return
    if done.returncode:
        how = f"crashed (signal {-done.returncode})" if done.returncode < 0 else "could not be loaded"
        last = (done.stderr.strip().splitlines() or ["no error output"])[-1]
        yield problem(package, f"{how}: {last[:300]}", reinstall)
        return
    got = json.loads(done.stdout.splitlines()[-1])
    text = f"{got['version']} loads in {got['seconds']:.1f} s, {describe(got)}"
    if got["busy"] > SLOW_SECONDS:
        fix = f"compile it once, as {SETUP} does: {sys.executable} -m compileall -q {sys.prefix}"
        yield warning(package, f"{text}; this is slow, and every stage needs it", fix)
    else:
        yield ok(package, text)


def _wanted_python() -> str | None:
    try:
        return metadata.metadata(OURS)["Requires-Python"]
    except metadata.PackageNotFoundError:
        return None  # the check `packages` reports this


def _wrong(requirement: Any) -> tuple[str, Any] | None:
    """Return (message, requirement) if a package is missing or has a wrong version, else None."""
    try:
        have = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing", requirement
    if requirement.specifier.contains(have, prereleases=True):
        return None
    return f"{requirement.name} is {have}, but {requirement.specifier} is needed", requirement


def _required(requirements: Iterable[Any], extra: str = "") -> list[Any]:
    """Return the requirements that apply to this Python without an extra, or only those of an extra.

    For a requirement with extras, such as `apache-beam[gcp]`, also return the requirements of these extras.
    """
    from packaging.requirements import Requirement

    required = [one for one in requirements if _applies(one, extra) and not (extra and _applies(one, ""))]
    for one in list(required):
        try:
            nested = [Requirement(text) for text in metadata.requires(one.name) or ()] if one.extras else []
        except metadata.PackageNotFoundError:  # then the package itself is missing
            continue
        required += [other for name in sorted(one.extras) for other in _required(nested, name)]
    return required


def _applies(requirement: Any, extra: str) -> bool:
    return requirement.marker is None or bool(requirement.marker.evaluate({"extra": extra}))


def _extras(request: DoctorRequest) -> dict[str, str]:
    """Return each extra that the job needs, with the first setting that needs it; empty if the job cannot be read."""
    try:
        from pipelines.config.beam_options import runner_name
        from pipelines.config.jobs import load_job
        from pipelines.config.settings import TABLES

        job, runner = load_job(request.job), runner_name(request.runner_config, request.flags)
    except Exception:  # the check `job` reports this
        return {}
    extras: dict[str, str] = {}
    for sink, extra in EXTRA_OF_SINKS.items():
        if getattr(job.storage, sink):
            extras.setdefault(extra, f"[storage.{sink}]")
    if job.privacy.pseudonym_key_secret:
        extras.setdefault("gcp", "privacy.pseudonym_key_secret")
    if runner == "DataflowRunner":
        extras.setdefault("gcp", runner)
    logs = {f"logs.{name}": getattr(job.logs, name) for name in TABLES}
    for setting, path in {"storage.root": job.storage.root, **logs, "privacy.forget": job.privacy.forget}.items():
        for prefix, extra in EXTRA_OF_PATHS.items():
            if path and path.startswith(prefix):
                extras.setdefault(extra, f"{setting} = {path}")
    return extras


def _place(name: str) -> Path | None:
    """Return the folder from which a package is imported."""
    spec = find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
