"""Counts the injected faults of a session over all workers, and prints the sum at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from damage import Injected

_PROPERTY = "injected fault"


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
    return lambda kind: record_property(_PROPERTY, kind)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, ())]
    kinds = Counter(value for report in reports for name, value in report.user_properties if name == _PROPERTY)
    if kinds:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        terminalreporter.write_line(f"{kinds.total()} faults were injected: {listed}")
