"""Warm start: a training that starts from the model of an earlier night, with rows matched by name.

    step, start = prepare_start(earlier, build, spec=spec, settings=settings)
    start.carry_over(step, vocabularies, damping=0.5)

A name that the earlier model had keeps its row. A new name starts near the mean of the rows that are about as frequent.
A name that is gone is dropped. Dense variables and the state of the optimizers continue. Accumulators are damped,
because Adagrad's steps shrink with everything that a row has seen, and an old row must follow its video.

A model of another shape cannot be continued: the training starts cold and reports why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trainer.batch import WATCHES
from trainer.config import ModelSettings, TrainingSettings
from trainer.errors import TrainingError
from trainer.examples import Vocabulary
from trainer.replay import Replay
from trainer.state import ROWS_AT_ONCE, SavedState, SavedTable, dense_variables, table_vocabulary
from trainer.step import TrainingStep
from trainer.tables import Table
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf

COLD_FRACTION = 0.5  # of the labels that are not recent, in an epoch of a cold start
NEW_ROW_NOISE = 0.1  # share of a new model's random initial row: it separates new rows of the same frequency
# Settings that may change from night to night. The others determine the variables, or what they mean.
SHAPE_INDEPENDENT_SETTINGS = {
    *("loss", "negatives", "sampler", "hard_pool", "hard_share", "softmax_limit"),
    *("dropout", "attention_dropout", "history_dropout", "preset"),
}
# `from`: the name of the earlier model, None in a cold start; `why`: the reason of a cold start, or ""; `rows`: for
# each vocabulary how many of its names the earlier model had (`known`), and how many it has (`names`).
StartSummary = TypedDict("StartSummary", {"from": str | None, "why": str, "rows": dict[str, dict[str, int]]})
_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class WarmStartSource:
    """The model to start from."""

    state: str  # folder, as `state.write_state` writes it
    name: str  # for messages: the date of its night
    days: int  # the new window ends so many days after the one of this model: younger labels are new to it


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a training starts. A cold start has no `state`, and `why` has the reason if a user should know it."""

    earlier: WarmStartSource | None = None
    state: SavedState | None = None
    why: str = ""

    @classmethod
    def read(cls, earlier: WarmStartSource | None) -> Start:
        """Return a start from the state of an earlier model; a cold one if there is none, or if it cannot be read."""
        if earlier is None:
            return cls()
        try:
            return cls(earlier=earlier, state=SavedState.read(earlier.state))
        except TrainingError as error:
            return cls(earlier=earlier, why=f"cold start: {error}")

    def carry_over(self, step: TrainingStep, vocabularies: Mapping[str, Vocabulary], *, damping: float) -> None:
        """Set the variables of a new step from the earlier model; do nothing in a cold start.

        `vocabularies`: those of this night. A table whose vocabulary has no names, then or now, keeps its initial rows.
        """
        if self.state is None:
            return
        for name, saved in self.state.tables.items():
            if vocabulary := vocabularies.get(table_vocabulary(name)):
                table, accumulator = step.adagrad.tables[name], step.adagrad.accumulators[name]
                partial_rows = step.model.tower.spec.partial_rows if name == WATCHES else 0
                carry_table(table, accumulator, saved, vocabulary, partial_rows=partial_rows, damping=damping)
        for name, variable in dense_variables(step).items():
            variable.assign(self.state.dense[name])

    def summary(self, vocabularies: Mapping[str, Vocabulary]) -> StartSummary:
        """Return how the training started, for users. It has no `rows` in a cold start."""
        saved = {table_vocabulary(name): table for name, table in self.state.tables.items()} if self.state else {}
        rows = {}
        for name in sorted(saved.keys() & vocabularies.keys()):
            names = vocabularies[name].names
            rows[name] = {"known": pc.sum(pc.is_in(names, saved[name].names)).as_py() or 0, "names": len(names)}
        return {"from": self.earlier.name if self.earlier and self.state else None, "why": self.why, "rows": rows}

    def adjust_settings(self, settings: TrainingSettings) -> TrainingSettings:
        """Return the settings with the number of epochs for this start."""
        if self.state is None or settings.warm_epochs is None:
            return settings
        return settings.model_copy(update={"epochs": settings.warm_epochs})

    def replay(self, settings: TrainingSettings) -> Replay | None:
        """Return which labels to learn from; None for all."""
        if self.state is not None and self.earlier is not None:
            return Replay(days=self.earlier.days, fraction=settings.replay_fraction, salt=self.earlier.name)
        if settings.recent_days:
            return Replay(days=settings.recent_days, fraction=COLD_FRACTION, salt="cold start")
        return None


def prepare_start(
    earlier: WarmStartSource | None,
    build: Callable[[Mapping[str, int]], TrainingStep],
    *,
    spec: FeatureSpec,
    settings: ModelSettings,
) -> tuple[TrainingStep, Start]:
    """Return a step with newly initialised variables, and the start that is possible.

    `build`: returns a step for given vector lengths of categories. Those of the earlier model are kept, because a few
    more values of a category would otherwise change the shape of the tower.
    """
    start = Start.read(earlier)
    if earlier is None or start.state is None:
        return build({}), start
    state = start.state
    why = shape_difference(state.shape, model_shape(spec, settings))
    if not why:
        step = build({name: state.shape["tables"][name] for name in spec.categories})
        why = shape_difference(state.shape, model_shape(spec, settings, step))
        if not why:
            return step, start
    return build({}), Start(earlier=earlier, why=f"cold start: {why} in the model of {earlier.name}")


def model_shape(spec: FeatureSpec, settings: ModelSettings, step: TrainingStep | None = None) -> dict[str, object]:
    """Return everything that must be equal for the variables of one model to have the same meaning in another.

    With `step`, includes the shapes of its variables.
    """
    shape: dict[str, object] = {}
    shape |= {name: value for name, value in settings.model_dump().items() if name not in SHAPE_INDEPENDENT_SETTINGS}
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
        shape["variables"] = {name: variable.shape.as_list() for name, variable in dense_variables(step).items()}
    return shape


def shape_difference(earlier: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Return a message about the first item of `new` that differs in `earlier`; "" if none does.

    A setting that models of earlier versions did not have was false.
    """
    for name, value in new.items():
        was = earlier.get(name, False if isinstance(value, bool) else "unknown")
        if was != value:
            return f"{name} is {value}, but was {was}"
    return ""


def carry_table(
    table: Table,
    accumulator: tf.Variable,
    saved: SavedTable,
    vocabulary: Vocabulary,
    *,
    damping: float,
    partial_rows: int = 0,
) -> None:
    """Set a table and its accumulators from a saved table, block by block; do nothing if no row is known.

    Known rows keep their vectors, and their accumulators times `damping`. New rows get the means of their frequency
    buckets plus noise, and accumulators of 0. `partial_rows`: the number of last rows, for watches that were not
    completed; new ones are zeros.
    """
    size = table.size - partial_rows
    sources = source_rows(vocabulary.names, saved, size=size)
    if not (sources > 0).any():
        return
    buckets = frequency_buckets(vocabulary, size=size)
    # Biases start from counts and not from random draws.
    noise = NEW_ROW_NOISE if table.dimension > 1 else 0.0
    means = bucket_means(saved, sources, buckets) if (sources[1:] == 0).any() else None
    sources = np.concatenate([sources, partial_sources(sources, saved, len(vocabulary.names), partial_rows)])
    buckets = np.pad(buckets, [0, partial_rows])
    for block in _blocks(table.size):
        rows, known = saved.rows[sources[block]], sources[block] > 0
        fresh = ~known & (np.arange(block.start, block.stop) <= size)
        if means is not None and fresh.any():
            initial = table.weights[block].numpy()[fresh]
            rows[fresh] = means[buckets[block][fresh]] + noise * initial
        ids = tf.range(block.start, block.stop)
        table.weights.scatter_update(tf.IndexedSlices(rows, ids))
        damped = np.where(known, damping * saved.accumulators[sources[block]], 0).astype(np.float32)
        accumulator.scatter_update(tf.IndexedSlices(damped, ids))


def source_rows(names: pa.Array, saved: SavedTable, *, size: int) -> _Ints:
    """Return for each row of a table of `size`, int64 [1 + size], its row in `saved`; 0 if it has none.

    Rows without names come after those with names, and correspond by their order.
    """
    named = pc.fill_null(pc.index_in(names, value_set=saved.names), -1).to_numpy(zero_copy_only=False) + 1
    unnamed = np.arange(size - len(names)) + 1 + len(saved.names)
    return np.concatenate([[0], named, np.where(unnamed < len(saved.rows), unnamed, 0)]).astype(np.int64)


def partial_sources(sources: _Ints, saved: SavedTable, names: int, partial_rows: int) -> _Ints:
    """Return the rows in `saved`, int64 [partial_rows], of watches that were not completed; 0 if it has none.

    `sources`: the rows in `saved` of the `names` of the vocabulary from 1, and of the shared rows after them.
    """
    named, shared_rows = sources[1 : 1 + partial_rows], len(sources) - 1 - names
    offset = len(saved.names) + shared_rows
    has_partial_rows = len(saved.rows) > 1 + offset
    return np.where((named > 0) & has_partial_rows, named + offset, 0)


def frequency_buckets(vocabulary: Vocabulary, *, size: int) -> _Ints:
    """Return for each row of a table of `size`, int64 [1 + size], the logarithm of its count, rounded down.

    Rows without names are in bucket 0.
    """
    buckets = np.zeros(size + 1, np.int64)
    buckets[1 : 1 + len(vocabulary.counts)] = np.log2(vocabulary.counts + 1)
    return buckets


def bucket_means(saved: SavedTable, sources: _Ints, buckets: _Ints) -> _Floats:
    """Return the mean saved row of each frequency bucket, float [buckets, dimension], over the known rows.

    A bucket without a known row has the mean of the nearest bucket that has one; there must be at least one.
    """
    size = int(buckets.max()) + 1
    sums, counts = np.zeros((size, saved.rows.shape[1])), np.zeros(size)
    for block in _blocks(len(sources) - 1):
        member = (np.arange(size)[:, None] == buckets[block]) & (sources[block] > 0)
        sums += member.astype(np.float32) @ saved.rows[sources[block]]
        counts += member.sum(axis=1)
    filled = np.flatnonzero(counts)
    nearest = filled[np.abs(filled - np.arange(size)[:, None]).argmin(axis=1)]
    return (sums[nearest] / counts[nearest][:, None]).astype(np.float32)


def _blocks(size: int) -> Iterator[slice]:
    """Yield the rows 1 to `size` in slices of at most `ROWS_AT_ONCE`."""
    for start in range(1, size + 1, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, size + 1))
