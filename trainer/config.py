"""Settings of the model and of its training: the `[model]` and `[training]` tables of JOB.toml.

Imports neither TensorFlow nor the rest of the package, so that reading a job file costs nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class ModelSettings(BaseModel):
    """The `[model]` table: the shape of the user tower and its loss (paper, 3.2 to 3.5)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dimension: PositiveInt = Field(256, description="length of video, token and user vectors")
    hidden: list[PositiveInt] = Field([1024, 512], description="widths of the ReLU layers before the user vector")
    history: Literal["mean", "recency"] = Field(
        "mean",
        description="how the watch history is summed up: `mean` is the paper's; `recency` puts side by side the mean, "
        "a mean with learned weights for each position and dimension, and the last video",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the tower's inputs and hidden units dropped")
    loss: Literal["sampled_softmax"] = Field("sampled_softmax", description="the training loss")
    negatives: PositiveInt = Field(2_000, description="negatives drawn a batch, shared by its examples")


class TrainingSettings(BaseModel):
    """The `[training]` table: how long and how fast the model learns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: PositiveInt = Field(1024, description="labels a step")
    epochs: PositiveInt = Field(5, description="passes over the examples")
    table_learning_rate: PositiveFloat = Field(0.05, description="row-wise Adagrad, for the embedding tables")
    tower_learning_rate: PositiveFloat = Field(1e-3, description="Adam, for the tower")
    checkpoint_steps: PositiveInt = Field(1000, description="steps between two checkpoints")
    holdout_sample: PositiveInt = Field(2_000, description="held-out users that recall is measured on after each epoch")
    seed: int = Field(1, description="seed of everything drawn at random in training")
