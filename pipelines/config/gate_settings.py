"""The `[gates]` table: what a night must not fall below to be published, and how each gate is switched off."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, model_validator

from pipelines.config.settings import Table


class Gates(Table):
    """The `[gates]` table: what a night must pass, or the lists served before it stay (stage publish)."""

    most_popular: bool = Field(
        True,
        description="whether recall@k must not lie below that of the most popular videos beyond doubt (the upper 95 % "
        "bound of the difference is negative): lists that anybody could make are worth no model; false: off",
    )
    ranking: bool = Field(
        True,
        description="whether the watch time that held-out users find among the first `ranking.cut` of their lists must "
        "not be below that of the neighbours' own order beyond doubt; false: off",
    )
    max_recall_lost: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the recall@k of the night before that may be lost, beyond doubt, and beyond what the "
        "most popular videos lost: days differ, and with many users the smallest difference is beyond doubt; 1: off",
    )
    max_ann_shortfall: float = Field(
        0.05,
        ge=0,
        le=1,
        description="by how much the index's measured recall may miss `index.recall`: what search does not find, "
        "nobody is shown; 1: off",
    )
    max_ann_loss: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the held-out users' recall@k by exact search that approximate search may lose, beyond "
        "doubt; 1: off",
    )
    max_users_lost: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share by which the users served may be fewer than the night before: logs are missing, mostly; "
        "1: off",
    )
    min_coverage: float = Field(
        0.005,
        ge=0,
        le=1,
        description="distinct videos in the lists, as a share of all that could be: the candidates, or the places in "
        "the lists where those are fewer. A model that has collapsed shows few; 0: off",
    )
    max_sameness: float = Field(
        0.8,
        gt=0,
        le=1,
        description="how alike the lists of two users are: 0 as by chance, 1 the same list for everyone; 1: off",
    )
    max_rejects: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of the rows read that were refused, where `logs.max_reject_fraction` let more pass: what is "
        "refused is missing from all that is learned; 1: off",
    )
    min_stayed: float = Field(
        0.1,
        ge=0,
        le=1,
        description="mean share of a user's list that must stay from the night before: of one day's news, tastes do "
        "not change altogether; 0: off",
    )
    max_stayed: PositiveFloat = Field(
        0.999, le=1, description="the same at most: above, nothing new was learned; 1: off"
    )
    same_night: bool = Field(
        True,
        description="whether tower, video vectors, index and lists must be of one training: those of two do not fit "
        "each other, whatever each is worth; false: off",
    )
    min_volume: float = Field(
        0.7,
        ge=0,
        description="events of the newest day at least, against the fewest of any of the 7 days before it: a part of "
        "the logs is missing; 0: off",
    )
    max_volume: float = Field(
        2.0,
        ge=0,
        description="the same at most, against the most of any of them: logs were sent twice under other names; 0: off",
    )
    max_skew: float = Field(
        0.25,
        ge=0,
        description="population stability index of each feature, between the newest training record and the serving "
        "record of the same users: above it beyond doubt, the model is served what it was not trained on; 0: off",
    )
    stop_if_not_computed: bool = Field(
        False,
        description="whether a gate that cannot be computed for a reason that is not expected (figures of the night "
        "before that are missing or unreadable, a figure that is not a finite number, lists of another length without "
        "a k in common) stops the night as a failed gate does; false: the night is published with a warning, and its "
        "status is ungated. A first night and one without held-out users are expected",
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Gates:
        for name in ("stayed", "volume"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high > 0:
                raise ValueError(f"min_{name} must not be above max_{name} ({high:g}), but is {low:g}")
        return self
