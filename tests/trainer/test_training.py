"""The parts of a training: its data, its plan, and its steps; whole trainings are in test_task.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from trainer_records import SPEC, random_records, write_file

from trainer.config import ModelSettings, TrainingSettings
from trainer.distribution import Replicas
from trainer.errors import TrainingError
from trainer.examples import ExampleFiles, Vocabulary
from trainer.progress import Progress
from trainer.replay import Replay
from trainer.training import Plan, StepBuilder, TrainingData, make_plan
from transforms.core.tensorflow_import import tf

RECORDS = random_records(60, seed=1)
LABELS = sum(len(tf.train.Example.FromString(r).features.feature["label"].int64_list.value) for r in RECORDS)
SETTINGS = TrainingSettings(batch_size=16, epochs=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ExampleFiles:
    folder = tmp_path_factory.mktemp("records")
    train = write_file(folder / "train.tfrecord.gz", RECORDS)
    holdout = write_file(folder / "holdout.tfrecord.gz", random_records(20, seed=2, pointers=1))
    return ExampleFiles(train=(train,), holdout=(holdout,), spec=SPEC, label_counts="")


@pytest.mark.parametrize("early_stopping_epochs", [0, 2])
@pytest.mark.parametrize("replay", [None, Replay(days=2, fraction=0.5, salt="s")])
def test_batches_have_the_counted_labels(
    files: ExampleFiles, replay: Replay | None, early_stopping_epochs: int
) -> None:
    settings = SETTINGS.model_copy(update={"early_stopping_epochs": early_stopping_epochs})
    data = TrainingData.open(files, settings, replay=replay)
    counts = data.labels_per_epoch(settings.epochs)
    plan, progress = make_plan(counts, settings.batch_size, replicas=Replicas()), Progress()
    sizes = [len(batch["label"]) for batch in data.batches(settings, progress, sequences=False, static=False)]
    assert sum(sizes) == sum(counts) and len(sizes) == sum(plan.steps)
    for size in sizes:
        assert size == plan.examples(progress)
        progress.add_step(loss=0.0, examples=size, seconds=0.0, waiting_seconds=0.0)
        if progress.batch == plan.steps[progress.epoch]:
            progress.end_epoch()
    if replay is None:
        assert counts == [LABELS - len(data.stopping.records if data.stopping else ())] * settings.epochs
    users = sum(int(labels.nrows()) for _, labels, _ in data.stopping_batches())
    assert (users > 0) == (data.stopping is not None) == (early_stopping_epochs > 0)


def test_batches_go_on_behind_the_progress(files: ExampleFiles) -> None:
    data = TrainingData.open(files, SETTINGS, replay=None)
    whole = [b["label"].numpy().tolist() for b in data.batches(SETTINGS, Progress(), sequences=False, static=False)]
    steps = len(whole) // SETTINGS.epochs
    left = data.batches(SETTINGS, Progress(epoch=1, batch=2), sequences=False, static=False)
    assert [b["label"].numpy().tolist() for b in left] == whole[steps + 2 :]


def test_early_stopping_must_not_withhold_the_only_label(tmp_path: Path) -> None:
    only = write_file(tmp_path / "a.tfrecord.gz", random_records(1, seed=1, pointers=1))
    files = ExampleFiles(train=(only,), holdout=(), spec=SPEC, label_counts="")
    data = TrainingData.open(files, SETTINGS.model_copy(update={"early_stopping_epochs": 1}), replay=None)
    with pytest.raises(TrainingError, match="no label is left"):
        data.labels_per_epoch(2)


def test_a_plan_rounds_steps_up_and_with_static_shapes_down() -> None:
    assert make_plan([33, 32], 16, replicas=Replicas()) == Plan(batch_size=16, labels=(33, 32), steps=(3, 2))
    static = make_plan([33, 32], 16, replicas=Replicas(static=True))
    assert static == Plan(batch_size=16, labels=(32, 32), steps=(2, 2))
    with pytest.raises(TrainingError, match="at most the 7 labels of an epoch"):
        make_plan([33, 7], 16, replicas=Replicas(static=True))


def test_a_copy_of_a_step_has_equal_variables() -> None:
    counts = Vocabulary(names=pa.array([f"v{i}" for i in range(30)]), counts=np.arange(30, 0, -1))
    model = ModelSettings(dimension=4, hidden=[8], negatives=5)
    builder = StepBuilder(spec=SPEC, counts=counts, model_settings=model, settings=SETTINGS)
    step = builder.build(Replicas(), {"country": 7})
    for number, variable in enumerate(step.variables):
        variable.assign(tf.fill(variable.shape, tf.cast(number, variable.dtype)))
    copy = builder.copy(step)
    assert copy.model.tower.tables["country"].dimension == 7 and copy is not step
    for one, other in zip(copy.variables, step.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
