"""Which package, folder or module may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from nights import REPOSITORY

PACKAGES = ("pipelines", "transforms", "trainer", "runner_configs")
STAGES = ("vocabulary", "examples", "train", "index", "neighbours", "ranking", "evaluation", "gates")
# From the lowest layer to the highest. A module imports from its own layer and from those below.
PIPELINES = (
    ("base",),
    ("config",),
    ("night",),
    ("sinks",),
    ("reports",),
    STAGES,
    ("serving",),
    ("publish",),
    ("logs",),
    ("ingest",),
    ("runs",),
    ("checks",),
    ("page",),
    ("datasets",),  # writes raw logs, so no stage or check depends on it
    ("init", "import_logs", "simulate", "doctor", "nightly", "cli", "backfill", "rollback", "rebucket"),
    ("status", "report", "lookup", "serve", "compare", "export", "completion"),
    ("api",),
)
TRANSFORMS = {
    "core": "",
    "contracts": "",
    "logs": "core contracts",
    "examples": "core contracts logs",
    "search": "core contracts logs",
    "ranking": "core contracts logs examples search",
    "evaluation": "core contracts logs examples search ranking",
    "sinks": "core",
    "simulation": "",
    "report": "",
}
FORMER = ("transforms/screen.py", "trainer/ranker_task.py")  # names that are kept for one release
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((REPOSITORY / package).rglob("*.py"))
    if path.relative_to(REPOSITORY).as_posix() not in FORMER
}


def _imports(path: Path) -> set[str]:
    """Full names of all that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _module_of(name: str) -> str:
    """The module of the product that an imported name belongs to; empty for another library's."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


IMPORTS = {module: _imports(path) for module, path in MODULES.items()}
EDGES = [(module, _module_of(name)) for module, names in IMPORTS.items() for name in names if _module_of(name)]


def _part(module: str) -> str:
    """The second part of a module's name, which is its folder or, at the top of a package, the module itself."""
    return [*module.split("."), ""][1]


def _importing(library: str) -> set[str]:
    """The modules that import from a library or module."""
    return {module for module, names in IMPORTS.items() if any(f"{name}.".startswith(f"{library}.") for name in names)}


def test_packages_import_no_package_above_them() -> None:
    allowed = {
        "transforms": {"transforms"},
        "trainer": {"trainer", "transforms"},
        "pipelines": {"pipelines", "trainer", "transforms"},
        "runner_configs": set(PACKAGES),
    }
    assert [(a, b) for a, b in EDGES if b.split(".")[0] not in allowed[a.split(".")[0]]] == []


def test_pipelines_import_downwards() -> None:
    layers = {part: layer for layer, parts in enumerate(PIPELINES) for part in parts}
    inside = [(a, b) for a, b in EDGES if a.startswith("pipelines.") and b.startswith("pipelines.")]
    assert {_part(a) for a, _ in inside} == layers.keys()
    assert [(a, b) for a, b in inside if layers[_part(b)] > layers[_part(a)]] == []


def test_transforms_import_downwards() -> None:
    inside = [(a, b) for a, b in EDGES if a.startswith("transforms.") and b.startswith("transforms.")]
    assert {_part(a) for a, _ in inside} <= TRANSFORMS.keys()
    assert [(a, b) for a, b in inside if _part(b) not in (_part(a), *TRANSFORMS[_part(a)].split())] == []


def test_no_modules_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for module, imported in EDGES:
        if module != imported:
            graph.setdefault(module, set()).add(imported)
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_trainer_shares_contracts_and_the_tensorflow_import() -> None:
    shared = {b for a, b in EDGES if a.startswith("trainer") and b.startswith("transforms")}
    assert {b for b in shared if not b.startswith("transforms.contracts.")} == {"transforms.core.tensorflow_import"}
    assert not [
        (a, b)
        for a, b in EDGES
        if b.startswith("trainer.ranker") and not a.startswith("trainer.ranker") and a.startswith("trainer")
    ]
    assert not {module for module in _importing("apache_beam") | _importing("polars") if module.startswith("trainer")}


def test_contracts_import_numpy_alone() -> None:
    allowed = {*sys.stdlib_module_names, "numpy"}
    for module in (module for module in MODULES if module.startswith("transforms.contracts.")):
        assert {name.split(".")[0] for name in IMPORTS[module]} <= allowed, module


def test_one_module_knows_each_library() -> None:
    assert _importing("scann") == {"transforms.search.scann_index"}
    assert _importing("apache_beam.options") == {"pipelines.config.beam_options"}


def test_parsing_and_counting_workers_do_not_import_tensorflow() -> None:
    modules = [
        "transforms.logs.event_window",
        "transforms.logs.ingest",
        "transforms.examples.vocabulary",
        "pipelines.ingest",
    ]
    heavy = "sorted(sys.modules.keys() & {'tensorflow', 'tensorflow_transform', 'scann'})"
    script = "import sys\n" + "\n".join(f"import {module}; print({module!r}, {heavy})" for module in modules)
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{module} []" for module in modules]
