"""Settings of the model and of its training: the `[model]` and `[training]` tables of JOB.toml.

`ModelTable` and `TrainingTable` are the tables as written, in which some settings may be "auto". `trainer.auto`
resolves them to `ModelSettings` and `TrainingSettings`, which the trainer uses.

Imports neither TensorFlow nor the rest of the package, so that reading a job file is fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidatorFunctionWrapHandler,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

TRENDS = 3  # numbers per video and moment, see `trainer.trends`
AUTO: Literal["auto"] = "auto"  # the value of a setting that is resolved from the counts of the logs
History = Literal["mean", "recency", "attention"]
LossName = Literal["sampled_softmax", "nce", "in_batch", "mixed", "hard_negatives", "hierarchical_softmax", "softmax"]
Schedule = Literal["constant", "linear"]
Share = Annotated[float, Field(ge=0, lt=1)]
T = TypeVar("T")

# The towers of the paper (figure 6), by depth. A linear layer to `dimension` follows each; depth 0 has only that layer.
DEPTHS = {
    "depth-0": [],
    "depth-1": [256],
    "depth-2": [512, 256],
    "depth-3": [1024, 512, 256],
    "depth-4": [2048, 1024, 512, 256],
}


def named_widths(names: Mapping[str, list[int]]) -> BeforeValidator:
    """Return a validator that replaces one of `names` by its list of widths."""

    def replace(value: object) -> object:
        if not isinstance(value, str):
            return value
        if value not in names:
            raise ValueError(f"must be a list of widths or one of {', '.join(names)}")
        return names[value]

    return BeforeValidator(replace)


class _OrAuto:
    """Validates a setting of type `T | Literal["auto"]` as T unless it is "auto": an error then names one rule only."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: object, validate_value: ValidatorFunctionWrapHandler) -> object:
            return value if value == AUTO else validate_value(value)

        union: Any = handler(source)
        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(validate, union["choices"][0], serialization=as_it_is)


OrAuto = Annotated[T | Literal["auto"], _OrAuto()]


def accepts_auto(field: FieldInfo) -> bool:
    """Return whether a setting may be "auto" to be resolved from the counts of the logs."""
    return any(isinstance(part, _OrAuto) for part in field.metadata)


Widths = Annotated[list[PositiveInt], named_widths(DEPTHS)]


class ModelTable(BaseModel):
    """The `[model]` table: the shape of the user tower and its loss (paper, 3.2 to 3.5)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dimension: OrAuto[PositiveInt] = Field(AUTO, description="length of video, token and user vectors")
    hidden: OrAuto[Widths] = Field(
        AUTO,
        description="widths of the layers before the user vector; or one of the paper's towers by name, `depth-0` "
        "(none) to `depth-4` (2048-1024-512-256)",
    )
    activation: Literal["relu", "elu", "gelu", "leaky_relu", "selu", "swish", "tanh"] = Field(
        "relu", description="of the hidden layers; the paper's is `relu`"
    )
    history: OrAuto[History] = Field(
        AUTO,
        description="encoder of the watch history: `mean` is the paper's; `recency` concatenates the mean, a mean with "
        "learned weights for each position and dimension, and the last video; `attention` is causal self-attention",
    )
    attention_blocks: PositiveInt = Field(2, description="number of self-attention blocks (`attention`)")
    attention_heads: PositiveInt = Field(2, description="heads of each block; must divide `dimension` (`attention`)")
    attention_dropout: float = Field(0.2, ge=0, lt=1, description="share of the blocks' units dropped (`attention`)")
    example_age: bool = Field(
        True,
        description="use the age of the example as a feature (paper, 3.3); false: predictions are an average over the "
        "window, for comparison",
    )
    co_watches: OrAuto[bool] = Field(
        AUTO,
        description="add a decaying sum of the history's vectors to the user vector, and start the tables of a cold "
        "start from a factorisation of co-watch counts: training then begins at the quality of item-to-item",
    )
    shared_vectors: OrAuto[bool] = Field(
        AUTO,
        description="the vector of a video is the sum of its row in the table of the watch history and a row of its "
        "own: training on a video as an input also improves its vector as a label, and vice versa; not with "
        "`hierarchical_softmax`",
    )
    trends: OrAuto[bool] = Field(
        AUTO,
        description="add to the scores how often a video was watched in the last day, the last week and before, as of "
        "each label's day, with weights of each user; not with `hierarchical_softmax`",
    )
    dropout: OrAuto[Share] = Field(AUTO, description="share of the tower's inputs and hidden units dropped")
    history_dropout: OrAuto[Share] = Field(AUTO, description="share of the watches in the input dropped in training")
    loss: OrAuto[LossName] = Field(
        AUTO,
        description="training loss: `sampled_softmax` against drawn negatives; `nce`, a binary classification of each "
        "negative; `in_batch` against the other labels of the batch; `mixed` against both; `hard_negatives` against "
        "drawn ones and the highest-scoring of a large pool; `softmax` against all videos, for small vocabularies; "
        "`hierarchical_softmax`, a tree, for comparison: it has no video vectors, so its lists cannot be published",
    )
    negatives: OrAuto[PositiveInt] = Field(AUTO, description="negatives drawn for each batch, shared by its examples")
    sampler: Literal["label_counts", "learned_unigram"] = Field(
        "label_counts",
        description="how negatives are drawn: by `label_counts` + 1; or (`nce` only) by TensorFlow's sampler, which "
        "learns the counts during training and is not part of checkpoints",
    )
    hard_pool: PositiveInt = Field(20_000, description="videos drawn as the pool of hard negatives (`hard_negatives`)")
    hard_share: float = Field(
        0.1, gt=0, lt=1, description="share of the negatives that score highest in the pool (`hard_negatives`)"
    )
    softmax_limit: PositiveInt = Field(
        20_000, description="largest number of videos that `softmax` accepts, because each step updates all of them"
    )
    preset: Literal["paper"] | None = Field(
        None,
        description="`paper`: settings of [model], [training], `examples.per_user`, `examples.partial_watches` and "
        '`neighbours.transitions` that are `"auto"` have the paper\'s values, and do not follow from the counts of the '
        "logs",
    )

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Self:
        if self.history == "attention" and self.dimension != AUTO and self.dimension % self.attention_heads:
            raise ValueError(
                f"dimension must be a multiple of attention_heads, but {self.dimension} is not a multiple of "
                f"{self.attention_heads}: change one of them"
            )
        for name, value in (("trends", self.trends), ("shared_vectors", self.shared_vectors)):
            if value is True and self.loss == "hierarchical_softmax":
                raise ValueError(
                    f'loss = "hierarchical_softmax" has no video vectors, which {name} = true needs: set it to false, '
                    "or change the loss"
                )
        if self.sampler == "learned_unigram" and self.loss != "nce":
            raise ValueError(
                f'sampler = "learned_unigram" needs loss = "nce", but the loss is "{self.loss}": remove sampler, or '
                "change the loss"
            )
        negatives = self.hard_pool if self.negatives == AUTO else self.negatives
        if self.loss == "hard_negatives" and not 2 <= negatives <= self.hard_pool:
            raise ValueError(
                f"negatives must be at least 2 and at most hard_pool ({self.hard_pool}) with loss = "
                f'"hard_negatives", but is {negatives}'
            )
        return self


class ModelSettings(ModelTable):
    """The resolved settings of a model. The defaults are the paper's values, those of `preset = "paper"`."""

    dimension: PositiveInt = 256
    hidden: Widths = [1024, 512]
    history: History = "mean"
    co_watches: bool = False
    shared_vectors: bool = False
    trends: bool = False
    dropout: Share = 0.0
    history_dropout: Share = 0.0
    loss: LossName = "sampled_softmax"
    negatives: PositiveInt = 2_000


class TrainingTable(BaseModel):
    """The `[training]` table: length, learning rates and devices of a training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: PositiveInt = Field(1024, description="labels in each step")
    epochs: OrAuto[PositiveInt] = Field(AUTO, description="epochs over the examples")
    max_steps: PositiveInt | None = Field(
        None, description="steps after which training ends, even within an epoch; if omitted, it ends after all epochs"
    )
    table_learning_rate: OrAuto[PositiveFloat] = Field(AUTO, description="row-wise Adagrad, for the embedding tables")
    tower_learning_rate: OrAuto[PositiveFloat] = Field(AUTO, description="Adam, for the tower")
    learning_rate_schedule: OrAuto[Schedule] = Field(
        AUTO, description="`linear`: both learning rates fall linearly to a fiftieth over the planned steps"
    )
    minutes: PositiveFloat | None = Field(
        None,
        description="minutes of training steps after which training ends, even within an epoch; interrupted attempts "
        "count, and measurements between epochs do not. If omitted, time is not limited",
    )
    checkpoint_steps: PositiveInt = Field(1000, description="steps between two checkpoints")
    holdout_sample: PositiveInt = Field(2_000, description="held-out users for recall after each epoch")
    early_stopping_epochs: OrAuto[NonNegativeInt] = Field(
        AUTO,
        description="epochs without a better recall@50 after which training ends, with the weights of the best epoch; "
        "0: no early stopping. Recall is measured on the newest label of 5 % of the users who are not held out (at "
        "most `holdout_sample`); the model does not learn from these labels",
    )
    strategy: Literal["auto", "one", "mirrored", "multi_worker", "tpu"] = Field(
        "auto",
        description="`one` device; `mirrored`, all GPUs of this host; `multi_worker`, the hosts in TF_CONFIG; `tpu`, "
        "the one in TPU_NAME; `auto` takes the largest that is available. `batch_size` is that of all devices together",
    )
    seed: int = Field(1, description="seed of all random draws in training")
    cache_bytes: NonNegativeInt = Field(
        2**30, description="training records that take at most this stay in memory; otherwise each epoch reads them"
    )
    warm_start: bool = Field(
        True, description="start from the model of the newest night before this one; false: a cold start every night"
    )
    warm_epochs: PositiveInt | None = Field(None, description="epochs of a warm start; `epochs` if omitted")
    recent_days: OrAuto[NonNegativeInt] = Field(
        AUTO,
        description="age in days below which an epoch of a cold start has every label; of the older ones it has half, "
        "another half in the next epoch, because what is watched changes. 0: each epoch has all labels",
    )
    replay_fraction: float = Field(
        0.2, ge=0, le=1, description="share of older labels that each epoch of a warm start repeats"
    )
    accumulator_damping: float = Field(
        0.9,
        gt=0,
        le=1,
        description="factor of the tables' accumulators in a warm start: a smaller factor lets old rows move further",
    )


class TrainingSettings(TrainingTable):
    """The resolved settings of a training. The defaults are those of `preset = "paper"`."""

    epochs: PositiveInt = 5
    table_learning_rate: PositiveFloat = 0.05
    tower_learning_rate: PositiveFloat = 1e-3
    learning_rate_schedule: Schedule = "constant"
    early_stopping_epochs: NonNegativeInt = 0
    recent_days: NonNegativeInt = 0
