"""The fields that Kubernetes knows, and a check of a manifest against them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Fields of the kinds in use and their types, from the models of the kubernetes package, 37.0.2 (batch/v1, core/v1).
KINDS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("kubernetes_fields.json").read_text())

PLAIN: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool}


def check_fields(value: Any, kind: str, where: str) -> None:
    """Every field is one of its kind and has its type."""
    if many := re.fullmatch(r"list\[(.*)\]", kind):
        assert isinstance(value, list), where
        for n, one in enumerate(value):
            check_fields(one, many[1], f"{where}[{n}]")
    elif by_name := re.fullmatch(r"Dict\[str, (.*)\]", kind):
        for name, one in value.items():
            check_fields(one, by_name[1], f"{where}.{name}")
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{where} = {value!r} is no {kind}"
    else:
        for name, one in value.items():
            assert name in KINDS[kind], f"{where}.{name} is no field of {kind}"
            check_fields(one, KINDS[kind][name], f"{where}.{name}")
