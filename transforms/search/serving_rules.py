"""The serving rules of an index: the countries a video may be shown in, and the limit of videos per channel.

rules = build_serving_rules(videos, catalogue, k=200, max_share_per_channel=0.1)
excluded = Excluded(offsets=..., positions=..., hidden=rules.hidden, group=rules.groups(countries))
top_k(index, queries, k=200, excluded=excluded, cap=rules.cap)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from transforms.search.exclusions import ChannelCap

Bools = NDArray[np.bool_]
RULE_COLUMNS = ("video_id", "channel", "countries")  # columns of the catalogue


@dataclass(frozen=True, kw_only=True)
class ServingRules:
    """The rules of the n positions of an index, or of some of them.

    Users of an unknown country, or of one that no video lists, are in group 0: they get only unrestricted videos.
    """

    hidden: Bools | None = None  # [groups, n], distinct rows; None: every video may be shown to everyone
    country_groups: dict[str, int] = field(default_factory=dict)  # country -> row of hidden
    cap: ChannelCap | None = None

    @property
    def by_country(self) -> bool:
        """Whether any video is restricted to some countries."""
        return bool(self.country_groups)

    def groups(self, countries: Sequence[str | None]) -> NDArray[np.int32]:
        """Return the row of `hidden` of each user: [b]. countries: of each user, as `country_code` returns them."""
        return np.array([self.country_groups.get(country or "", 0) for country in countries], np.int32)

    def hide(self, positions: Bools) -> ServingRules:
        """Return these rules with some more positions hidden from everyone. positions: true for those, [n]."""
        if not positions.any():
            return self
        return replace(self, hidden=positions[None] if self.hidden is None else self.hidden | positions)

    def select(self, positions: NDArray[np.int64]) -> ServingRules:
        """Return the rules of some positions, renumbered from 0 in the order given."""
        hidden = None if self.hidden is None else self.hidden[:, positions]
        cap = None if self.cap is None else self.cap.restrict(positions)
        return replace(self, hidden=hidden, cap=cap)


def build_serving_rules(
    videos: pl.DataFrame, catalogue: pl.DataFrame | None, *, k: int, max_share_per_channel: float
) -> ServingRules:
    """Return the rules of an index.

    videos: video_id of each position, in order. catalogue: `RULE_COLUMNS`, one row per video.
    """
    if catalogue is None:
        return ServingRules()
    known = videos.select("video_id").join(catalogue, on="video_id", how="left", maintain_order="left")
    hidden, country_groups = country_masks(known["countries"])
    channel, limit = channel_codes(known["channel"]), max_per_channel(max_share_per_channel, k)
    capped = limit < k and bool((channel >= 0).any())
    cap = ChannelCap(channel=channel, limit=limit) if capped else None
    return ServingRules(hidden=hidden, country_groups=country_groups, cap=cap)


def channel_codes(channels: pl.Series) -> NDArray[np.int32]:
    """Return the code of each channel, from 0, equal for equal names; -1 for null."""
    names = channels.drop_nulls().unique().sort()
    codes = channels.cast(pl.Enum(names)).to_physical().cast(pl.Int32)
    return codes.fill_null(-1).to_numpy()


def max_per_channel(share: float, k: int) -> int:
    """Return the largest number of k videos that is at most `share` of them, at least one."""
    return max(1, math.floor(share * k + 1e-9))  # the float nearest to a share such as 0.29 may be a little less


def country_masks(countries: pl.Series) -> tuple[Bools | None, dict[str, int]]:
    """Return (hidden [groups, n], country -> row of hidden); row 0 is for all other countries.

    countries: those each position may be shown in, as `normalise_codes` returns them; null: all. If no position
    is restricted, the result is (None, {}).
    """
    limited = countries.is_not_null().to_numpy()
    if not limited.any():
        return None, {}
    rows = pl.DataFrame({"codes": countries.str.split(","), "position": np.arange(len(countries), dtype=np.int64)})
    rows = rows.explode("codes", empty_as_null=False, keep_nulls=False)
    shown = rows.group_by("codes").agg("position").sort("codes")
    masks, row_of, country_groups = [limited], {b"": 0}, {}
    for country, positions in zip(shown["codes"], shown["position"], strict=True):
        inside = positions.sort().to_numpy()
        row = row_of.setdefault(inside.tobytes(), len(masks))
        if row == len(masks):
            mask = limited.copy()
            mask[inside] = False
            masks.append(mask)
        country_groups[country] = row
    return np.stack(masks), country_groups
