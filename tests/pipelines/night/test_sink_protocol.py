"""What sinks are given of a night."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from nights import commit, night, published_night, write_job

from pipelines.base import manifest
from pipelines.base.manifest import Manifest
from pipelines.night import publication_file, sink_protocol
from pipelines.night.night import Night
from pipelines.night.outputs import RankedLists, RankingOutputs
from pipelines.night.sink_protocol import NightFiles
from transforms.core import files

LISTS = pl.DataFrame({"user_id": ["a", "b", "c"], "video_ids": [["v"], ["w"], ["v"]], "scores": [[1.0], [2.0], [3.0]]})
DEFAULTS = pl.DataFrame({"country": [None, "SE"], "video_ids": [["v"], ["w"]], "scores": [[1.0], [2.0]]})


@pytest.fixture
def of(tmp_path: Path) -> Night:
    return published_night(write_job(tmp_path, 'watches = "w"'), LISTS, defaults=DEFAULTS, publish=False)


def files_of(of: Night) -> NightFiles:
    return sink_protocol.night_files(of.root, publication_file.from_stages(of.root, of.date))


def ranked(of: Night, neighbours: str = "") -> None:
    """Lists of one user, as ranking would leave them, made of the night's neighbours or of those of some digest; with
    what lies below its folder."""
    entry = files.write_parquet(LISTS[:1], of.folder("ranking"), "00000-of-00008-bb.parquet")
    below = files.write_parquet(LISTS, of.folder("ranking"), "vocabulary/videos.parquet")
    inputs = {"neighbours": neighbours or of.require("neighbours").digest}
    commit(of, "ranking", [entry, below], attempt="bb", inputs=inputs)


def test_a_night_s_files_are_those_of_its_manifests(of: Night) -> None:
    Path(of.folder("neighbours"), "00000-of-00008-zz.parquet").write_bytes(b"an orphan")
    given = files_of(of)
    folder = f"{of.root.night(of.date)}"
    assert given.lists == tuple(f"{folder}/neighbours/{bucket:05d}-of-00008-aa.parquet" for bucket in range(8))
    assert given.vectors == tuple(f"{folder}/user_vectors/{bucket:05d}-of-00008-aa.parquet" for bucket in range(8))
    assert given.defaults == (f"{folder}/defaults/00000-of-00001-aa.parquet",)
    assert (given.date, given.users) == ("2026-11-21", 3)


def test_ranked_lists_are_served_where_there_are_any(of: Night) -> None:
    before = files_of(of)
    assert sink_protocol.served_stage(of) == "neighbours"
    ranked(of)
    given = files_of(of)
    assert sink_protocol.served_stage(of) == "ranking"
    assert given.lists == (f"{of.root.night(of.date)}/ranked/00000-of-00008-bb.parquet",) and given.users == 1
    assert (given.vectors, given.defaults) == (before.vectors, before.defaults) and given.attempt != before.attempt


def test_ranked_lists_of_other_neighbours_are_not_served(of: Night) -> None:
    ranked(of, "what was before")
    assert sink_protocol.served_stage(of) == "neighbours"


def test_ranked_lists_stay_when_users_are_taken_out_of_what_they_were_made_of(of: Night) -> None:
    ranked(of, "what was before")
    done = of.require("ranking")
    lists = RankedLists(neighbours_attempt=of.require("neighbours").attempt, ranker="ranker-bb", generators={})
    outputs = RankingOutputs(ranked=lists).model_dump(mode="json")
    manifest.commit(of.folder("ranking"), replace(done, outputs=outputs))
    assert sink_protocol.served_stage(of) == "ranking"


def test_a_ranking_that_left_no_list_is_not_served(of: Night) -> None:
    commit(of, "ranking", attempt="bb", inputs={"neighbours": of.require("neighbours").digest})
    assert sink_protocol.served_stage(of) == "neighbours"


def test_another_attempt_has_another_mark(of: Night) -> None:
    before = files_of(of).attempt
    assert files_of(of).attempt == before
    manifest.commit(of.folder("neighbours"), Manifest(**vars(of.require("neighbours")) | {"attempt": "cc"}))
    assert files_of(of).attempt != before


def test_settings_are_those_of_the_sinks_alone(tmp_path: Path) -> None:
    assert sink_protocol.settings(night(write_job(tmp_path, 'watches = "w"')).job) == {}
    job = write_job(tmp_path, 'watches = "w"', '[storage.redis]\nurl = "redis://here"\n')
    found = sink_protocol.settings(night(job).job)
    assert list(found) == ["redis"] and found["redis"]["url"] == "redis://here" and found["redis"]["vectors"] is False
