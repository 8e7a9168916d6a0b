"""What stages leave for one another, and how manifests of an older version are read."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nights import DATE, REPOSITORY, commit, night, write_job

from pipelines.base import manifest, paths
from pipelines.base.manifest import DamagedManifestError, Manifest, Outputs
from pipelines.night import outputs, publication_file, ranking_nights, store_cleanup, warm_start_base
from pipelines.night.night import Night
from pipelines.night.outputs import (
    BuiltIndex,
    EvaluationOutputs,
    ExamplesOutputs,
    IndexOutputs,
    IngestOutputs,
    NeighboursOutputs,
    PublishOutputs,
    RankedLists,
    RankingOutputs,
    TrainOutputs,
    VocabularyOutputs,
    WarmStartBase,
)
from pipelines.night.stage import STAGES, discard_damaged

# The manifests of one night, as they were written before they had `outputs`.
PATH = REPOSITORY / "tests" / "support" / "manifests_without_outputs.json"
OLD: dict[str, dict[str, Any]] = json.loads(PATH.read_text())


@pytest.fixture
def of(tmp_path: Path) -> Night:
    """A night whose manifests are of the old form."""
    found = night(write_job(tmp_path, 'watches = "w"'))
    for stage, content in OLD.items():
        path = Path(found.folder(stage), manifest.NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return found


def test_there_is_one_class_for_each_stage() -> None:
    assert tuple(outputs.OF_STAGE) == STAGES


def test_manifests_without_outputs_are_read_from_their_counts(of: Night) -> None:
    ingested = of.outputs(IngestOutputs)
    assert (ingested.snapshot, ingested.rejects, ingested.rows["watches"]) == (2, {}, 1567)
    assert ingested.tables is not None and ingested.tables["searches"]["read"] == 64
    window = of.outputs(VocabularyOutputs).window
    newest = dt.datetime(2026, 11, 20, 23, 59, 57, 850_000, tzinfo=dt.UTC)
    assert (window.watches, window.completed, window.users, window.newest) == (1474, 604, 116, newest)
    assert window.categories["device"] == ["phone", "computer", "tv"]
    examples = of.outputs(ExamplesOutputs)
    assert examples.newest == newest and examples.features["device"].serving == {"1": 53, "2": 23, "3": 13}
    assert of.outputs(TrainOutputs) == TrainOutputs(
        tower="tower-db65ac58",
        state="state-db65ac58",
        warm_start=WarmStartBase(date="2026-11-20", digest="59c2cbcca5799ccf07b4819e4e741f42"),
    )
    shard = "7426ea94/00000-of-00001"
    assert of.outputs(IndexOutputs) == IndexOutputs(
        candidates=BuiltIndex(kind="exact", folders=(f"candidates-{shard}",), shard_rows=(51,), recall=1.0),
        similar=BuiltIndex(kind="exact", folders=(f"similar-{shard}",), shard_rows=(51,), recall=1.0),
    )
    assert of.outputs(NeighboursOutputs).users == 116
    generators = {"2026-11-20": "36d4362aa9e1da69c4e5a650525535e2"}
    assert of.outputs(RankingOutputs).ranked == RankedLists(
        neighbours_attempt="0e5db393", ranker="training/ranker-3f84f139", generators=generators
    )
    recalls = of.outputs(EvaluationOutputs).recalls()
    assert recalls["most popular"] == {"recall@10": 0.4594594594594595, "recall@30": 0.8918918918918919}
    published = of.outputs(PublishOutputs)
    assert published.published and published.lists == published.published_lists is not None
    assert published.lists == "nights/2026-11-21/publish/lists-d7c7753d.json" and published.recall == recalls
    assert published.gates and (published.gates.status, len(published.gates.not_computed)) == ("passed", 3)


def test_a_night_of_the_old_form_is_complete_and_later_nights_go_on_from_it(of: Night) -> None:
    inputs = {stage: of.require(stage).inputs for stage in STAGES}
    assert of.require("vocabulary").digest == inputs["examples"]["vocabulary"]
    assert of.require("examples").digest == inputs["train"]["examples"] == inputs["evaluation"]["examples"]
    assert of.require("train").digest == inputs["index"]["model"]
    assert of.require("index").digest == inputs["neighbours"]["index"]
    assert of.require("neighbours").digest == inputs["ranking"]["neighbours"]
    assert of.require("ranking").digest == inputs["evaluation"]["ranking"]
    assert of.require("evaluation").digest == inputs["publish"]["evaluation"]
    assert discard_damaged(of) == []
    assert store_cleanup.snapshot_of(of.root, of.date) == 2
    assert publication_file.was_published(of.root, of.date)
    assert publication_file.served_stage(of.root, of.date) == "ranking"
    assert ranking_nights.generators(of) == {"2026-11-20": "36d4362aa9e1da69c4e5a650525535e2"}
    tomorrow = warm_start_base.of_night(replace(of, date=DATE + dt.timedelta(days=1)))
    assert tomorrow and (tomorrow.date, tomorrow.digest) == (str(DATE), of.require("train").digest)


def test_a_manifest_of_the_old_form_keeps_it_when_it_is_written_again(of: Night) -> None:
    for stage, content in OLD.items():
        added = {"read_bytes": 0, "written_bytes": 0}  # by later versions
        assert json.loads(of.require(stage).to_json()) == content | added


def test_what_versions_long_ago_left_out_has_its_value_of_then() -> None:
    def read(kind: type[Outputs], **counts: object) -> Outputs:
        return Manifest(stage=kind.stage, date="", fingerprint="", files=[], counts=counts).read(kind)

    assert read(TrainOutputs) == TrainOutputs(tower="tower", state="state")
    assert read(IngestOutputs, snapshot=3) == IngestOutputs(snapshot=3, rows={}, tables=None, rejects={})
    assert read(RankingOutputs, why_not="no impressions") == RankingOutputs(ranked=None)
    assert read(PublishOutputs, published=True) == PublishOutputs(published=True)
    assert read(EvaluationOutputs) == EvaluationOutputs(figures={})


def written(of: Night, content: dict[str, Any]) -> str:
    """A manifest of stage train with these outputs; the path of its file."""
    commit(of, "train", outputs=content)
    return paths.join(of.folder("train"), manifest.NAME)


WHOLE = TrainOutputs(tower="tower-aa", state="state-aa").model_dump(mode="json")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (WHOLE | {"towr": "tower-aa"}, "towr: extra inputs are not permitted"),
        ({name: value for name, value in WHOLE.items() if name != "state"}, "state: field required"),
        ({name: value for name, value in WHOLE.items() if name != "format_version"}, "format_version: "),
        (WHOLE | {"format_version": 2}, "format_version: "),
        (WHOLE | {"tower": 7}, "tower: input should be a valid string"),
        (WHOLE | {"warm_start": {"date": None, "digets": ""}}, "warm_start.digets: extra inputs"),
    ],
)
def test_an_unknown_or_missing_field_is_named_with_its_file(of: Night, content: dict[str, Any], field: str) -> None:
    path = written(of, content)
    with pytest.raises(DamagedManifestError) as raised:
        of.outputs(TrainOutputs)
    message = str(raised.value)
    assert f"{path} cannot be read (outputs: {field}" in message
    assert f"watchnext nightly JOB.toml --date {of.date} removes it and runs the stage again" in message
    assert manifest.load_outputs(of.folder("train"), TrainOutputs) is None
    (line,) = discard_damaged(of)
    assert "stage train" in line
    assert manifest.load(of.folder("train")) is None, "so that the stage is run again"


def test_counts_of_the_old_form_without_a_field_name_the_file_and_the_field(of: Night) -> None:
    path = Path(of.folder("ingest"), manifest.NAME)
    content = OLD["ingest"]
    path.write_text(json.dumps(content | {"counts": {"rows": content["counts"]["rows"]}}))
    with pytest.raises(DamagedManifestError) as raised:
        of.outputs(IngestOutputs)
    assert f"{path} cannot be read (counts: snapshot: field required)" in str(raised.value)


def test_outputs_are_read_as_the_class_of_their_stage_alone(of: Night) -> None:
    with pytest.raises(ValueError, match="is for stage index"):
        of.require("train").read(IndexOutputs)


def test_outputs_are_read_as_they_were_written(of: Night) -> None:
    found = [of.outputs(kind) for kind in outputs.CLASSES]
    for one in found:
        done = replace(of.require(one.stage), outputs=one.model_dump(mode="json"), counts={"notes": []})
        manifest.commit(of.folder(one.stage), done)
    assert [of.outputs(kind) for kind in outputs.CLASSES] == found


def test_the_counts_in_the_file_repeat_the_outputs(of: Night) -> None:
    done = commit(of, "neighbours", outputs={"users": 3}, counts={"n": 1})
    written = json.loads(Path(of.folder("neighbours"), manifest.NAME).read_text())
    assert written["counts"] == {"users": 3, "n": 1} and written["outputs"] == {"users": 3}
    found = manifest.require(of.folder("neighbours"), "neighbours")
    assert (found.outputs, found.counts, found.digest) == (done.outputs, done.counts, done.digest)


def test_the_digest_is_of_files_and_outputs_and_not_of_counts() -> None:
    done = Manifest(stage="train", date="", fingerprint="", files=[], outputs=WHOLE, attempt="aa")
    assert replace(done, counts={"steps": 5}).digest == done.digest
    other = TrainOutputs(tower="tower-bb", state="state-bb").model_dump(mode="json")
    assert replace(done, outputs=other, attempt="bb").digest == done.digest
    assert replace(done, outputs=other).digest != done.digest
