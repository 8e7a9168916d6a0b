"""Tests of README.md and docs/: what they name exists, and README.md and its picture stay small."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from nights import REPOSITORY

README = REPOSITORY / "README.md"
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
HISTORY = "log.md"  # records what was tried, under the names of that time
DOCS = REPOSITORY / "docs"
DOCUMENTS = [README, *(path for path in sorted(DOCS.rglob("*.md")) if path.name != HISTORY)]
SITE = runpy.run_path(str(DOCS / "site" / "hooks.py"))
PACKAGES = ("pipelines", "transforms", "trainer", "runner_configs")
README_LINES = 130
SCREENSHOT_BYTES = 200_000

PATH = re.compile(r"(?<![\w./-])(?:pipelines|transforms|trainer|tests|benchmarks|runner_configs|docs)/[\w./-]*")
SYMBOL = re.compile(r"([\w/]+\.py)::(\w+)")
MODULE = re.compile(r"python -m ((?:pipelines|trainer|benchmarks|runner_configs)\.[a-z_.]+)(?![A-Z])")
CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
MAKE = re.compile(r"\bmake((?: [a-z][a-z-]*)+)(?= *(?:#|&&|$|`))", re.MULTILINE)
MESSAGES = (  # document, a stable part of a message that it quotes
    ("logs.md", "is an object, not one value"),
    ("logs.md", "is never closed"),
    ("operations.md", "no space left on device below"),
    ("operations.md", "settings changed: "),
    ("operations.md", "depends on whether the output of"),
    ("runners.md", "the runner ended the job in state"),
    ("runners.md", "the runner's job server does not answer"),
)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings of a Markdown text."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_modules_and_symbols_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    paths = {path.rstrip(".") for path in PATH.findall(text)}
    modules = (module.rstrip(".").replace(".", "/") for module in MODULE.findall(text))
    paths |= {f"{module}/__main__.py" if (REPOSITORY / module).is_dir() else f"{module}.py" for module in modules}
    assert sorted(path for path in paths if not (REPOSITORY / path).exists()) == []
    for path, name in SYMBOL.findall(text):
        source = (REPOSITORY / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:(?:def|class) {name}\b|{name}\b.*=)", source, re.MULTILINE), f"{path} defines no {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_targets_of_make_exist(document: Path) -> None:
    rules = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for code in CODE.findall(document.read_text(encoding="utf-8")):
        for targets in MAKE.findall(code):
            assert set(targets.split()) <= {*rules}, targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path = document.parent / target if target else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


@pytest.mark.parametrize(("document", "message"), MESSAGES)
def test_quoted_messages_are_those_of_the_code(document: str, message: str) -> None:
    assert message in (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    sources = (path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
    assert any(message in source.read_text(encoding="utf-8") for source in sources)


def test_the_architecture_lists_every_folder() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    modules = (path for package in (*PACKAGES, "tests") for path in (REPOSITORY / package).rglob("*.py"))
    folders = {path.relative_to(REPOSITORY).parent for path in modules}
    listed = {folder for folder in folders if len(folder.parts) == 2 and not _mirrors_a_package(folder)}
    assert sorted(f"{folder}/" for folder in listed if f"`{folder}/`" not in text) == []


def _mirrors_a_package(folder: Path) -> bool:
    return folder.parts[0] == "tests" and folder.parts[1] in PACKAGES


def test_the_site_has_every_page_once() -> None:
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- (\S+\.md)$", text, re.MULTILINE)
    written = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted([*written, *SITE["PAGES"].values(), "api.md"])


@pytest.mark.parametrize(
    ("page", "link", "rewritten"),
    [
        ("index.md", "[a](docs/logs.md#files)", "[a](logs.md#files)"),
        ("index.md", "![a](docs/stages.svg)", "![a](stages.svg)"),
        ("index.md", "[a](CHANGELOG.md)", "[a](changelog.md)"),
        ("logs.md", "[a](../pipelines/nightly.py)", "a"),
        ("python.md", "[a](notebook.py)", "[a](notebook.md)"),
        ("tutorials/tuning.md", "[a](../log.md)", "[a](../log.md)"),
        ("tutorials/upgrading.md", "[a](../../CHANGELOG.md)", "[a](../changelog.md)"),
        ("logs.md", "[a](#files)", "[a](#files)"),
        ("logs.md", "[a](https://example.org/x.py)", "[a](https://example.org/x.py)"),
    ],
)
def test_the_site_rewrites_links_that_leave_docs(page: str, link: str, rewritten: str) -> None:
    assert SITE["rewrite_links"](f"See {link}.", page) == f"See {rewritten}."


def test_the_site_shows_the_notebook() -> None:
    cells = "# %% [markdown]\n# # Title\n# Some text.\n\n# %%\nprint(1)\n"
    assert SITE["to_markdown"](cells) == "# Title\nSome text.\n\n\n```python\nprint(1)\n```\n"


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < README_LINES


def test_the_screenshot_is_small() -> None:
    assert (REPOSITORY / "docs" / "report.png").stat().st_size < SCREENSHOT_BYTES
