"""How much of a generated test `make test` runs: a part, the same each time. `make test-all` sets TESTS=all."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import TypeVar

ALL = os.environ.get("TESTS") == "all"
Case = TypeVar("Case")


def fewer(count: int) -> int:
    """The number of examples that hypothesis draws, of `count` in all."""
    return count if ALL else max(count // 4, min(count, 10))


def cases(every: Iterable[Case], part: float = 0.25) -> list[Case]:
    """Return the cases to run, in order: a seeded sample, or all."""
    found = list(every)
    count = len(found) if ALL else max(round(len(found) * part), 1)
    return [found[at] for at in sorted(random.Random(1).sample(range(len(found)), count))]
