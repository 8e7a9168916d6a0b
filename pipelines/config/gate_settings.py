"""The `[gates]` table: the quality bounds that a night must meet to be published, and how to switch off each gate."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from pipelines.config.settings import PositiveShare, Share, Table


class Gates(Table):
    """The `[gates]` table: checks that a night must pass to be published; otherwise the previous lists stay served
    (stage publish)."""

    most_popular: bool = Field(
        True,
        description="whether the gate fails if recall@k is significantly below that of the most popular videos (the "
        "upper bound of the 95 % interval of the difference is negative); false: off",
    )
    item_to_item: bool = Field(
        True,
        description="whether the gate fails if recall@k is significantly below that of item-to-item lists: the videos "
        "watched together with a user's last ones (the upper bound of the 95 % interval of the difference is "
        "negative); false: off",
    )
    ranking: bool = Field(
        True,
        description="whether the gate fails if the watch time of held-out users in the first `ranking.cut` videos of "
        "their lists is significantly below that of the lists in the order of stage neighbours; false: off",
    )
    max_ranking_loss: Share = Field(
        0.1,
        description="share of the recall of held-out users' videos in the first `ranking.cut` videos of their lists "
        "that ranking by watch time may lose, compared with the order of stage neighbours; only a significant loss "
        "fails; 1: off",
    )
    max_calibration_error: NonNegativeFloat = Field(
        0.05,
        description="relative error of the mean expected seconds of held-out impressions, compared with the seconds "
        "watched; only an error significantly above it fails; 0: off",
    )
    max_decile_error: NonNegativeFloat = Field(
        0.2,
        description="the same in each tenth of the impressions by expected seconds; tenths with fewer than 50 clicks "
        "do not count; 0: off",
    )
    max_recall_lost: Share = Field(
        0.1,
        description="share of the previous night's recall@k that may be lost, after subtracting what the most popular "
        "videos lost. Only a significant loss fails; because days differ, the loss must also exceed this share; 1: off",
    )
    max_ann_shortfall: Share = Field(
        0.05, description="how far the measured recall of the index may lie below `index.recall`; 1: off"
    )
    max_ann_loss: Share = Field(
        0.05,
        description="share of exact search's recall@k on held-out users that approximate search may lose; only a "
        "significant loss fails; 1: off",
    )
    max_users_lost: Share = Field(
        0.2,
        description="share by which the number of served users may fall compared with the previous night; a larger "
        "fall usually means that logs are missing; 1: off",
    )
    min_coverage: Share = Field(
        0.005,
        description="minimum number of distinct videos in the lists, as a share of the possible number: the number of "
        "candidates or the number of list positions, whichever is smaller. A collapsed model recommends few videos; "
        "0: off",
    )
    max_sameness: PositiveShare = Field(
        0.8,
        description="maximum overlap of the lists of two users: 0 is the overlap expected by chance, 1 the same list "
        "for all users; 1: off",
    )
    max_rejects: Share = Field(
        0.01,
        description="maximum share of rejected rows among all rows read, if lower than `logs.max_reject_fraction`; "
        "rejected rows are missing from training; 1: off",
    )
    min_stayed: Share = Field(
        0.1,
        description="minimum mean share of a user's list that remains from the previous night; one day of new events "
        "should not replace whole lists; 0: off",
    )
    max_stayed: PositiveFloat = Field(
        0.999, le=1, description="maximum of the same share; above it, the model learned nothing new; 1: off"
    )
    same_night: bool = Field(
        True,
        description="whether user tower, video vectors, index and lists must come from the same training; vectors of "
        "different trainings are not comparable; false: off",
    )
    min_volume: NonNegativeFloat = Field(
        0.7,
        description="minimum events of the newest day, relative to the lowest of the 7 days before it; fewer usually "
        "means that a part of the logs is missing; 0: off",
    )
    max_volume: NonNegativeFloat = Field(
        2.0,
        description="maximum events of the newest day, relative to the highest of the 7 days before it; more usually "
        "means that logs were sent twice under different names; 0: off",
    )
    max_skew: NonNegativeFloat = Field(
        0.25,
        description="maximum population stability index (PSI) of each feature between the newest training record and "
        "the serving record of the same users; only a value significantly above it (training-serving skew) fails; 0: "
        "off",
    )
    stop_if_not_computed: bool = Field(
        False,
        description="whether a gate that cannot be computed for an unexpected reason stops the night like a failed "
        "gate; false: the night is published with a warning and status ungated. Unexpected reasons are: the previous "
        "night's figures are missing or unreadable, a figure is not finite, lists have another length and no k in "
        "common. A first night, and a night without held-out users, are expected",
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Gates:
        for name in ("stayed", "volume"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high > 0:
                raise ValueError(f"min_{name} must not be above max_{name} ({high:g}), but is {low:g}")
        return self
