"""The `[ranking]` table: how lists are re-ordered by expected watch time (stage ranking)."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from trainer.ranker.config import RankerSettings


class Ranking(RankerSettings):
    """The `[ranking]` table: lists by expected watch time, where impressions are given (stage ranking)."""

    candidates: NonNegativeInt = Field(
        50, description="first videos of each list that are put in order; 0: none, lists stay as neighbours left them"
    )
    video_vocabulary: PositiveInt = Field(100_000, description="most clicked videos that get an embedding")
    channel_vocabulary: PositiveInt = Field(10_000, description="most clicked channels that get an embedding")
    watch_history: PositiveInt = Field(50, description="most recent watches in the input")
    cut: PositiveInt = Field(
        10, description="first videos of a list, in either order, whose watch time the two are compared by"
    )
