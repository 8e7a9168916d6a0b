"""Ways in which a file is damaged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

INJECTED_FAULT = "injected fault"  # property of a test's report, once for each fault
Injected = Callable[[str], None]  # called with the kind of each fault that a test injects


def delete(path: Path, _chance: random.Random) -> None:
    path.unlink()


def empty(path: Path, _chance: random.Random) -> None:
    path.write_bytes(b"")


def cut(path: Path, chance: random.Random) -> None:
    """Keep a first part: what a copy that was interrupted leaves."""
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))] if content else b"")


def flip(path: Path, chance: random.Random) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def overwrite(path: Path, chance: random.Random) -> None:
    """As many bytes of something else."""
    path.write_bytes(chance.randbytes(path.stat().st_size))


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "delete": delete,
    "empty": empty,
    "cut": cut,
    "flip": flip,
    "overwrite": overwrite,
}
