"""Settings of the ranker and of its training: part of the `[ranking]` table of JOB.toml.

Does not import TensorFlow, so that reading a job file is fast.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from trainer.config import AUTO, OrAuto, named_widths

# The paper's rankers (table 1).
TOWERS = {
    "none": [],
    "256": [256],
    "512": [512],
    "1024": [1024],
    "512-256": [512, 256],
    "1024-512": [1024, 512],
    "1024-512-256": [1024, 512, 256],
}


class RankerSettings(BaseModel):
    """The shape of the ranker, its loss and its training (paper, 4.1 and 4.2)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: Annotated[list[PositiveInt], named_widths(TOWERS)] = Field(
        [256],
        description="widths of the ReLU layers; or one of the paper's rankers by name: `none`, `256`, `512`, `1024`, "
        "`512-256`, `1024-512`, `1024-512-256`",
    )
    powers: bool = Field(True, description="use squares and square roots of the numbers as features (paper, 4.1)")
    positive_weights: Literal["watch_seconds", "exact", "equal"] = Field(
        "exact",
        description="weight of a clicked impression in the loss: `exact`, its watch time, and also 1 as a negative, "
        "with odds of the expected seconds however frequent clicks are; `watch_seconds`, the paper's, only the watch "
        "time, with odds of about the expected seconds if clicks are rare; `equal`, 1 as for all others, with the odds "
        "of a click, for comparison",
    )
    epochs: OrAuto[PositiveInt] = Field(AUTO, description="epochs over the impressions")
    batch_size: PositiveInt = Field(1024, description="impressions in each step")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of inputs and hidden units dropped")
    table_learning_rate: PositiveFloat = Field(0.05, description="row-wise Adagrad, for the embedding tables")
    tower_learning_rate: PositiveFloat = Field(1e-3, description="Adam, for the layers")
    warm_start: bool = Field(
        True,
        description="go on from the ranker of the newest night before this one, with the impressions that are new to "
        "it and a share of older ones; false: learn the whole window every night",
    )
    seed: int = Field(1, description="seed of all random draws in training")
    cache_bytes: NonNegativeInt = Field(
        2**28, description="training records that take at most this stay in memory; otherwise each epoch reads them"
    )
