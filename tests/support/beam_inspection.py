"""Inspect each function of a DoFn once.

Beam inspects the parameters of all methods of every DoFn some ten times a pipeline: two fifths of a small pipeline's
time.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import ismethod
from typing import Any
from weakref import WeakKeyDictionary

from apache_beam.transforms import core

Parameters = tuple[list[str], list[Any]]


def inspect_once() -> None:
    """Keep what `get_function_args_defaults` returns, by function; methods apart from their functions, whose `self` is
    a parameter."""
    inspect: Callable[[Any], Parameters] = core.get_function_args_defaults
    seen: dict[bool, WeakKeyDictionary[Any, Parameters]] = {True: WeakKeyDictionary(), False: WeakKeyDictionary()}

    def parameters(function: Any) -> Parameters:
        bound = ismethod(function)
        plain = function.__func__ if bound else function
        try:
            known = seen[bound].get(plain)
            if known is None:
                known = seen[bound][plain] = inspect(function)
        except TypeError:  # no weak reference to it, or no hash
            known = inspect(function)
        return list(known[0]), list(known[1])

    core.get_function_args_defaults = parameters
