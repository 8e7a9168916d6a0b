"""Going on from the model of an earlier night: rows by their names, optimisers where they stood.

    step, start = begin(earlier, build, spec=spec, settings=settings)
    start.carry_over(step, names, damping=0.5)

What is known keeps its row, wherever the new vocabulary puts it; what is new starts near the mean of what is about as
frequent; what is gone is gone. Accumulators are damped: Adagrad's steps shrink with all that a row has ever seen, and a
row of last month could no longer follow its video.

A model of another shape cannot be gone on from: the training starts from nothing and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trainer.config import ModelSettings, TrainingSettings
from trainer.errors import TrainingError
from trainer.examples import Names
from trainer.replay import Replay
from trainer.state import ROWS_AT_ONCE, SavedState, SavedTable, dense_of, vocabulary_of
from trainer.step import TrainingStep
from trainer.tables import Table
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

SPREAD = 0.1  # of the draws rows start from in a new model: keeps new rows of the same frequency apart
# Settings that may change from night to night: the others say what the variables are, or what they mean.
FREE_SETTINGS = {
    *("loss", "negatives", "sampler", "hard_pool", "hard_share", "softmax_limit"),
    *("dropout", "attention_dropout"),
}
_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The model to go on from."""

    state: str  # folder, as `state.write_state` leaves it
    name: str  # which it is, for people: the date of its night
    days: int  # this window ends so many days after the one it learned from: labels younger than that are new to it


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a training begins. Cold: `state` is None, and `why` says why where a person should know."""

    earlier: Earlier | None = None
    state: SavedState | None = None
    why: str = ""

    def carry_over(self, step: TrainingStep, names: Mapping[str, Names], *, damping: float) -> None:
        """Give a new step all that the earlier model knew; nothing where the start is cold.

        `names`: of this night's vocabularies. A table without names, then or now, stays as drawn.
        """
        if self.state is None:
            return
        for name, saved in self.state.tables.items():
            if vocabulary_of(name) in names:
                table, accumulator = step.adagrad.tables[name], step.adagrad.accumulators[name]
                _carry_table(table, accumulator, saved, names[vocabulary_of(name)], damping)
        for name, variable in dense_of(step).items():
            variable.assign(self.state.dense[name])

    def known(self, names: Mapping[str, Names]) -> dict[str, int]:
        """How many names of each vocabulary the earlier model had a row of; {} where the start is cold."""
        saved = {vocabulary_of(name): table for name, table in self.state.tables.items()} if self.state else {}
        both = sorted(saved.keys() & names.keys())
        return {name: pc.sum(pc.is_in(names[name].names, saved[name].names)).as_py() or 0 for name in both}

    def told(self, names: Mapping[str, Names]) -> dict[str, Any]:
        """How the training began, for people: `from`, null where it began from nothing; `why`; and of each vocabulary
        how many names the earlier model had, `known`, of how many, `names`."""
        known = self.known(names)
        found = {name: {"known": n, "names": len(names[name].names)} for name, n in known.items()}
        return {"from": self.earlier.name if self.earlier and self.state else None, "why": self.why, "rows": found}

    def settings_of(self, settings: TrainingSettings) -> TrainingSettings:
        """The settings with as many passes as this start needs."""
        if self.state is None or settings.warm_epochs is None:
            return settings
        return settings.model_copy(update={"epochs": settings.warm_epochs})

    def replay(self, fraction: float) -> Replay | None:
        """Which labels to learn from; None: all of them."""
        if self.state is None or self.earlier is None:
            return None
        return Replay(days=self.earlier.days, fraction=fraction, salt=self.earlier.name)


def begin(
    earlier: Earlier | None,
    build: Callable[[Mapping[str, int]], TrainingStep],
    *,
    spec: FeatureSpec,
    settings: ModelSettings,
) -> tuple[TrainingStep, Start]:
    """A step whose variables are as drawn, and the start it may have.

    `build`: makes a step from the lengths that some categories' vectors have: those of the earlier model, as a value
    more or less would else change the tower's shape.
    """
    if earlier is None:
        return build({}), Start()
    try:
        state = SavedState.read(earlier.state)
    except TrainingError as error:
        return build({}), Start(earlier=earlier, why=f"cold start: {error}")
    why = difference(state.shape, shape_of(spec, settings))
    if not why:
        step = build({name: state.shape["tables"][name] for name in spec.categories})
        why = difference(state.shape, shape_of(spec, settings, step))
        if not why:
            return step, Start(earlier=earlier, state=state)
    return build({}), Start(earlier=earlier, why=f"cold start: {why} in the model of {earlier.name}")


def shape_of(spec: FeatureSpec, settings: ModelSettings, step: TrainingStep | None = None) -> dict[str, Any]:
    """All that must be the same for one model's variables to mean the same in another; of `step` their own shapes."""
    shape = {name: value for name, value in settings.model_dump().items() if name not in FREE_SETTINGS}
    if settings.history != "attention":
        shape = {name: value for name, value in shape.items() if not name.startswith("attention_")}
    shape |= {
        "watch_history": spec.watch_history,
        "searches": spec.tokens > 0,
        "categories": sorted(spec.categories),
        "numbers": sorted(spec.numbers),
        "shared_rows": spec.shared_rows,
    }
    if step is not None:
        shape["tables"] = {name: table.dimension for name, table in sorted(step.adagrad.tables.items())}
        shape["variables"] = {name: variable.shape.as_list() for name, variable in dense_of(step).items()}
    return shape


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing of `now` that was another `then`, in words; empty where nothing was."""
    for name, value in now.items():
        if name not in then or then[name] != value:
            return f"{name} is {value}, but was {then.get(name, 'unknown')}"
    return ""


def earlier_rows(names: pa.Array, saved: SavedTable, *, size: int) -> _Ints:
    """For each row of a table of `size`, int64 [1 + size], the row that was its in `saved`; 0 where there was none.

    Rows behind the named ones are known by their place among themselves.
    """
    named = pc.fill_null(pc.index_in(names, value_set=saved.names), -1).to_numpy(zero_copy_only=False) + 1
    behind = np.arange(size - len(names)) + 1 + len(saved.names)
    return np.concatenate([[0], named, np.where(behind < len(saved.rows), behind, 0)]).astype(np.int64)


def _carry_table(table: Table, accumulator: tf.Variable, saved: SavedTable, names: Names, damping: float) -> None:
    """Fill a table and its accumulators, part by part; where no row is known, all stay as drawn."""
    then = earlier_rows(names.names, saved, size=table.size)
    if not (then > 0).any():
        return
    kinds = np.zeros(table.size + 1, np.int64)  # of rows that are about as frequent
    kinds[1 : 1 + len(names.counts)] = np.log2(names.counts + 1)
    spread = SPREAD if table.dimension > 1 else 0.0  # biases start from counts, not from draws
    means = None if (then[1:] > 0).all() else _means(saved, then, kinds)
    for start in range(1, table.size + 1, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, table.size + 1))
        rows, known = saved.rows[then[part]], then[part] > 0
        if means is not None and not known.all():
            drawn = table.weights[part].numpy()[~known]
            rows[~known] = means[kinds[part][~known]] + spread * drawn
        ids = tf.range(part.start, part.stop)
        table.weights.scatter_update(tf.IndexedSlices(rows, ids))
        kept = np.where(known, damping * saved.accumulators[then[part]], 0).astype(np.float32)
        accumulator.scatter_update(tf.IndexedSlices(kept, ids))


def _means(saved: SavedTable, then: _Ints, kinds: _Ints) -> _Floats:
    """The mean row of each kind, [kinds, dimension], over those that were known; of the nearest kind that has any."""
    size = int(kinds.max()) + 1
    sums, counts = np.zeros((size, saved.rows.shape[1])), np.zeros(size)
    for start in range(1, len(then), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        member = (np.arange(size)[:, None] == kinds[part]) & (then[part] > 0)
        sums += member.astype(np.float32) @ saved.rows[then[part]]
        counts += member.sum(axis=1)
    filled = np.flatnonzero(counts)
    nearest = filled[np.abs(filled - np.arange(size)[:, None]).argmin(axis=1)]
    return (sums[nearest] / counts[nearest][:, None]).astype(np.float32)
