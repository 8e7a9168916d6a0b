"""Stage index: which models it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from nights import night, write_job

from pipelines import index
from pipelines.errors import StageError


def test_a_model_without_video_vectors_is_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"', '[model]\nloss = "hierarchical_softmax"')
    with pytest.raises(StageError, match=r"leaves no video vectors to index.*for comparing losses.*\[model\]"):
        index.run(night(job))
