"""A cache for what each process loads once, such as a model, whichever of its threads needs it first."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from threading import Lock
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def process_cache(load: Callable[[Key], Value]) -> Callable[[Key], Value]:
    """Decorate `load` to cache its results for the last two keys. Concurrent calls wait, so each key is loaded once."""
    cached, lock = lru_cache(maxsize=2)(load), Lock()

    @wraps(load)
    def load_once(key: Key) -> Value:
        with lock:
            return cached(key)

    return load_once
