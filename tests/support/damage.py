"""Ways in which a file is damaged."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from transforms.core import files

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


def flip_bit(path: Path, bit: int = 8 * 40) -> None:
    """Change the bit with this number, counted on from the start of the file after its end."""
    content = bytearray(path.read_bytes())
    if content:
        content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


def flip(path: Path, chance: random.Random) -> None:
    flip_bit(path, chance.randrange(8 * max(path.stat().st_size, 1)))


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


WRITES = ("write_parquet", "replace_parquet", "write_bytes", "replace_file", "remove_files")


@contextmanager
def failing_write(at: int, error: Callable[[str], BaseException]) -> Iterator[list[int]]:
    """Let one write of `transforms.core.files` raise an error of its path: the one with the number `at`, from 1.

    Yield a list with the number of writes that are left until then; it is 0 or less after the error.
    """
    left = [at]

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise error(next((part for part in given if isinstance(part, str)), "runs"))
            return call(*given, **named)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(files, name, failing(getattr(files, name)))
        yield left


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def limit_free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let every disk have so many bytes free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(10**13, 10**13 - free, free))
