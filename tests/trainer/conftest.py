"""Fixtures of the trainer's tests."""

from __future__ import annotations

import pytest
from trainer_records import small_examples


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of `small_examples`. No test may change it."""
    return small_examples(tmp_path_factory.mktemp("examples"))
