"""Record the injected faults of each test; `tests/conftest.py` prints their sum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from damage import INJECTED_FAULT, Injected


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "faults" in item.path.parts:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(autouse=True)
def _reports_without_plots(without_plots: None) -> None:
    """No fault touches what plots show."""


@pytest.fixture
def injected(record_property: Callable[[str, object], None]) -> Injected:
    """Call it with the kind of each fault that a test injects."""
    return lambda kind: record_property(INJECTED_FAULT, kind)
