"""Rows follow their names from one model to the next, compared with dictionaries; and reasons for a cold start."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_records import SPEC, random_records, small_examples
from trainings import killed_at, read_vectors

from trainer import state, warm_start
from trainer.batch import WATCHES
from trainer.config import ModelSettings, TrainingSettings
from trainer.examples import Vocabulary, read_folder, read_label_counts
from trainer.losses import make_loss
from trainer.model import Model
from trainer.progress import Progress
from trainer.sampling import NegativeSampler
from trainer.state import SavedState, SavedTable, dense_variables, table_vocabulary, write_state
from trainer.step import TrainingStep
from trainer.task import TrainingResult, main, train
from trainer.training import TrainingData, fit
from trainer.warm_start import WarmStartSource, model_shape, prepare_start, shape_difference
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

MODEL = ModelSettings(dimension=8, hidden=[16], history="recency", negatives=20)
TRAINING = TrainingSettings(batch_size=32, epochs=2, checkpoint_steps=2, replay_fraction=0.5)
PARTS = 4  # rows carried over at once in these tests, so that tables have several blocks


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "ROWS_AT_ONCE", PARTS)
        patch.setattr(warm_start, "ROWS_AT_ONCE", PARTS)
        yield


def spec_of(
    videos: list[str], tokens: list[str], countries: list[str], shared_rows: int = 0, partial_watches: bool = False
) -> FeatureSpec:
    categories = {"country": countries}
    return FeatureSpec(
        videos=len(videos), tokens=len(tokens), watch_history=5, search_history=4, categories=categories,
        shared_rows=shared_rows, partial_watches=partial_watches,
    )  # fmt: skip


def names_of(**vocabularies: list[str]) -> dict[str, Vocabulary]:
    """Return vocabularies with counts that halve every other row."""
    return {
        name: Vocabulary(names=pa.array(found, pa.string()), counts=2 ** (10 - np.arange(len(found)) // 2))
        for name, found in vocabularies.items()
    }


def new_step(
    spec: FeatureSpec, dimensions: Mapping[str, int] | None = None, *, seed: int = 1, model: ModelSettings = MODEL
) -> TrainingStep:
    counts = np.ones(spec.videos, np.int64)
    fresh = Model(spec, model, counts, seed=seed, category_dimensions=dimensions)
    return TrainingStep(fresh, make_loss(model, fresh, counts), TrainingSettings(seed=seed))


def learn(step: TrainingStep, seed: int = 3) -> None:
    """Set every variable of a step to distinct values, with zeros in row 0."""
    draw = np.random.default_rng(seed)
    for name, table in step.adagrad.tables.items():
        for variable in (table.weights, step.adagrad.accumulators[name]):
            values = draw.random(variable.shape.as_list(), np.float32)
            values[0] = 0
            variable.assign(values)
    for variable in dense_variables(step).values():
        values = draw.integers(1, 100, variable.shape.as_list())
        variable.assign(tf.cast(values, variable.dtype))


def by_name(step: TrainingStep, names: dict[str, Vocabulary]) -> dict[tuple[str, str], tuple[list[float], float]]:
    """Return (table, name) -> row and accumulator; unnamed rows are named by their order."""
    found = {}
    for table_name, table in step.adagrad.tables.items():
        rows, accumulators = table.weights.numpy(), step.adagrad.accumulators[table_name].numpy()
        named = names[table_vocabulary(table_name)].names.to_pylist()
        if table_name == WATCHES:
            shared = [f"shared {i}" for i in range(step.model.tower.spec.shared_rows)]
            named += [*shared, *(f"partial {name}" for name in named)][: table.size - len(named)]
        for row, name in enumerate(named, 1):
            found[table_name, name] = (rows[row].tolist(), float(accumulators[row]))
    return found


WORDS = st.lists(st.sampled_from([f"w{i}" for i in range(14)]), min_size=1, unique=True)


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(WORDS, WORDS),
    st.tuples(WORDS, WORDS),
    st.tuples(WORDS, WORDS),
    st.sampled_from([0, 3]),
    st.tuples(st.booleans(), st.booleans()),
)
def test_rows_follow_their_names(
    tmp_path_factory: pytest.TempPathFactory,
    videos: tuple[list[str], list[str]],
    tokens: tuple[list[str], list[str]],
    countries: tuple[list[str], list[str]],
    shared_rows: int,
    partial_watches: tuple[bool, bool],
) -> None:
    folder = str(tmp_path_factory.mktemp("state"))
    specs = [
        spec_of(v, t, c, shared_rows, p) for v, t, c, p in zip(videos, tokens, countries, partial_watches, strict=True)
    ]
    names = [names_of(videos=v, tokens=t, country=c) for v, t, c in zip(videos, tokens, countries, strict=True)]
    old = new_step(specs[0])
    learn(old)
    write_state(old, names[0], model_shape(specs[0], MODEL, old), folder)
    earlier = WarmStartSource(state=folder, name="then", days=1)
    step, start = prepare_start(earlier, lambda d: new_step(specs[1], d, seed=2), spec=specs[1], settings=MODEL)
    assert start.why == ""
    drawn = by_name(step, names[1])
    start.carry_over(step, names[1], damping=0.25)
    then, now = by_name(old, names[0]), by_name(step, names[1])
    for key, (row, accumulator) in now.items():
        if key in then:
            assert row == then[key][0] and accumulator == pytest.approx(0.25 * then[key][1])
        else:
            assert accumulator == 0 and (key[0], "shared 0") != key
            if key[1].startswith("partial ") and any(other in then for other in now if other[0] == WATCHES):
                assert not any(row)
    for name, table in step.adagrad.tables.items():
        assert not table.weights.numpy()[0].any() and not step.adagrad.accumulators[name].numpy()[0].any(), name
        if not any(key in then for key in now if key[0] == name):  # no known name: initial rows
            assert {key: now[key] for key in now if key[0] == name} == {k: drawn[k] for k in drawn if k[0] == name}
    for name, variable in dense_variables(step).items():
        np.testing.assert_array_equal(variable.numpy(), dense_variables(old)[name].numpy())
    known = {name: len(set(a) & set(b)) for name, (a, b) in {"videos": videos, "tokens": tokens}.items()}
    assert {name: of["known"] for name, of in start.summary(names[1])["rows"].items() if name in known} == known


def test_new_rows_start_near_the_mean_of_about_equally_frequent_rows(tmp_path: Path) -> None:
    """Frequent rows have values of about 10, rare rows of about -10, and no row is known in between."""
    old_names = {"videos": Vocabulary(names=pa.array(["a", "b", "c", "d"]), counts=np.array([1000, 1001, 3, 3]))}
    old = new_step(spec_of(["a", "b", "c", "d"], ["t"], ["SE"]))
    old.model.videos.weights.assign(np.repeat([[0], [9], [11], [-9], [-11]], 8, axis=1).astype(np.float32))
    old.model.biases.weights.assign([[0.0], [5.0], [7.0], [-5.0], [-7.0]])
    write_state(old, old_names, model_shape(old.model.tower.spec, MODEL, old), str(tmp_path))
    videos = ["x", "a", "y", "z", "c", "w"]
    now = {"videos": Vocabulary(names=pa.array(videos), counts=np.array([1020, 1000, 600, 3, 3, 0]))}
    spec = spec_of(videos, ["t"], ["SE"])
    step, start = prepare_start(
        WarmStartSource(state=str(tmp_path), name="then", days=1),
        lambda d: new_step(spec, d),
        spec=spec,
        settings=MODEL,
    )
    drawn = step.model.videos.weights.numpy()
    start.carry_over(step, now, damping=1.0)
    rows = step.model.videos.weights.numpy()
    # Means over the rows that are still known: a of the frequent ones, c of the rare ones; w is rarer than any.
    for row, centre in {1: 9, 3: 9, 4: -9, 6: -9}.items():
        np.testing.assert_allclose(rows[row], centre + warm_start.NEW_ROW_NOISE * drawn[row], rtol=1e-6)
    assert len({tuple(rows[row]) for row in (1, 3)}) == 2
    assert rows[2].tolist() == [9] * 8 and rows[5].tolist() == [-9] * 8
    assert step.model.biases.weights.numpy()[:, 0].tolist() == [0, 5, 5, 5, -5, -5, -5]


SHAPES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"co_watches": True}, {}, "co_watches is True, but was False"),
    ({"shared_vectors": True}, {}, "shared_vectors is True, but was False"),
    ({"dimension": 16}, {}, "dimension is 16, but was 8"),
    ({"hidden": [16, 8]}, {}, r"hidden is \[16, 8\], but was \[16\]"),
    ({"history": "mean"}, {}, "history is mean, but was recency"),
    ({"activation": "gelu"}, {}, "activation is gelu, but was relu"),
    ({"loss": "hierarchical_softmax"}, {}, "tables is .*nodes.*, but was"),
    ({}, {"watch_history": 6}, "watch_history is 6, but was 5"),
    ({}, {"tokens": 0}, "searches is False, but was True"),
    ({}, {"categories": {}}, r"categories is \[\], but was \['country'\]"),
    ({}, {"numbers": ["age"]}, r"numbers is \['age'\], but was \[\]"),
    ({}, {"shared_rows": 4}, "shared_rows is 4, but was 0"),
]


EARLIER = spec_of(["a", "b", "c"], ["t"], ["SE", "DE"])
EARLIER_NAMES = names_of(videos=["a", "b", "c"], tokens=["t"], country=["SE", "DE"])


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> WarmStartSource:
    """Write the state of a model of three videos."""
    folder, step = str(tmp_path_factory.mktemp("earlier")), new_step(EARLIER)
    learn(step)
    write_state(step, EARLIER_NAMES, model_shape(EARLIER, MODEL, step), folder)
    return WarmStartSource(state=folder, name="2026-11-20", days=1)


@pytest.mark.parametrize(("model", "spec", "message"), SHAPES)
def test_another_shape_is_a_cold_start_with_a_reason(
    earlier: WarmStartSource, model: dict[str, Any], spec: dict[str, Any], message: str
) -> None:
    changed = ModelSettings(**MODEL.model_dump() | model)
    other = replace(EARLIER, **spec)
    step, start = prepare_start(earlier, lambda d: new_step(other, d, model=changed), spec=other, settings=changed)
    assert start.state is None and start.replay(TRAINING) is None
    recent = start.replay(TRAINING.model_copy(update={"recent_days": 3}))
    assert recent is not None and (recent.days, recent.fraction) == (3, 0.5)
    assert re.fullmatch(f"cold start: {message}.* in the model of 2026-11-20", start.why)
    before = [variable.numpy() for variable in step.variables]
    start.carry_over(step, EARLIER_NAMES, damping=0.5)
    assert all((variable.numpy() == one).all() for variable, one in zip(step.variables, before, strict=True))
    assert start.summary(names_of(videos=["a"])) == {"from": None, "why": start.why, "rows": {}}


def test_a_setting_that_an_earlier_version_did_not_have_was_false() -> None:
    with_it, without = ({"shared_vectors": value, "dimension": 8} for value in (True, False))
    before = {"dimension": 8}
    assert shape_difference(before, without) == "" == shape_difference(without, without)
    assert shape_difference(before, with_it) == "shared_vectors is True, but was False"
    assert shape_difference(with_it, without) == "shared_vectors is False, but was True"


@pytest.mark.parametrize(
    "free",
    [{"dropout": 0.3}, {"history_dropout": 0.3}, {"negatives": 5}, {"attention_blocks": 5}, {"loss": "in_batch"}],
)
def test_settings_that_do_not_affect_the_shape_may_change(earlier: WarmStartSource, free: dict[str, Any]) -> None:
    changed = ModelSettings(**MODEL.model_dump() | free)
    spec = spec_of(["a", "c", "d"], ["t"], ["SE", "DE"])
    _, start = prepare_start(earlier, lambda d: new_step(spec, d, model=changed), spec=spec, settings=changed)
    assert start.why == "" and start.state is not None


def test_more_values_of_a_category_keep_its_vector_length(earlier: WarmStartSource) -> None:
    countries = ["SE", "DE", "FR", "NO", "FI", "DK", "IS", "PL"]
    spec = spec_of(["a", "b", "c"], ["t"], countries)
    step, start = prepare_start(earlier, lambda d: new_step(spec, d), spec=spec, settings=MODEL)
    assert start.why == "" and step.model.tower.tables["country"].dimension == 3
    assert new_step(spec).model.tower.tables["country"].dimension == 5
    start.carry_over(step, names_of(videos=["a", "b", "c"], tokens=["t"], country=countries), damping=0.5)


def test_other_variables_or_formats_are_a_cold_start(earlier: WarmStartSource, tmp_path: Path) -> None:
    folder = shutil.copytree(earlier.state, tmp_path / "state")
    about = json.loads((folder / "state.json").read_text())
    about["shape"]["variables"]["value_0"] = [5, 5]
    (folder / "state.json").write_text(json.dumps(about))

    def why(state: Path) -> str:
        place = replace(earlier, state=str(state))
        _, start = prepare_start(place, lambda d: new_step(EARLIER, d), spec=EARLIER, settings=MODEL)
        assert start.state is None
        return start.why

    assert why(folder).startswith("cold start: variables is ")
    about["format_version"] = 99
    (folder / "state.json").write_text(json.dumps(about))
    assert "has format_version 99, but this is 1" in why(folder)
    assert "state.json does not exist" in why(tmp_path)


def test_the_first_difference_is_returned() -> None:
    assert shape_difference({"a": 1, "b": 2}, {"a": 1, "b": 2}) == shape_difference({"a": 1, "gone": 1}, {"a": 1}) == ""
    assert shape_difference({"a": 1}, {"a": 2, "c": 1}) == "a is 2, but was 1"
    assert shape_difference({}, {"c": 1}) == "c is 1, but was unknown"


def test_saved_tables_are_memory_mapped(earlier: WarmStartSource) -> None:
    assert all(isinstance(table.rows, np.memmap) for table in SavedState.read(earlier.state).tables.values())


def test_a_state_may_be_on_another_file_system() -> None:
    spec, names = spec_of(["a", "b"], ["t"], ["SE"]), names_of(videos=["a", "b"], tokens=["t"], country=["SE"])
    step = new_step(spec)
    learn(step)
    write_state(step, names, model_shape(spec, MODEL, step), "ram://night/state")
    read = SavedState.read("ram://night/state")
    np.testing.assert_array_equal(read.tables["watches"].rows, step.model.tower.tables["watches"].weights)
    assert read.tables["biases"].names.to_pylist() == ["a", "b"]


# ---- whole trainings


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, examples: str) -> TrainingResult:
    """Return a training without an earlier model."""
    return run(examples, tmp_path_factory.mktemp("first"))


def run(examples: str, output: Path, before: WarmStartSource | None = None, **changes: Any) -> TrainingResult:
    training = TRAINING.model_copy(update=changes)
    return train(read_folder(examples), str(output), model=MODEL, training=training, attempt="1", earlier=before)


def vectors(result: TrainingResult) -> np.ndarray:
    return read_vectors(result.video_vectors)


@pytest.mark.parametrize("loss", ["in_batch", "mixed"])
@pytest.mark.parametrize("early_stopping_epochs", [0, 1])
def test_labels_of_a_batch_are_corrected_by_what_epochs_learn_from(
    tmp_path: Path, examples: str, first: TrainingResult, loss: str, early_stopping_epochs: int
) -> None:
    """Compare with the batches of as many epochs as repeat every old label once."""
    files, before = read_folder(examples), WarmStartSource(state=first.state, name="then", days=2)
    training = TRAINING.model_copy(update={"early_stopping_epochs": early_stopping_epochs})
    fitted = fit(
        files,
        read_label_counts(files),
        model_settings=ModelSettings(**MODEL.model_dump() | {"loss": loss}),
        settings=training,
        checkpoints=f"{tmp_path}/checkpoints",
        logs=f"{tmp_path}/logs",
        earlier=before,
    )
    assert fitted.start.state is not None and fitted.step.loss.in_batch is not None
    data = TrainingData.open(files, training, replay=fitted.start.replay(training))
    batches = data.batches(training, Progress(), sequences=False, static=False)
    fed = np.bincount(np.concatenate([batch["label"].numpy() for batch in batches]), minlength=SPEC.videos + 1)[1:]
    shares = np.exp(fitted.step.loss.in_batch.labels.log_probabilities)
    np.testing.assert_allclose(shares, fed / fed.sum(), rtol=1e-6)


@pytest.mark.parametrize("loss", ["in_batch", "mixed"])
def test_labels_of_a_cold_start_are_corrected_by_the_label_counts(tmp_path: Path, examples: str, loss: str) -> None:
    files = read_folder(examples)
    counts = read_label_counts(files)
    fitted = fit(
        files,
        counts,
        model_settings=ModelSettings(**MODEL.model_dump() | {"loss": loss}),
        settings=TRAINING.model_copy(update={"max_steps": 1}),
        checkpoints=f"{tmp_path}/checkpoints",
        logs=f"{tmp_path}/logs",
    )
    assert fitted.step.loss.in_batch is not None
    found, expected = fitted.step.loss.in_batch.labels, NegativeSampler(counts.counts)
    np.testing.assert_array_equal(found.log_probabilities, expected.log_probabilities)


def test_without_steps_the_model_is_the_earlier_one(tmp_path: Path, examples: str, first: TrainingResult) -> None:
    before = WarmStartSource(state=first.state, name="then", days=0)
    again = run(examples, tmp_path, before, replay_fraction=0.0, warm_epochs=1)
    assert (again.steps, again.examples) == (0, 0)
    assert (vectors(again) == vectors(first)).all()
    last = {name: value for name, value in first.holdout[-1].items() if name != "epoch"}
    assert [{n: v for n, v in figures.items() if n != "epoch"} for figures in again.holdout] == [last]
    names = {"country": 3, "tokens": 12, "videos": 30}
    rows = {name: {"known": n, "names": n} for name, n in names.items()}
    assert again.start == {"from": "then", "why": "", "rows": rows}
    assert first.start == {"from": None, "why": "", "rows": {}}


def test_without_steps_in_batch_negatives_need_no_labels(tmp_path: Path, examples: str, first: TrainingResult) -> None:
    before = WarmStartSource(state=first.state, name="then", days=0)
    in_batch, nothing = (
        MODEL.model_copy(update={"loss": "in_batch"}),
        TRAINING.model_copy(update={"replay_fraction": 0}),
    )
    result = train(read_folder(examples), str(tmp_path), model=in_batch, training=nothing, attempt="1", earlier=before)
    assert result.steps == 0 and (vectors(result) == vectors(first)).all()


def test_a_warm_start_learns_from_new_and_some_old_labels(tmp_path: Path, examples: str, first: TrainingResult) -> None:
    records = [tf.train.Example.FromString(r) for i in range(2) for r in random_records(30, seed=i)]
    days = [day for r in records for day in r.features.feature["label_days"].int64_list.value]
    new = sum(day < 2 for day in days)
    before = WarmStartSource(state=first.state, name="then", days=2)
    warm = run(examples, tmp_path, before)
    assert 2 * new < warm.examples == 2 * new + (len(days) - new)  # two epochs, half of the old labels in each
    assert warm.examples < first.examples == 2 * len(days)
    assert not np.allclose(vectors(warm), vectors(first))
    assert run(examples, tmp_path / "one", before, warm_epochs=1).examples < warm.examples


@pytest.mark.slow
def test_a_resumed_warm_start_equals_an_uninterrupted_one(tmp_path: Path, examples: str, first: TrainingResult) -> None:
    before = WarmStartSource(state=first.state, name="then", days=2)
    whole = run(examples, tmp_path / "whole", before)

    with killed_at(3):
        run(examples, tmp_path / "killed", before)
    again = run(examples, tmp_path / "killed", before)
    assert (vectors(again) == vectors(whole)).all() and again.holdout == whole.holdout
    assert again.start == whole.start
    # A training from another model does not resume from these checkpoints.
    assert run(examples, tmp_path / "killed", replace(before, days=1)).examples < whole.examples


def test_the_command_line_starts_from_an_earlier_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], examples: str, first: TrainingResult
) -> None:
    described = {"model": MODEL.model_dump() | {"dimension": 4}, "training": TRAINING.model_dump()}
    (tmp_path / "settings.json").write_text(json.dumps(described))
    base = str(Path(first.info).parent)
    arguments = ["--examples", examples, "--output", f"{tmp_path}/model", "--settings", f"{tmp_path}/settings.json"]
    assert main([*arguments, "--earlier", base]) == 0
    reason = f"cold start: dimension is 4, but was 8 in the model of {base}"
    printed = capsys.readouterr()
    assert printed.err.strip() == reason and json.loads(printed.out)["start"]["why"] == reason
    described["model"] = MODEL.model_dump()
    (tmp_path / "settings.json").write_text(json.dumps(described))
    assert main([*arguments, "--earlier", base, "--earlier-days", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["start"]["from"] == base
    assert main([*arguments, "--earlier", str(tmp_path)]) == 1
    assert "--earlier must name the output folder of a training" in capsys.readouterr().err


def test_search_tokens_of_other_examples_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_examples(tmp_path / "examples")
    pq.write_table(pa.table({"token": ["a"], "count": [1]}), f"{folder}/search_tokens.parquet")
    assert main(["--examples", folder, "--output", str(tmp_path / "model")]) == 1
    assert f"must hold {SPEC.tokens} tokens, as spec.json says, but holds 1" in capsys.readouterr().err


# ---- the parts of `carry_table`


def saved_table(names: list[str], rows: list[float], *, unnamed: int = 0) -> SavedTable:
    """A table of one dimension: row 0, a row for each name, and rows without names."""
    assert len(rows) == len(names) + unnamed
    values = np.array([0.0, *rows], np.float32)
    return SavedTable(rows=values[:, np.newaxis], accumulators=values * 100, names=pa.array(names, pa.string()))


def test_frequency_buckets_are_powers_of_two() -> None:
    vocabulary = Vocabulary(names=pa.array(list("abcd")), counts=np.array([0, 1, 6, 7]))
    assert warm_start.frequency_buckets(vocabulary, size=6).tolist() == [0, 0, 1, 2, 3, 0, 0]


def test_an_empty_bucket_has_the_mean_of_the_nearest() -> None:
    saved = saved_table(["a", "b", "c"], [2, 4, 9])
    sources, buckets = np.array([0, 1, 2, 3, 0]), np.array([0, 1, 1, 4, 6])
    means = warm_start.bucket_means(saved, sources, buckets)[:, 0]
    assert means.tolist() == [3, 3, 3, 9, 9, 9, 9]  # bucket 0 has row 0 only, which is of no name
