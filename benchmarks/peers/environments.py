"""The environment of a peer, a virtual environment with pinned versions, and the header of its file that names them.

A peer's file begins with script metadata (PEP 723): `dependencies`, and in `[tool.peers]` the fields of `Peer`, with
the grid of settings to choose from.
"""

from __future__ import annotations

import itertools
import json
import re
import site
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parent.parent
HEADER = re.compile(r"^# /// script\n(.*?)^# ///$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The header of a peer's file."""

    name: str
    title: str
    dependencies: tuple[str, ...]
    environment: str = ""  # its name, if several peers share it; else the name of the file
    epochs: int = 1_000_000  # the most; 1 if there is nothing to repeat
    with_watchnext: bool = False  # its environment also has what this process can import
    grid: dict[str, list[Any]] = field(default_factory=dict)

    def settings(self) -> Iterator[dict[str, Any]]:
        """Yield all combinations of the grid."""
        return (dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))


def read_peer(name: str) -> Peer:
    """Read the header of benchmarks/peers/NAME.py. Raises ValueError if it has none or does not exist."""
    path = FOLDER / f"{name}.py"
    if not path.exists() or not (found := HEADER.search(path.read_text(encoding="utf-8"))):
        raise ValueError(f"{name!r} is not a peer: choose from {', '.join(all_peers())}")
    header = tomllib.loads(re.sub(r"^# ?", "", found[1], flags=re.MULTILINE))
    return Peer(name=name, dependencies=tuple(header["dependencies"]), **header["tool"]["peers"])


def all_peers() -> list[str]:
    """Return the names of all files that have a header."""
    return [path.stem for path in sorted(FOLDER.glob("*.py")) if HEADER.search(path.read_text(encoding="utf-8"))]


def install(peer: Peer, folder: Path) -> str:
    """Create the peer's environment below a folder unless it is complete, and return its interpreter.

    Raises CalledProcessError if pip fails.
    """
    home = folder / (peer.environment or peer.name)
    python, done = home / "bin" / "python", home / "installed.json"
    wanted = json.dumps(sorted(peer.dependencies))
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        print(f"installing {', '.join(peer.dependencies)} into {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.dependencies], check=True)
        if peer.with_watchnext:
            (next(home.glob("lib/python*/site-packages")) / "watchnext.pth").write_text(
                "\n".join(site.getsitepackages())
            )
        done.write_text(wanted, encoding="utf-8")
    return str(python)
