"""requirements.txt: what pip and uv need to install from it alone, by hashes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from nights import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from requirements import main, one_for_each_extra, pins

TEXT = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
GPU = (REPOSITORY / "requirements-gpu.txt").read_text(encoding="utf-8")
Pinned = tuple[str, frozenset[str]]


def pinned() -> dict[Pinned, Requirement]:
    """The pins that hold here, by name and extras."""
    found = [Requirement(pin.partition("\\")[0]) for pin in pins(TEXT)]
    return {_key(one): one for one in found if one.marker is None or one.marker.evaluate()}


def _key(one: Requirement) -> Pinned:
    return canonicalize_name(one.name), frozenset(one.extras)


def required_by(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What a pinned package that is installed requires here, with these extras."""
    try:
        found = requires(name) or []
    except PackageNotFoundError:  # pinned, and of no use here
        return
    for one in map(Requirement, found):
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield one


def test_every_requirement_of_a_pin_is_pinned_with_just_its_extras() -> None:
    """Else pip before 23.3 says that it is not, and installs nothing."""
    there = pinned()
    assert ("apache-beam", frozenset({"gcp"})) in there  # TFT requires it
    lacking = {
        f"{one} of {name}"
        for name, extras in there
        for one in required_by(name, extras)
        for key in (_key(one), (_key(one)[0], frozenset[str]()))
        if key not in there or not one.specifier.contains(next(iter(there[key].specifier)).version)
    }
    assert lacking == set()


def test_the_gpu_requirements_pin_the_same_tensorflow() -> None:
    beside = [Requirement(pin.partition("\\")[0]) for pin in pins(GPU)]
    assert not {_key(one) for one in beside} & pinned().keys()
    assert str(next(one for one in beside if one.name == "tensorflow")) == (
        f"tensorflow[and-cuda]{pinned()['tensorflow', frozenset()].specifier}"
    )
    needed = {_key(one) for one in required_by("tensorflow", frozenset({"and-cuda"}))}
    assert needed <= {*map(_key, beside), *pinned()}


@pytest.mark.parametrize("text", [TEXT, GPU], ids=["requirements", "gpu"])
def test_every_pin_is_exact_and_has_a_hash(text: str) -> None:
    for pin in pins(text):
        pattern = r"[\w.-]+(\[[\w-]+\])?==[\w.]+( ;[^\n]*)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n)+"
        assert re.match(pattern, pin), pin


def test_no_registry_is_named() -> None:
    assert not re.search(r"https?://|index-url|find-links", TEXT + GPU)


PIN = """\
one==1 ; python_version < '3.12' \\
    --hash=sha256:aa
    # via two
"""


@pytest.mark.parametrize("extras", [[], ["a"], ["a", "b-c"]])
def test_a_pin_with_extras_becomes_one_without_and_one_for_each(extras: list[str]) -> None:
    given = PIN.replace("one==", f"one[{', '.join(extras)}]==") if extras else PIN
    without = PIN.replace("    # via two\n", "")
    wanted = [PIN, *(without.replace("one==", f"one[{extra}]==") for extra in extras)]
    assert list(one_for_each_extra(given)) == wanted
    assert pins(given + PIN) == [given, PIN]


def test_the_file_is_rewritten_in_place(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(PIN + PIN.replace("one==", "two[a]=="))
    main(path)
    heads = [line.split()[0] for line in path.read_text().splitlines() if "==" in line]
    assert heads == ["one==1", "two==1", "two[a]==1"]


def test_what_another_file_pins_is_left_out(tmp_path: Path) -> None:
    path, other = tmp_path / "more.txt", tmp_path / "requirements.txt"
    path.write_text(PIN + PIN.replace("one==", "two[a]=="))
    other.write_text(PIN + PIN.replace("one==", "two=="))
    main(path, other)
    assert [line.split()[0] for line in path.read_text().splitlines() if "==" in line] == ["two[a]==1"]
