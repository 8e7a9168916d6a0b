"""Which package may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nights import REPOSITORY

PACKAGES = ("pipelines", "transforms", "trainer", "runner_configs")
FILES = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, wherever in it: modules, and what is imported from them."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_by(package: str, *of: str) -> dict[str, set[str]]:
    """file -> what it imports from the packages or modules named `of`."""
    found = {}
    for path in FILES:
        if path.relative_to(REPOSITORY).parts[0] == package:
            names = {name for name in imports(path) if any(f"{name}.".startswith(f"{one}.") for one in of)}
            found[path.relative_to(REPOSITORY).as_posix()] = names
    return {path: names for path, names in found.items() if names}


def test_the_files_are_found() -> None:
    assert {path.relative_to(REPOSITORY).parts[0] for path in FILES} == set(PACKAGES)
    assert imported_by("pipelines", "transforms") and imported_by("transforms", "transforms")


def test_transforms_import_neither_trainer_nor_pipelines() -> None:
    assert imported_by("transforms", "trainer", "pipelines", "runner_configs") == {}


def test_the_trainer_imports_neither_beam_nor_pipelines() -> None:
    assert imported_by("trainer", "apache_beam", "pipelines", "runner_configs", "polars") == {}


def test_the_trainer_shares_records_metrics_and_quiet_alone() -> None:
    shared = {
        "transforms.contracts.example_spec",
        "transforms.contracts.retrieval_metrics",
        "transforms.core.tensorflow_import",
        "transforms.contracts.ranking_spec",
    }
    for path, names in imported_by("trainer", "transforms").items():
        assert {".".join(name.split(".")[:2]) for name in names} <= shared, path


def test_what_the_trainer_shares_imports_numpy_at_most() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "tensorflow"}  # quiet imports TensorFlow where it is asked for
    for name in ("features", "metrics", "quiet", "ranking_spec"):
        assert {one.split(".")[0] for one in imports(REPOSITORY / "transforms" / f"{name}.py")} <= allowed, name


def test_only_the_search_imports_scann() -> None:
    assert {path for package in PACKAGES for path in imported_by(package, "scann")} <= {
        "transforms/search/scann_index.py"
    }


def test_only_options_knows_beam_s_options() -> None:
    found = {path for package in PACKAGES for path in imported_by(package, "apache_beam.options")}
    assert found == {"pipelines/config/beam_options.py"}


def test_only_publish_writes_what_is_published() -> None:
    writers = [path.name for path in FILES if "replace_file(night.root.published" in path.read_text(encoding="utf-8")]
    assert writers == ["publish.py"]


def test_parsing_and_counting_workers_do_not_import_tensorflow() -> None:
    modules = (
        "transforms.logs.event_window",
        "transforms.logs.ingest",
        "transforms.examples.vocabulary",
        "pipelines.ingest",
    )
    heavy = "sorted(sys.modules.keys() & {'tensorflow', 'tensorflow_transform', 'scann'})"
    script = "import sys\n" + "\n".join(f"import {module}; print({module!r}, {heavy})" for module in modules)
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{module} []" for module in modules]
