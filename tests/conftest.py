"""What the tests share: hypothesis without deadlines (the machine may be busy), and one fake tower for all."""

from __future__ import annotations

import pytest
from hypothesis import settings
from made_frames import write_tower

settings.register_profile("watchnext", deadline=None)
settings.load_profile("watchnext")

DIMENSION = 3


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tower whose vectors are `made_frames.user_vector`s of `DIMENSION` numbers and a 1."""
    return write_tower(tmp_path_factory.mktemp("tower"), DIMENSION)
