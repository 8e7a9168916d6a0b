"""Settings of the model and of its training: the `[model]` and `[training]` tables of JOB.toml.

Imports neither TensorFlow nor the rest of the package, so that reading a job file costs nothing.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

# The paper's towers (figure 6), by depth. Behind each comes the linear layer to `dimension`, which is all of depth 0.
DEPTHS = {
    "depth-0": [],
    "depth-1": [256],
    "depth-2": [512, 256],
    "depth-3": [1024, 512, 256],
    "depth-4": [2048, 1024, 512, 256],
}


class ModelSettings(BaseModel):
    """The `[model]` table: the shape of the user tower and its loss (paper, 3.2 to 3.5)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dimension: PositiveInt = Field(256, description="length of video, token and user vectors")
    hidden: list[PositiveInt] = Field(
        [1024, 512],
        description="widths of the layers before the user vector; or one of the paper's towers by name, `depth-0` "
        "(none) to `depth-4` (2048-1024-512-256)",
    )
    activation: Literal["relu", "elu", "gelu", "leaky_relu", "selu", "swish", "tanh"] = Field(
        "relu", description="of the hidden layers; the paper's is `relu`"
    )
    history: Literal["mean", "recency", "attention"] = Field(
        "mean",
        description="how the watch history is summed up: `mean` is the paper's; `recency` puts side by side the mean, "
        "a mean with learned weights for each position and dimension, and the last video; `attention` reads it in "
        "order with causal self-attention",
    )
    attention_blocks: PositiveInt = Field(2, description="self-attention blocks, one on another (`attention`)")
    attention_heads: PositiveInt = Field(2, description="heads of each, which share `dimension` evenly (`attention`)")
    attention_dropout: float = Field(0.2, ge=0, lt=1, description="share of the blocks' units dropped (`attention`)")
    example_age: bool = Field(
        True,
        description="read how old an example is (paper, 3.3); false: predictions are the average over the window, to "
        "compare with",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the tower's inputs and hidden units dropped")
    loss: Literal[
        "sampled_softmax", "nce", "in_batch", "mixed", "hard_negatives", "hierarchical_softmax", "softmax"
    ] = Field(
        "sampled_softmax",
        description="the training loss: `sampled_softmax` against drawn negatives; `nce`, each negative a yes or no of "
        "its own; `in_batch` against the other labels of the batch; `mixed`, those and drawn ones; `hard_negatives`, "
        "drawn ones and the highest-scoring of many; `softmax` against all videos, for small vocabularies; "
        "`hierarchical_softmax`, a tree, to compare with: it leaves no video vectors, so nothing can be published",
    )
    negatives: PositiveInt = Field(2_000, description="negatives drawn a batch, shared by its examples")
    sampler: Literal["label_counts", "learned_unigram"] = Field(
        "label_counts",
        description="how negatives are drawn: by `label_counts` + 1; or (`nce` alone) by TensorFlow's sampler that "
        "learns the counts while it trains, which no checkpoint holds",
    )
    hard_pool: PositiveInt = Field(20_000, description="videos drawn to find the hard ones among (`hard_negatives`)")
    hard_share: float = Field(
        0.1, gt=0, lt=1, description="share of the negatives that are the pool's highest-scoring (`hard_negatives`)"
    )
    softmax_limit: PositiveInt = Field(
        20_000, description="videos above which `softmax` is refused: each step pays for all"
    )

    @field_validator("hidden", mode="before")
    @classmethod
    def _widths(cls, value: Any) -> Any:
        """A depth's name stands for its widths."""
        if not isinstance(value, str):
            return value
        if value not in DEPTHS:
            raise ValueError(f"must be a list of widths or one of {', '.join(DEPTHS)}")
        return DEPTHS[value]

    @model_validator(mode="after")
    def _heads_share_the_dimension(self) -> Self:
        if self.history == "attention" and self.dimension % self.attention_heads:
            raise ValueError(
                f"dimension must be a multiple of attention_heads, but {self.dimension} is none of "
                f"{self.attention_heads}: change one of them"
            )
        return self

    @model_validator(mode="after")
    def _sampler_fits_the_loss(self) -> Self:
        if self.sampler == "learned_unigram" and self.loss != "nce":
            raise ValueError(
                f'sampler = "learned_unigram" is for loss = "nce" alone, but the loss is "{self.loss}": leave sampler '
                "out, or change the loss"
            )
        return self

    @model_validator(mode="after")
    def _hard_ones_leave_others(self) -> Self:
        if self.loss == "hard_negatives" and not 2 <= self.negatives <= self.hard_pool:
            raise ValueError(
                f"negatives must be at least 2 and at most hard_pool ({self.hard_pool}) for hard_negatives to be "
                f"chosen, but is {self.negatives}"
            )
        return self


class TrainingSettings(BaseModel):
    """The `[training]` table: how long and how fast the model learns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: PositiveInt = Field(1024, description="labels a step")
    epochs: PositiveInt = Field(5, description="passes over the examples")
    max_steps: PositiveInt | None = Field(
        None, description="steps after which training ends, within a pass too; where left out, after all passes"
    )
    table_learning_rate: PositiveFloat = Field(0.05, description="row-wise Adagrad, for the embedding tables")
    tower_learning_rate: PositiveFloat = Field(1e-3, description="Adam, for the tower")
    checkpoint_steps: PositiveInt = Field(1000, description="steps between two checkpoints")
    holdout_sample: PositiveInt = Field(2_000, description="held-out users that recall is measured on after each epoch")
    early_stopping_epochs: NonNegativeInt = Field(
        0,
        description="passes without a better recall@50 after which training ends, with the weights of the best pass; "
        "0: never. Measured on the newest label of 5 % of the users who are not held out (at most `holdout_sample`), "
        "which is then not learned from",
    )
    strategy: Literal["auto", "one", "mirrored", "multi_worker", "tpu"] = Field(
        "auto",
        description="`one` device; `mirrored`, all GPUs of this host; `multi_worker`, the hosts in TF_CONFIG; `tpu`, "
        "the one in TPU_NAME; `auto` takes the largest of these that it finds. `batch_size` is that of all together",
    )
    seed: int = Field(1, description="seed of everything drawn at random in training")
    cache_bytes: NonNegativeInt = Field(
        2**30, description="training records are kept in memory if they take no more; else read anew each pass"
    )
    warm_start: bool = Field(
        True, description="go on from the model of the newest night before this one; false: from nothing every night"
    )
    warm_epochs: PositiveInt | None = Field(
        None, description="passes of a night that goes on from an earlier model; `epochs` where left out"
    )
    replay_fraction: float = Field(
        0.2, ge=0, le=1, description="share of the labels older than the earlier model that each of its passes repeats"
    )
    accumulator_damping: float = Field(
        0.9,
        gt=0,
        le=1,
        description="what is kept of the tables' accumulators when going on: the less, the further old rows can move",
    )
