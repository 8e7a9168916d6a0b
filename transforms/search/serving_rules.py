"""What may be shown to whom, as search takes it: countries a video may be shown in, and how many of one channel.

rules = rules_of(videos, catalogue, k=200, max_share_per_channel=0.1)
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

from transforms.search.top_k import Cap

Bools = NDArray[np.bool_]
RULED = ("video_id", "channel", "countries")  # columns of the catalogue


@dataclass(frozen=True, kw_only=True)
class ServingRules:
    """The rules of the n positions of an index, or of some of them.

    Users whose country nobody knows, or which no video names, are of group 0: they get only videos without limit.
    """

    hidden: Bools | None = None  # [g, n], no two rows alike; None: everything may be shown to everybody
    group_of: dict[str, int] = field(default_factory=dict)  # country -> row of hidden
    cap: Cap | None = None

    @property
    def by_country(self) -> bool:
        """Whether it matters where a user is."""
        return bool(self.group_of)

    def groups(self, countries: Sequence[str | None]) -> NDArray[np.int32]:
        """The row of `hidden` of each user, of whom the country is given as `countries.code` has it: [b]."""
        return np.array([self.group_of.get(country or "", 0) for country in countries], np.int32)

    def without(self, gone: Bools) -> ServingRules:
        """The same rules where some positions ([n]) may be shown to nobody."""
        if not gone.any():
            return self
        return replace(self, hidden=gone[None] if self.hidden is None else self.hidden | gone)

    def part(self, positions: NDArray[np.int64]) -> ServingRules:
        """The rules of some positions, numbered in the order given."""
        hidden = None if self.hidden is None else self.hidden[:, positions]
        cap = None if self.cap is None else Cap(channel=self.cap.channel[positions], most=self.cap.most)
        return replace(self, hidden=hidden, cap=cap)


def rules_of(
    videos: pl.DataFrame, catalogue: pl.DataFrame | None, *, k: int, max_share_per_channel: float
) -> ServingRules:
    """The rules of an index. videos: video_id of each position, in order; catalogue: `RULED`, a row a video."""
    if catalogue is None:
        return ServingRules()
    known = videos.select("video_id").join(catalogue, on="video_id", how="left", maintain_order="left")
    hidden, group_of = country_masks(known["countries"])
    channel, most = channel_codes(known["channel"]), most_per_channel(max_share_per_channel, k)
    capped = most < k and bool((channel >= 0).any())
    return ServingRules(hidden=hidden, group_of=group_of, cap=Cap(channel=channel, most=most) if capped else None)


def channel_codes(channels: pl.Series) -> NDArray[np.int32]:
    """A number from 0 for each channel, the same for the same name; -1: none."""
    names = channels.drop_nulls().unique().sort()
    codes = channels.cast(pl.Enum(names)).to_physical().cast(pl.Int32)
    return codes.fill_null(-1).to_numpy()


def most_per_channel(share: float, k: int) -> int:
    """How many of k videos a share of them is, at least one. A share such as 0.29 is a little less than it says."""
    return max(1, math.floor(share * k + 1e-9))


def country_masks(countries: pl.Series) -> tuple[Bools | None, dict[str, int]]:
    """(hidden [g, n], country -> row) of the countries each position may be shown in, as `countries.normalised` has
    them; null: everywhere. Row 0 is that of all other countries. None where nothing is limited."""
    limited = countries.is_not_null().to_numpy()
    if not limited.any():
        return None, {}
    at = pl.DataFrame({"codes": countries.str.split(","), "position": np.arange(len(countries), dtype=np.int64)})
    shown = at.explode("codes", empty_as_null=False, keep_nulls=False).group_by("codes").agg("position").sort("codes")
    masks, row_of, group_of = [limited], {b"": 0}, {}
    for country, positions in zip(shown["codes"], shown["position"], strict=True):
        inside = positions.sort().to_numpy()
        row = row_of.setdefault(inside.tobytes(), len(masks))
        if row == len(masks):
            mask = limited.copy()
            mask[inside] = False
            masks.append(mask)
        group_of[country] = row
    return np.stack(masks), group_of
