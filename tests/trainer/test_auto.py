"""Settings that are "auto" are resolved from counts by one table of rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from trainer_records import random_records, write_folder

from trainer.auto import (
    HELD_OUT_USERS,
    LEAST_PER_USER,
    MOST_COMPLETED,
    MOST_LABELS,
    PAPER_PER_USER,
    RULES,
    SHAPE,
    LogCounts,
    Resolved,
    auto_names,
    holdout_share,
    labels_per_user,
    partial_watches,
    resolve,
    rules_version,
    transitions_share,
)
from trainer.config import AUTO, ModelSettings, ModelTable, TrainingSettings, TrainingTable
from trainer.examples import read_folder, read_label_counts
from trainer.state import read_shape
from trainer.task import resolve_settings, train
from trainer.warm_start import WarmStartSource

COUNTS = LogCounts(labels=1_000_000, users=50_000, videos=2_000, watches=1_200_000, days=28)
MODEL_NAMES = [name for name in RULES if name in ModelTable.model_fields]
TRAINING_NAMES = [name for name in RULES if name in TrainingTable.model_fields]


def resolved(counts: LogCounts = COUNTS, *, earlier: dict[str, Any] | None = None, **by_hand: Any) -> Resolved:
    """Resolve with all settings "auto" except those by hand."""
    values = dict.fromkeys(RULES, AUTO) | by_hand
    model = {name: value for name, value in values.items() if name in ModelTable.model_fields}
    training = {name: value for name, value in values.items() if name in TrainingTable.model_fields}
    return resolve(ModelTable(**model), TrainingTable(**training), counts, earlier=earlier, earlier_name="2026-11-20")


def test_every_rule_gives_a_valid_value_and_a_reason() -> None:
    found = resolved()
    assert list(found.reasons) == list(RULES) == list(found.values)
    assert all(found.reasons.values()) and all("{" not in reason for reason in found.reasons.values())
    assert found.model == ModelSettings(
        history="attention",
        co_watches=True,
        shared_vectors=True,
        trends=True,
        dimension=64,
        hidden=[256],
        dropout=0.2,
        history_dropout=0.3,
        loss="softmax",
    )
    assert found.training == TrainingSettings(
        epochs=6, table_learning_rate=0.02, learning_rate_schedule="linear", early_stopping_epochs=2, recent_days=3
    )
    assert "2,000 videos" in found.explained["loss"] and "loss = softmax" in found.note


@pytest.mark.parametrize(
    ("counts", "name", "value"),
    [
        ({"videos": 5_001}, "loss", "sampled_softmax"),
        ({"watches": 2_000 * 28}, "trends", True),
        ({"watches": 2_000 * 28 - 1}, "trends", False),
        ({"videos": 200_001, "watches": 20 * 200_001}, "dimension", 128),
        ({"videos": 200_001, "watches": 20 * 200_001 - 1}, "dimension", 64),
        ({"labels": 2_000_001}, "history", "recency"),
        ({"labels": 199_999}, "history", "recency"),
        ({"watches": 20 * 2_000 - 1}, "history", "recency"),
        ({"labels": 2_000_001}, "dropout", 0.5),
        ({"watches": 20 * 2_000 - 1}, "table_learning_rate", 0.05),
        ({"labels": 10_000}, "epochs", 6),
        ({"labels": 4_000_000}, "epochs", 2),
        ({"labels": 100_000_000}, "epochs", 1),
        ({"labels": 0}, "epochs", 6),
        ({"days": 0}, "recent_days", 0),
        ({"days": 31}, "recent_days", 4),
        ({"users": 3_999}, "early_stopping_epochs", 0),
        ({"users": 4_000}, "early_stopping_epochs", 2),
    ],
)
def test_counts_decide(counts: dict[str, int], name: str, value: object) -> None:
    assert resolved(LogCounts(**{**vars(COUNTS), **counts})).values[name] == value


def test_a_value_by_hand_wins_and_other_rules_read_it() -> None:
    found = resolved(co_watches=False, dimension=32, epochs=1)
    assert (found.model.co_watches, found.model.dimension, found.training.epochs) == (False, 32, 1)
    assert found.training.table_learning_rate == 0.05
    assert not found.reasons.keys() & {"co_watches", "dimension", "epochs"}
    assert resolved(loss="hierarchical_softmax").model.co_watches is False
    assert resolved(loss="hierarchical_softmax").model.shared_vectors is False
    assert resolved(loss="hard_negatives", hard_pool=50).model.negatives == 50
    assert resolved(history="attention", attention_heads=3).model.dimension == 66
    assert resolved(softmax_limit=1_000).model.loss == "sampled_softmax"


def test_the_paper_s_preset_has_the_defaults_of_the_resolved_settings() -> None:
    found = resolved(preset="paper", epochs=3)
    assert found.model == ModelSettings(preset="paper")
    assert found.training == TrainingSettings(epochs=3)
    assert set(found.reasons.values()) == {'preset = "paper"'}


def test_a_warm_start_keeps_the_earlier_shape() -> None:
    # a setting that an earlier version did not have was false
    shape = {"history": "mean", "dimension": 96, "hidden": [64, 32]}
    found = resolved(earlier=shape)
    assert [getattr(found.model, name) for name in SHAPE] == ["mean", False, False, False, 96, [64, 32]]
    assert "2026-11-20" in found.reasons["dimension"] and "64" in found.reasons["dimension"]
    assert found.model.dropout == 0.5 and found.training.table_learning_rate == 0.05
    assert resolved(earlier=shape, dimension=32).model.dimension == 32


def test_settings_that_are_not_auto_stay_and_need_no_counts() -> None:
    nothing = LogCounts(labels=0, users=0, videos=0, watches=0, days=0)
    model, training = ModelSettings(dimension=8), TrainingSettings(epochs=1)
    found = resolve(model, training, nothing)
    assert (found.model, found.training, found.reasons, found.note) == (model, training, {}, "")
    assert auto_names(model, training) == []


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_tables_of_the_model_accept_auto_and_resolved_settings_do_not(name: str) -> None:
    table = ModelTable.model_validate({name: AUTO})
    assert ModelTable.model_validate_json(table.model_dump_json()) == table
    with pytest.raises(ValidationError) as caught:
        ModelSettings.model_validate({name: AUTO})
    assert len(caught.value.errors()) == 1


@pytest.mark.parametrize("name", TRAINING_NAMES)
def test_tables_of_the_training_accept_auto_and_resolved_settings_do_not(name: str) -> None:
    table = TrainingTable.model_validate({name: AUTO})
    assert TrainingTable.model_validate_json(table.model_dump_json()) == table
    with pytest.raises(ValidationError):
        TrainingSettings.model_validate({name: AUTO})


def test_a_wrong_value_is_one_error_that_names_the_setting() -> None:
    for name, value in (("dimension", 0), ("dropout", 1.0), ("history", "last"), ("hidden", "deep")):
        with pytest.raises(ValidationError) as caught:
            ModelTable.model_validate({name: value})
        assert [error["loc"] for error in caught.value.errors()] == [(name,)]


def test_labels_of_a_user() -> None:
    assert labels_per_user(7, watches=10**9, users=1) == (7, "")
    assert labels_per_user(AUTO, watches=MOST_LABELS, users=10)[0] == 0
    assert labels_per_user(AUTO, watches=MOST_LABELS + 1, users=400_000)[0] == 25
    assert labels_per_user(AUTO, watches=10**10, users=10**8)[0] == LEAST_PER_USER
    assert labels_per_user(AUTO, watches=1, users=1, preset="paper")[0] == PAPER_PER_USER


def test_watches_that_were_not_completed_are_read_if_they_are_many() -> None:
    assert partial_watches(True, watches=100, completed=100) == (True, "")
    assert partial_watches(AUTO, watches=99, completed=66)[0] and not partial_watches(AUTO, watches=99, completed=67)[0]
    assert not partial_watches(AUTO, watches=0, completed=0)[0]
    many = 10 * MOST_COMPLETED
    assert partial_watches(AUTO, watches=many, completed=MOST_COMPLETED)[0]
    assert not partial_watches(AUTO, watches=many, completed=MOST_COMPLETED + 1)[0]
    assert partial_watches(AUTO, watches=9, completed=1, preset="paper") == (False, 'preset = "paper"')


@pytest.mark.parametrize(
    ("users", "share"),
    [(0, 0.5), (20, 0.5), (3_999, 0.5), (4_000, 0.5), (4_050, 0.5), (4_100, 0.49), (20_000, 0.1), (10**8, 0.05)],
)
def test_about_two_thousand_users_are_held_out(users: int, share: float) -> None:
    assert holdout_share(AUTO, users=users)[0] == share
    assert share == 0.5 or share * users >= HELD_OUT_USERS
    assert holdout_share(0.2, users=users) == (0.2, "")


def test_a_plan_names_the_rules_only_if_they_are_used() -> None:
    assert rules_version({"dimension": 64}, {"strategy": AUTO}) == {}
    assert rules_version({"dimension": 64}, {"epochs": AUTO}) != {}


def test_a_training_resolves_from_its_examples_and_a_warm_one_keeps_the_shape(tmp_path: Path) -> None:
    examples = read_folder(
        write_folder(
            tmp_path / "examples",
            train={"a": random_records(30, seed=1)},
            holdout={"h": random_records(5, seed=2, pointers=1)},
        )
    )
    model = ModelTable(dimension=8, hidden=[16], history=AUTO, loss=AUTO, dropout=AUTO)
    training = TrainingTable(batch_size=32, epochs=AUTO, max_steps=4)
    result = train(examples, str(tmp_path / "1"), model=model, training=training, attempt="1")
    info = json.loads(Path(result.info).read_text())
    assert info["model"]["history"] == result.auto["history"] == "recency" and info["model"]["loss"] == "softmax"
    assert info["training"]["epochs"] == 6
    assert "dimension" not in info["auto"] and set(info["auto"]) >= {"history", "loss", "dropout", "epochs"}
    assert "epochs = 6" in result.auto_note

    earlier = WarmStartSource(state=result.state, name="yesterday", days=1)
    shape, counts = read_shape(result.state), read_label_counts(examples)
    assert shape is not None and shape["history"] == "recency"
    wider = ModelTable(dimension=AUTO, hidden=AUTO, history=AUTO)
    warm = resolve_settings(examples, counts, model=wider, training=training, earlier=earlier)
    assert (warm.model.dimension, warm.model.hidden) == (8, [16]) and "yesterday" in warm.reasons["dimension"]
    cold = wider.model_copy(update={"example_age": False})  # another shape, so that nothing is kept
    assert resolve_settings(examples, counts, model=cold, training=training, earlier=earlier).model.dimension == 64
    gone = WarmStartSource(state=str(tmp_path / "none"), name="gone", days=1)
    assert resolve_settings(examples, counts, model=wider, training=training, earlier=gone).model.dimension == 64


def test_counts_of_the_manifest_replace_counting(tmp_path: Path) -> None:
    records = random_records(9, seed=1)
    holdout = random_records(2, seed=2, pointers=1)
    folder = write_folder(tmp_path / "examples", train={"a": records}, holdout={"h": holdout})
    examples = read_folder(folder)
    counts = read_label_counts(examples)
    training = TrainingTable(epochs=AUTO, early_stopping_epochs=AUTO)
    counted = resolve_settings(examples, counts, model=ModelTable(), training=training)
    assert "7 users" in counted.reasons["early_stopping_epochs"]
    known = type(examples)(**{**vars(examples), "labels": 10**9, "users": 10**6})
    from_manifest = resolve_settings(known, counts, model=ModelTable(), training=training)
    assert (from_manifest.training.epochs, from_manifest.training.early_stopping_epochs) == (1, 2)


@pytest.mark.parametrize(("completed", "share"), [(0, 0.3), (2_000_000, 0.3), (2_000_001, 0.6)])
def test_the_share_of_transitions_grows_with_the_logs(completed: int, share: float) -> None:
    found, reason = transitions_share(AUTO, completed=completed)
    assert found == share and f"{completed:,} completed watches" in reason
    assert transitions_share(0.1, completed=completed) == (0.1, "")
    assert transitions_share(AUTO, completed=completed, preset="paper") == (0.0, 'preset = "paper"')
