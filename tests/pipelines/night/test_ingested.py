from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from nights import published_night, write_job

from pipelines.base import manifest, snapshot_store

LISTS = pl.DataFrame(
    {"user_id": ["a"], "video_ids": [["x"]], "scores": [[1.0]]}, schema_overrides={"scores": pl.List(pl.Float32)}
)
TITLES = pl.DataFrame({"video_id": ["x"], "title": ["An x"], "video_seconds": [90.5]})


def test_manifest_and_snapshot_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    night = published_night(write_job(tmp_path, 'watches = "w.parquet"'), LISTS, titles=TITLES, publish=False)
    reads = Counter[str]()

    def counted(module: Any, name: str) -> None:
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: reads.update([name]) or original(*args))

    counted(manifest, "require")
    counted(snapshot_store, "load")
    assert len(night.ingested.buckets()) == 8 and night.ingested.window_digest()
    assert night.ingested.titles(["x", "y"]) == {"x": "An x"}
    assert night.ingested.lengths(["x", "y"]) == {"x": 90.5}
    assert reads == {"require": 1, "load": 1}
