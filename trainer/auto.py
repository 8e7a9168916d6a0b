"""Resolve settings that are "auto" from the counts of the logs, by one table of rules.

    resolved = resolve(ModelTable(), TrainingTable(), LogCounts(labels=10**6, users=50_000, ...))
    resolved.model.history      # "attention"
    resolved.reasons["history"] # "1,000,000 labels, ...; attention from 200,000 to 2,000,000 labels if ..."

These settings are "auto" by default. A value that is set by hand wins. Rules are applied in the order of the table and
may read every setting that is set by hand or resolved before. With `preset = "paper"` the paper's values replace the
rules. Imports no TensorFlow, because doctor and the estimates of resources resolve settings too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.config import AUTO, ModelSettings, ModelTable, TrainingSettings, TrainingTable

RULES_VERSION = 5  # part of the plans of stages: a change of a rule lets them run again
# Kept from the model that a training starts from.
SHAPE = ("history", "co_watches", "shared_vectors", "trends", "dimension", "hidden")

MANY_VIDEOS, WATCHES_PER_VIDEO = 200_000, 20  # above both, vectors have more dimensions
SOFTMAX_VIDEOS = 5_000  # up to which the loss is the full softmax
NEGATIVES = 2_000
DENSE = 20  # watches per video
ATTENTION_LABELS = (200_000, 2_000_000)  # few overfit attention, and many take too long
DAILY_WATCHES = 1  # per video and day, from which the watches of a day tell what rises
TRAINED_LABELS, MOST_EPOCHS = 8_000_000, 6  # labels of all epochs together
RECENT_SHARE = 0.1  # of the window's days, whose labels every epoch of a cold start has
STOPPING_SHARE, LEAST_STOPPING_USERS = 0.05, 200  # of users: the share as in `trainer.stopping`
MOST_LABELS, LEAST_PER_USER, PAPER_PER_USER = 10_000_000, 10, 20  # labels of one epoch, and of a user
# Watches that were not completed are in the histories from this share of all watches, up to so many completed ones:
# those are enough to learn from, and reading the others takes time.
PARTIAL_SHARE, MOST_COMPLETED = 1 / 3, 2_000_000
# Share of the next watches that transitions predict, up to a number of completed watches and above it.
MANY_COMPLETED, FEW_SHARE, MANY_SHARE = 2_000_000, 0.3, 0.6
# Users to measure, and limits of their share. What held-out users watch in the held-out days is learned a night later.
# If all are held out, nothing of these days is learned: lists of simulated logs lost a twentieth of their recall@100,
# and videos of the last day were in no list.
HELD_OUT_USERS, LEAST_HELD_OUT, MOST_HELD_OUT = 2_000, 0.05, 0.5


@dataclass(frozen=True, kw_only=True)
class LogCounts:
    """The counts of a window that rules read."""

    labels: int  # in training records
    users: int  # with a training record, without those who are held out
    videos: int  # in the vocabulary
    watches: int  # completed watches of these videos that a model may learn from
    days: int  # of the window


Chosen = Mapping[str, Any]  # name of a setting in [model] or [training] -> value


@dataclass(frozen=True)
class Rule:
    """How one setting is resolved. `reason` may contain fields of `LogCounts` and the names of settings."""

    choose: Callable[[Chosen, LogCounts], object]
    reason: str


def _is_dense(counts: LogCounts) -> bool:
    return counts.watches >= DENSE * counts.videos


def _history(_: Chosen, counts: LogCounts) -> str:
    least, most = ATTENTION_LABELS
    return "attention" if _is_dense(counts) and least <= counts.labels <= most else "recency"


def _dimension(chosen: Chosen, counts: LogCounts) -> int:
    many = counts.videos > MANY_VIDEOS and counts.watches >= WATCHES_PER_VIDEO * counts.videos
    dimension, heads = 128 if many else 64, chosen["attention_heads"]
    return -(-dimension // heads) * heads if chosen["history"] == "attention" else dimension


def _loss(chosen: Chosen, counts: LogCounts) -> str:
    return "softmax" if counts.videos <= min(SOFTMAX_VIDEOS, chosen["softmax_limit"]) else "sampled_softmax"


def _negatives(chosen: Chosen, _: LogCounts) -> int:
    return min(NEGATIVES, chosen["hard_pool"]) if chosen["loss"] == "hard_negatives" else NEGATIVES


def _table_learning_rate(chosen: Chosen, counts: LogCounts) -> float:
    return 0.02 if chosen["co_watches"] and _is_dense(counts) else 0.05


def _trends(chosen: Chosen, counts: LogCounts) -> bool:
    is_daily = counts.watches >= DAILY_WATCHES * counts.videos * counts.days
    return is_daily and chosen["loss"] != "hierarchical_softmax"


def _epochs(_: Chosen, counts: LogCounts) -> int:
    return min(MOST_EPOCHS, max(1, round(TRAINED_LABELS / max(1, counts.labels))))


def _early_stopping_epochs(chosen: Chosen, counts: LogCounts) -> int:
    return 2 if min(STOPPING_SHARE * counts.users, chosen["holdout_sample"]) >= LEAST_STOPPING_USERS else 0


RULES: dict[str, Rule] = {
    "history": Rule(
        _history,
        f"{{labels:,}} labels, {{watches:,}} watches of {{videos:,}} videos; attention for {ATTENTION_LABELS[0]:,} to "
        f"{ATTENTION_LABELS[1]:,} labels with {DENSE} watches per video, otherwise recency",
    ),
    "loss": Rule(_loss, f"{{videos:,}} videos; softmax up to {SOFTMAX_VIDEOS:,}"),
    "co_watches": Rule(
        lambda chosen, _: chosen["loss"] != "hierarchical_softmax",
        "training begins at the quality of item-to-item (not possible with hierarchical_softmax)",
    ),
    "shared_vectors": Rule(
        lambda chosen, _: chosen["loss"] != "hierarchical_softmax",
        "training on a video as an input also improves its vector as a label (not with hierarchical_softmax)",
    ),
    "trends": Rule(
        _trends,
        f"{{watches:,}} watches of {{videos:,}} videos in {{days:,}} days; from {DAILY_WATCHES} watch per video "
        "and day",
    ),
    "dimension": Rule(
        _dimension,
        f"{{videos:,}} videos, {{watches:,}} watches; 128 above {MANY_VIDEOS:,} videos with {WATCHES_PER_VIDEO} each",
    ),
    "hidden": Rule(lambda *_: [256], "one layer is enough for the short vectors"),
    "dropout": Rule(
        lambda chosen, _: 0.2 if chosen["history"] == "attention" else 0.5,
        "several epochs over the same labels; lower for attention, whose blocks have a dropout of their own",
    ),
    "history_dropout": Rule(lambda *_: 0.3, "several epochs over the same histories"),
    "negatives": Rule(_negatives, f"{NEGATIVES:,}, or hard_pool if it is smaller"),
    "table_learning_rate": Rule(
        _table_learning_rate,
        f"{{watches:,}} watches of {{videos:,}} videos; 0.02 from {DENSE} watches per video if tables start from "
        "co-watch counts",
    ),
    "tower_learning_rate": Rule(lambda *_: 0.001, "the usual rate of Adam"),
    "learning_rate_schedule": Rule(lambda *_: "linear", "the last epochs average out the noise of the first"),
    "epochs": Rule(_epochs, f"{{labels:,}} labels; {TRAINED_LABELS:,} in 1 to {MOST_EPOCHS}"),
    "recent_days": Rule(
        lambda _, counts: math.ceil(RECENT_SHARE * counts.days),
        f"a window of {{days:,}} days; {RECENT_SHARE:.0%} of it",
    ),
    "early_stopping_epochs": Rule(
        _early_stopping_epochs,
        f"{{users:,}} users who are not held out; 0 if {STOPPING_SHARE:.0%} of them, or holdout_sample, are fewer than "
        f"{LEAST_STOPPING_USERS}",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Resolved settings, and the reason of each value that was "auto"."""

    model: ModelSettings
    training: TrainingSettings
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The values of the settings that were "auto", by name."""
        every = {**self.model.model_dump(), **self.training.model_dump()}
        return {name: every[name] for name in self.reasons}

    @property
    def explained(self) -> dict[str, str]:
        """The values with their reasons, by name."""
        return {name: f"{value} ({self.reasons[name]})" for name, value in self.values.items()}

    @property
    def note(self) -> str:
        """One line about all values that were "auto"; empty if there are none."""
        values = ", ".join(f"{name} = {value}" for name, value in self.values.items())
        return f"settings from the counts of the logs: {values}" if values else ""


def auto_names(model: ModelTable, training: TrainingTable) -> list[str]:
    """Return the names of the settings that are "auto", in the order of the rules."""
    return [name for name in RULES if getattr(model if name in ModelTable.model_fields else training, name) == AUTO]


def resolve(
    model: ModelTable,
    training: TrainingTable,
    counts: LogCounts,
    *,
    earlier: Mapping[str, Any] | None = None,
    earlier_name: str = "",
) -> Resolved:
    """Return the settings with a value for each that is "auto".

    `earlier`: the shape of the model that the training starts from, see `warm_start.model_shape`. Its values of the
    settings in `SHAPE` replace those of the rules, so that counts that cross a threshold do not cause a cold start.
    Raises ValidationError if values that are set by hand do not fit the earlier shape.
    """
    names, paper = auto_names(model, training), model.preset == "paper"
    defaults = {**ModelSettings().model_dump(), **TrainingSettings().model_dump()}
    chosen = {**model.model_dump(), **training.model_dump()}
    reasons = {}
    for name in names:
        rule = RULES[name]
        value, reason = rule.choose(chosen, counts), rule.reason.format(**vars(counts))
        if paper:
            value, reason = defaults[name], 'preset = "paper"'
        elif earlier is not None and name in SHAPE:
            kept = earlier.get(name, False)  # a setting that an earlier version did not have was false
            if kept != value:
                reason = f"kept from the model of {earlier_name} for a warm start; a cold start would use {value}"
                value = kept
        chosen[name], reasons[name] = value, reason
    return Resolved(
        model=ModelSettings.model_validate({name: chosen[name] for name in ModelTable.model_fields}),
        training=TrainingSettings.model_validate({name: chosen[name] for name in TrainingTable.model_fields}),
        reasons=reasons,
    )


def labels_per_user(
    per_user: int | Literal["auto"], *, watches: int, users: int, preset: str | None = None
) -> tuple[int, str]:
    """Return the number of labels of a user (0: all) for `examples.per_user`, and the reason if it is "auto".

    `watches`: completed watches of the window that may be labels; `users`: the users who have them.
    """
    if per_user != AUTO:
        return per_user, ""
    if preset == "paper":
        return PAPER_PER_USER, 'preset = "paper"'
    if watches <= MOST_LABELS:
        return 0, f"{watches:,} completed watches; all are labels up to {MOST_LABELS:,}"
    most = max(LEAST_PER_USER, MOST_LABELS // max(1, users))
    return most, f"{watches:,} completed watches of {users:,} users; about {MOST_LABELS:,} labels, or 10 a user"


def partial_watches(
    partial: bool | Literal["auto"], *, watches: int, completed: int, preset: str | None = None
) -> tuple[bool, str]:
    """Return whether histories contain watches that were not completed, and the reason if it is "auto".

    `watches`, `completed`: numbers of watches of the window.
    """
    if partial != AUTO:
        return partial, ""
    if preset == "paper":
        return False, 'preset = "paper"'
    used = watches - completed >= PARTIAL_SHARE * max(1, watches) and completed <= MOST_COMPLETED
    return used, (
        f"{watches - completed:,} of {watches:,} watches were not completed; from {PARTIAL_SHARE:.0%} histories "
        f"contain them, up to {MOST_COMPLETED:,} completed ones"
    )


def transitions_share(
    share: float | Literal["auto"], *, completed: int, preset: str | None = None
) -> tuple[float, str]:
    """Return the share of next watches that transitions predict, for `neighbours.transitions`, and the reason if it is
    "auto".

    `completed`: completed watches of the window. From many of them, transitions are counted more exactly, and the model
    learns each in fewer epochs.
    """
    if share != AUTO:
        return share, ""
    if preset == "paper":
        return 0.0, 'preset = "paper"'
    return MANY_SHARE if completed > MANY_COMPLETED else FEW_SHARE, (
        f"{completed:,} completed watches; {FEW_SHARE} up to {MANY_COMPLETED:,}, {MANY_SHARE} above"
    )


def holdout_share(holdout_users: float | Literal["auto"], *, users: int) -> tuple[float, str]:
    """Return the share of users that are held out for `examples.holdout_users`, and the reason if it is "auto".

    `users`: those who completed a watch in the held-out days, because only they can be measured. The share is a whole
    percentage, rounded up, so that it rarely changes from one night to the next.
    """
    if holdout_users != AUTO:
        return holdout_users, ""
    percent = math.ceil(100 * HELD_OUT_USERS / max(1, users))
    share = min(MOST_HELD_OUT, max(LEAST_HELD_OUT, percent / 100))
    return share, (
        f"{users:,} users completed a watch in the held-out days; about {HELD_OUT_USERS:,} of them, from "
        f"{LEAST_HELD_OUT:.0%} to {MOST_HELD_OUT:.0%}"
    )


def rules_version(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a plan's settings that names the version of the rules: {} if no setting is "auto".

    `tables`: settings as written. `strategy = "auto"` is the choice of devices and not a rule.
    """
    is_auto = any(value == AUTO for table in tables for name, value in table.items() if name != "strategy")
    return {"auto": {"rules": RULES_VERSION}} if is_auto else {}
