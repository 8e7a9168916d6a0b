"""Warm start of a ranker: a training that goes on from the ranker of an earlier night, with rows matched by name.

    step, start = prepare_ranker(earlier, build, spec=spec, settings=settings)
    carry_ranker(step, start, vocabularies)

Tables are carried as those of the retrieval model are (`trainer.warm_start`). The first layer's weights follow their
inputs by feature: a feature that the earlier ranker did not have starts with weights of 0, so that the ranker predicts
what the earlier one predicted. All other variables and the state of the optimizers continue.

A ranker of another shape, or one with a feature that this one lacks, cannot be continued: the training starts cold and
reports why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from trainer.examples import Vocabulary
from trainer.ranker.config import RankerSettings
from trainer.ranker.model import PARTS, Ranker
from trainer.ranker.step import RankerStep
from trainer.state import dense_variables
from trainer.warm_start import Start, WarmStartSource, carry_table, shape_difference
from transforms.contracts.ranking_spec import RankingSpec

ACCUMULATOR_DAMPING = 0.9  # of the tables' accumulators each night, as in [training]
# Settings that determine the variables, or what they and the output mean.
_SHAPE_SETTINGS = ("hidden", "powers", "positive_weights")


def ranker_shape(spec: RankingSpec, settings: RankerSettings, ranker: Ranker | None = None) -> dict[str, object]:
    """Return what must be equal for the variables of one ranker to have the same meaning in another.

    With `ranker`, includes `tables`, the vector length of each table, and `inputs`, the names of the first layer's
    inputs in order. Those of an earlier ranker must be among those of a later one.
    """
    shape: dict[str, object] = {name: settings.model_dump()[name] for name in _SHAPE_SETTINGS}
    shape |= {"watch_history": spec.watch_history, "search_history": spec.search_history}
    if ranker is not None:
        shape["tables"] = {name: table.dimension for name, table in sorted(ranker.tables.items())}
        shape["inputs"] = input_names(ranker)
    return shape


def input_names(ranker: Ranker) -> list[str]:
    """Return the name of each input of the first layer, in order: the part, the feature, and its number there."""
    names = []
    for part in PARTS:
        columns = [""] * ranker.width(part)
        for feature, places in ranker.columns[part].items():
            for number, place in enumerate(places):
                columns[place] = f"{part}/{feature}/{number}"
        names += columns
    return names


def prepare_ranker(
    earlier: WarmStartSource | None,
    build: Callable[[Mapping[str, int]], RankerStep],
    *,
    spec: RankingSpec,
    settings: RankerSettings,
) -> tuple[RankerStep, Start]:
    """Return a step with newly initialised variables, and the start that is possible.

    `build`: returns a step for given vector lengths of tables. Those of the earlier ranker are kept, because they grow
    with the size of the vocabulary.
    """
    start = Start.read(earlier)
    if earlier is None or start.state is None:
        return build({}), start
    state = start.state
    why = shape_difference(state.shape, ranker_shape(spec, settings))
    if not why:
        step = build(state.shape["tables"])
        lost = [name for name in state.shape["tables"] if name not in step.ranker.tables]
        present = {_feature(name) for name in input_names(step.ranker)}
        lost += [name for name in dict.fromkeys(map(_feature, state.shape["inputs"])) if name not in present]
        if not lost:
            return step, start
        why = f"{', '.join(dict.fromkeys(lost))} is no feature any more, but was one"
    return build({}), Start(earlier=earlier, why=f"cold start: {why} in the ranker of {earlier.name}")


def carry_ranker(step: RankerStep, start: Start, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Set the variables of a new step from the earlier ranker; do nothing in a cold start.

    `vocabularies`: those of this night. A table without one, then or now, keeps its initial rows.
    """
    if start.state is None:
        return
    for name, saved in start.state.tables.items():
        if vocabulary := vocabularies.get(name):
            table, accumulator = step.adagrad.tables[name], step.adagrad.accumulators[name]
            carry_table(table, accumulator, saved, vocabulary, damping=ACCUMULATOR_DAMPING)
    rows = {name: row for row, name in enumerate(start.state.shape["inputs"])}
    sources = np.array([rows.get(name, -1) for name in input_names(step.ranker)])
    kernel = next(i for i, variable in enumerate(step.adam.targets) if variable is step.ranker.layers[0].kernel)
    first = {f"{kind}_{kernel}" for kind in ("value", "first", "second")}
    for name, variable in dense_variables(step).items():
        values = start.state.dense[name]
        variable.assign(_rows(values, sources) if name in first else values)


def _rows(values: npt.NDArray[np.float32], sources: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the rows of a matrix, and zeros for source -1."""
    found = values[np.maximum(sources, 0)]
    found[sources < 0] = 0
    return found


def _feature(name: str) -> str:
    return name.split("/")[1]
