"""The keys, dtypes and shapes of batches are exactly the declared ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import ranking_records
from nights import REPOSITORY
from trainer_records import SPEC, random_records, write_file

from trainer import batch
from trainer.batch import Batch, feature_specs, impression_specs, ranking_feature_specs, training_specs
from trainer.distribution import batch_part
from trainer.inputs import cut_windows, epoch_batches, one_pointer_batches, parse_records
from trainer.ranker.inputs import all_impressions, impression_batches
from trainer.record_files import RecordFiles
from transforms.contracts.example_spec import FeatureSpec
from transforms.contracts.ranking_spec import RankingSpec
from transforms.core.tensorflow_import import tf

BARE = FeatureSpec(videos=30, tokens=0, watch_history=5, search_history=4)


def layout(tensors: dict[str, tf.TensorSpec]) -> dict[str, tuple[str, list[int | None]]]:
    """The dtype, and the shape with an unknown first dimension, of each key."""
    return {name: (each.dtype.name, [None, *each.shape[1:]]) for name, each in tensors.items()}


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("spec", [SPEC, BARE], ids=["all", "bare"])
def test_training_batches_have_the_declared_keys(tmp_path: Path, spec: FeatureSpec, sequences: bool) -> None:
    file = write_file(tmp_path / "a.tfrecord.gz", random_records(9, seed=1, spec=spec))
    batches = epoch_batches([file], spec, batch_size=4, seed=1, epochs=range(1), sequences=sequences)
    declared = layout(training_specs(spec, sequences=sequences))
    assert layout(batches.element_spec) == declared
    assert all(layout(each) == declared for each in batches)


@pytest.mark.parametrize("spec", [SPEC, BARE], ids=["all", "bare"])
def test_inputs_of_the_tower_have_the_declared_keys(tmp_path: Path, spec: FeatureSpec) -> None:
    records = random_records(9, seed=1, spec=spec, pointers=1)
    file = write_file(tmp_path / "h.tfrecord.gz", records)
    inputs, _, _ = one_pointer_batches([file], spec, batch_size=4, records=9).element_spec
    assert layout(inputs) == layout(feature_specs(spec))
    parsed = parse_records(tf.constant(records), spec, training=False)
    assert layout(cut_windows(parsed.lists, parsed.pointers, spec)) == layout(feature_specs(spec))


@pytest.mark.parametrize("spec", [ranking_records.SPEC, ranking_records.BARE], ids=["all", "bare"])
def test_impressions_have_the_declared_keys(tmp_path: Path, spec: RankingSpec) -> None:
    records = ranking_records.random_records(9, seed=1, spec=spec)
    files = RecordFiles.from_paths(ranking_records.write_records(tmp_path, records))
    batches = impression_batches(files, spec, batch_size=4, seed=1, epochs=range(1))
    assert layout(batches.element_spec) == layout(impression_specs(spec))
    assert layout(all_impressions(tf.constant(records), spec)[1]) == layout(impression_specs(spec))
    assert list(ranking_feature_specs(spec)) == spec.features


def test_a_part_of_a_batch_has_its_keys_and_its_share() -> None:
    parsed = parse_records(tf.constant(random_records(9, seed=1)), SPEC, training=True)
    whole: Batch = cut_windows(parsed.lists, parsed.pointers, SPEC)
    part = batch_part(whole, tf.constant(1, tf.int64), 2)
    assert part.keys() == {*whole, batch.SHARE} and part[batch.SHARE].shape == []


def test_modules_of_the_trainer_do_not_spell_keys_out() -> None:
    """A key in quotes as a subscript of a batch, of pointers or of parsed records would not be checked."""
    names = {value for name, value in vars(batch).items() if name.isupper() and isinstance(value, str)}
    dictionaries = {"batch", "pointers", "parsed", "features", "lists", "part", "raw", "embedded"}
    for path in (REPOSITORY / "trainer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in dictionaries:
                key = node.slice.value if isinstance(node.slice, ast.Constant) else None
                assert key not in names, f"{path}:{node.lineno}: {key!r} has a constant in trainer/batch.py"
