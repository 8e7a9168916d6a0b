from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm
from trainer_records import SPEC, following_examples, random_records, small_examples, write_folder
from trainings import killed_at, read_vectors

import trainer.training
from trainer.config import ModelSettings, TrainingSettings
from trainer.errors import TrainingError
from trainer.examples import read_folder, read_label_counts
from trainer.holdout import HoldoutEvaluator, RecallEvaluator
from trainer.inputs import cut_windows, parse_records
from trainer.progress import Checkpoints, Progress
from trainer.task import TrainingResult, main, train
from trainer.training import Plan, choose_users
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

MODEL = ModelSettings(
    dimension=8,
    hidden=[16],
    history="recency",
    co_watches=True,
    shared_vectors=True,
    negatives=20,
    dropout=0.2,
    history_dropout=0.1,
)
TRAINING = TrainingSettings(batch_size=32, epochs=2, checkpoint_steps=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, examples: str) -> TrainingResult:
    """Return an uninterrupted training."""
    return run(examples, tmp_path_factory.mktemp("whole"), attempt="abc")


def run(examples: str, output: Path, attempt: str = "1", **settings: Any) -> TrainingResult:
    training = TRAINING.model_copy(update=settings)
    return train(read_folder(examples), str(output), model=MODEL, training=training, attempt=attempt)


def vectors(result: TrainingResult) -> np.ndarray:
    return read_vectors(result.video_vectors)


def curve(result: TrainingResult) -> list[tuple[int, int, float]]:
    points = json.loads(Path(result.history).read_text())["loss"]
    return [(point["step"], point["examples"], point["loss"]) for point in points]


def test_a_training_writes_tower_vectors_history_and_info(whole: TrainingResult) -> None:
    result = whole
    assert result.tower.endswith("/tower-abc") and Path(result.tower, "saved_model.pb").exists()
    table = pq.read_table(result.video_vectors)
    assert table.column_names == ["id", "video_id", "label_count", "vector"]
    assert table["id"].to_pylist() == list(range(1, 31))
    assert table["video_id"].to_pylist() == [f"video {i}" for i in range(1, 31)]
    assert table["label_count"].to_pylist() == list(range(30, 0, -1))
    assert np.isfinite(vectors(result)).all() and vectors(result).shape == (30, 9)
    info = json.loads(Path(result.info).read_text())
    assert info["tower"] == "tower-abc" and info["examples"] == result.examples and info["spec"]["videos"] == 30
    assert FeatureSpec(**info["spec"]) == SPEC and ModelSettings(**info["model"]) == MODEL
    assert info["seed"] == TRAINING.seed and info["dates"] == {} and "tensorflow" in info["versions"]
    assert info["raw_signature"].startswith("none: the examples come without the graph")
    history = json.loads(Path(result.history).read_text())
    assert [figures["epoch"] for figures in history["holdout"]] == [1, 2] == [f["epoch"] for f in result.holdout]
    assert history["loss"][-1]["examples"] == result.examples == 2 * labels()
    assert all(0 <= figures["recall@10"] <= 1 for figures in history["holdout"])


def labels() -> int:
    """Return the number of labels in `small_examples`, read from the protocol buffers."""
    records = [tf.train.Example.FromString(r) for i in range(2) for r in random_records(30, seed=i)]
    return sum(len(r.features.feature["label"].int64_list.value) for r in records)


def test_served_scores_are_the_logits_without_the_correction(
    tmp_path: Path, examples: str, whole: TrainingResult
) -> None:
    """Compare both signatures and the written vectors with the model in memory."""
    files = read_folder(examples)
    fitted = trainer.training.fit(
        files,
        read_label_counts(files),
        model_settings=MODEL,
        settings=TRAINING,
        checkpoints=f"{tmp_path}/checkpoints",
        logs=f"{tmp_path}/logs",
    )
    records = random_records(15, seed=4, pointers=1)
    parsed = parse_records(tf.constant(records), SPEC, training=True)
    batch = cut_windows(parsed.lists, parsed.pointers, SPEC)
    model = fitted.model
    logits = model.tower(batch) @ tf.transpose(model.videos.read(1, SPEC.videos + 1)) + model.biases.weights[1:, 0]
    tower = tf.saved_model.load(whole.tower)
    served = tower.signatures["examples"](examples=tf.constant(records))
    np.testing.assert_allclose(served["vector"].numpy() @ vectors(whole).T, logits, rtol=1e-4, atol=1e-4)
    assert served["user_id"].numpy().tolist() == [f"user {i}".encode() for i in range(15)]
    assert (served["vector"].numpy()[:, -1] == 1).all()
    del batch["label"]
    dense = tower.signatures["features"](**batch)["vector"]
    np.testing.assert_allclose(dense, served["vector"], rtol=1e-5, atol=1e-6)


def test_a_served_record_must_have_one_pointer(whole: TrainingResult) -> None:
    tower = tf.saved_model.load(whole.tower)
    # Two and none: as many pointers as records, but not one each.
    draws = [random_records(1, seed=1, pointers=n)[0] for n in (2, 0)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have exactly one pointer"):
        tower.signatures["examples"](examples=tf.constant(draws))


def test_a_training_is_deterministic(tmp_path: Path, examples: str, whole: TrainingResult) -> None:
    again = run(examples, tmp_path / "again")
    assert curve(again) == curve(whole)
    assert (vectors(again) == vectors(whole)).all()
    assert again.holdout == whole.holdout


@pytest.mark.slow
def test_the_learning_rates_of_a_resumed_training_go_on_falling(tmp_path: Path, examples: str) -> None:
    linear = {"learning_rate_schedule": "linear"}
    with killed_at(9):
        run(examples, tmp_path / "killed", **linear)
    resumed, uninterrupted = (run(examples, tmp_path / name, attempt="2", **linear) for name in ("killed", "whole"))
    assert curve(resumed) == curve(uninterrupted)
    assert (vectors(resumed) == vectors(uninterrupted)).all()


@pytest.mark.parametrize("step", [4, 9], ids=["first pass", "second pass"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: str, whole: TrainingResult, step: int
) -> None:
    assert whole.steps > 9

    with killed_at(step):
        run(examples, tmp_path / "killed")
    seen: list[int] = []
    restore = Checkpoints.restore

    def restored(checkpoints: Checkpoints) -> Any:
        progress = restore(checkpoints)
        seen.append(progress.steps)
        return progress

    monkeypatch.setattr(Checkpoints, "restore", restored)
    again = run(examples, tmp_path / "killed", attempt="2")
    assert 0 < seen[0] < step
    assert curve(again) == curve(whole)
    assert (vectors(again) == vectors(whole)).all()
    assert again.holdout == whole.holdout


def test_the_progress_bar_shows_epochs_speed_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: str
) -> None:
    shown = io.StringIO()

    def always(**given: Any) -> Any:
        return tqdm(**given | {"disable": False, "file": shown, "mininterval": 0, "ncols": 120})

    monkeypatch.setattr(trainer.training, "tqdm", always)
    run(examples, tmp_path)
    lines = shown.getvalue().split("\r")
    assert re.match(r"epoch 2/2: 100%.*\[\d\d:\d\d<00:00, .* examples/s, loss=\d", lines[-1].strip())
    assert any(re.match(r"epoch 1/2: .*\[\d\d:\d\d<\d\d:\d\d", line) for line in lines)


def test_training_ends_after_max_steps_within_an_epoch(tmp_path: Path, examples: str, whole: TrainingResult) -> None:
    steps = whole.steps // 2 + 1  # the first of the second pass
    result = run(examples, tmp_path, max_steps=steps)
    assert result.steps == steps and curve(result) == curve(whole)[:steps]
    assert result.examples == labels() + TRAINING.batch_size
    assert result.holdout[0] == whole.holdout[0] and [figures["epoch"] for figures in result.holdout] == [1, 2]


@given(steps=st.integers(1, 40), labels=st.lists(st.integers(0, 50), min_size=1, max_size=5))
def test_a_limited_plan_is_the_start_of_the_plan(steps: int, labels: list[int]) -> None:
    whole = Plan(batch_size=8, labels=tuple(labels), steps=tuple(-(-of_pass // 8) for of_pass in labels))
    part, passes = whole.limited_to(steps), slice(len(whole.limited_to(steps).steps))
    assert whole.limited_to(None) == whole and sum(part.steps) == min(steps, sum(whole.steps))
    assert part.steps[:-1] == whole.steps[passes][:-1] and part.labels[:-1] == whole.labels[passes][:-1]
    assert part.labels[-1] == min(whole.labels[passes][-1], 8 * part.steps[-1])


def test_other_settings_do_not_resume_from_these_checkpoints(examples: str, whole: TrainingResult) -> None:
    before = curve(whole)
    folder = Path(whole.history).parent
    other = run(examples, folder.parent / "other", seed=2)
    # The same output folder, which has the checkpoints of the first training.
    shutil.copytree(folder / "checkpoints", folder.parent / "both" / "checkpoints")
    both = run(examples, folder.parent / "both", seed=2)
    assert curve(both) == curve(other) != before


def test_recency_learns_what_follows_the_last_watch(tmp_path: Path) -> None:
    folder = following_examples(tmp_path / "examples")
    settings = ModelSettings(dimension=16, hidden=[32], history="recency", negatives=50)
    training = TrainingSettings(batch_size=64, epochs=8)
    result = train(read_folder(folder), str(tmp_path / "model"), model=settings, training=training, attempt="1")
    # Random recall is 10 of 60.
    assert result.holdout[-1]["recall@10"] > 0.85
    assert result.holdout[-1]["recall@10"] > result.holdout[0]["recall@10"] - 0.05
    losses = [loss for _, _, loss in curve(result)]
    assert losses[-1] < losses[0] - 1


def test_the_command_line_trains_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = small_examples(tmp_path / "examples")
    (tmp_path / "examples" / "train" / "orphan.tfrecord.gz").write_bytes(b"left by a crash")
    settings = {"model": MODEL.model_dump(), "training": TRAINING.model_dump()}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    arguments = ["--examples", examples, "--output", f"{tmp_path}/model", "--attempt", "x"]
    assert main([*arguments, "--settings", f"{tmp_path}/settings.json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["tower"] == f"{tmp_path}/model/tower-x"
    assert printed.err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"modle": {}}', "may have the tables model and training, but has modle"),
        ('{"model": {"dim": 8}}', "dim"),
        ("{", "must be JSON, but"),
        ("[]", "must be one JSON object"),
        (None, "does not exist: --settings must name a JSON file"),
    ],
)
def test_mistakes_in_the_settings_file_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "settings.json").write_text(text)
    arguments = ["--examples", str(tmp_path), "--output", str(tmp_path), "--settings", f"{tmp_path}/settings.json"]
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


def test_examples_without_a_label_are_an_error(tmp_path: Path) -> None:
    examples = write_folder(tmp_path / "a", train={"a": random_records(5, seed=1, pointers=0)}, holdout={})
    with pytest.raises(TrainingError, match="the 1 training files hold no labels"):
        run(examples, tmp_path / "model")
    with pytest.raises(TrainingError, match="the 0 training files hold no labels"):
        run(write_folder(tmp_path / "b", train={}, holdout={}), tmp_path / "model")


def test_a_folder_without_its_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="COMPLETED does not exist"):
        read_folder(str(tmp_path))
    (tmp_path / "COMPLETED").write_text(json.dumps({"files": [{"name": "spec.json"}]}))
    with pytest.raises(TrainingError, match=r"does not list label_counts\.parquet"):
        read_folder(str(tmp_path))


def test_label_counts_of_other_examples_are_an_error(tmp_path: Path) -> None:
    examples = small_examples(tmp_path / "examples")
    (tmp_path / "examples" / "spec.json").write_text(FeatureSpec(**{**vars(SPEC), "videos": 31}).to_json())
    with pytest.raises(TrainingError, match="must hold the ids 1 to 31 in order"):
        run(examples, tmp_path / "model")


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_last_checkpoint(
    tmp_path: Path, examples: str
) -> None:
    message = r"is (nan|inf) at step [23456]: lower table_learning_rate .* checkpoint: .*/ckpt-[12345]$"
    with pytest.raises(TrainingError, match=message):
        run(examples, tmp_path / "model", checkpoint_steps=1, table_learning_rate=1e30)


def test_early_stopping_ends_the_training_and_keeps_the_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: str
) -> None:
    """With these figures the second epoch is the best and the fourth the last; held-out users have other figures."""

    def measure(recall: RecallEvaluator) -> dict[str, float]:
        return {"recall@10": 0.0, "recall@50": next(worse if isinstance(recall, HoldoutEvaluator) else figures)}

    monkeypatch.setattr(trainer.training.RecallEvaluator, "measure", measure)
    worse = iter(1 / n for n in range(1, 99))
    figures = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    stopped = run(examples, tmp_path / "stopped", epochs=9, early_stopping_epochs=2)
    curve = json.loads(Path(stopped.history).read_text())["stopping"]
    assert [point["recall@50"] for point in curve] == [0.1, 0.3, 0.2, 0.3] and len(stopped.holdout) == 4
    figures = iter([0.1, 0.3])
    best = run(examples, tmp_path / "best", epochs=2, early_stopping_epochs=9)
    assert (vectors(stopped) == vectors(best)).all() and stopped.examples == 2 * best.examples
    assert stopped.examples == 4 * (labels() - withheld(examples))
    # Resumed once more, it ends at once with the best model.
    again = run(examples, tmp_path / "stopped", attempt="2", epochs=9, early_stopping_epochs=2)
    assert (vectors(again) == vectors(best)).all() and again.steps == stopped.steps


def withheld(examples: str) -> int:
    """Return how many labels of `small_examples` early stopping withholds."""
    files = read_folder(examples)
    records = trainer.training.RecordFiles.from_paths(files.train)
    found = choose_users(records, files, TRAINING.model_copy(update={"early_stopping_epochs": 2}))
    assert found is not None and not {f"user {i}".encode() for i in range(20)} & set(found.user_ids)
    return len(found.records)


@pytest.mark.slow
def test_held_out_users_do_not_choose_the_best_epoch(tmp_path: Path) -> None:
    """With other labels of the held-out users, their figures differ and the model does not."""
    train = {"a": random_records(60, seed=1)}
    found = []
    for seed in (5, 6):
        holdout = {"h": random_records(20, seed=seed, pointers=1)}
        examples = write_folder(tmp_path / f"examples {seed}", train=train, holdout=holdout)
        found.append(run(examples, tmp_path / f"model {seed}", epochs=4, early_stopping_epochs=1))
    one, other = found
    assert one.holdout != other.holdout
    assert (vectors(one) == vectors(other)).all() and one.steps == other.steps
    histories = [json.loads(Path(result.history).read_text())["stopping"] for result in found]
    assert histories[0] == histories[1] != []


def test_early_stopping_without_users_is_an_error(tmp_path: Path) -> None:
    records = random_records(5, seed=1)
    examples = write_folder(tmp_path / "a", train={"a": records}, holdout={"a": records})
    with pytest.raises(TrainingError, match=r"early_stopping_epochs is 2 .* set it to 0, or lower holdout_users"):
        run(examples, tmp_path / "model", early_stopping_epochs=2)


@pytest.mark.parametrize("early_stopping_epochs", [0, 1])
def test_training_ends_at_the_step_at_which_the_minutes_are_over(
    tmp_path: Path, examples: str, early_stopping_epochs: int
) -> None:
    settings: dict[str, Any] = {"minutes": 1e-9, "early_stopping_epochs": early_stopping_epochs}
    result = run(examples, tmp_path / "model", **settings)
    assert result.steps == 1 and [figures["epoch"] for figures in result.holdout] == [1]
    again = run(examples, tmp_path / "model", attempt="2", **settings)
    assert again.steps == 1 and again.holdout == result.holdout and (vectors(again) == vectors(result)).all()


def test_minutes_that_are_not_over_change_nothing(tmp_path: Path, examples: str, whole: TrainingResult) -> None:
    assert curve(run(examples, tmp_path / "model", minutes=1e6)) == curve(whole)


def test_a_resumed_training_counts_the_minutes_of_interrupted_attempts() -> None:
    halfway = Progress(epoch=1, batch=2, steps=8, seconds=61.0)
    assert halfway.out_of_time(1.0) and not halfway.out_of_time(1.1) and not halfway.out_of_time(None)
    assert not halfway.finished(epochs=5, patience=0, minutes=1.0)  # the epoch is still to be measured
    halfway.end_epoch()
    assert halfway.finished(epochs=5, patience=0, minutes=1.0)


def test_an_incomplete_checkpoint_is_ignored(tmp_path: Path, examples: str, whole: TrainingResult) -> None:
    folder = next((Path(whole.history).parent / "checkpoints").iterdir())
    shutil.copytree(folder.parent, tmp_path / "model" / "checkpoints")
    copy = tmp_path / "model" / "checkpoints" / folder.name
    (copy / "ckpt-99.index").write_bytes(b"cut")
    (copy / "ckpt-99.data-00000-of-00001").write_bytes(b"off")
    assert curve(run(examples, tmp_path / "model", attempt="2")) == curve(whole)


def test_tensorboard_has_all_scalars(whole: TrainingResult) -> None:
    events = next((Path(whole.history).parent / "tensorboard").glob("*tfevents*"))
    found: dict[str, int] = {}
    for event in tf.compat.v1.train.summary_iterator(str(events)):
        for value in event.summary.value:
            assert np.isfinite(tf.make_ndarray(value.tensor))
            found[value.tag] = found.get(value.tag, 0) + 1
    each_point = ["loss", "examples_per_second", "waiting_share", "learning_rate/tables", "learning_rate/tower"]
    assert {found[name] for name in each_point} == {whole.steps}
    assert found["holdout/recall@50"] == 2
