"""A sample of the unclicked impressions, weighted so that sums over it are those over all impressions in expectation.

    sampled = sample_unclicked(impressions, share=0.2, seed=1)
    sampled["impression_weight"]    # 1.0 for clicked impressions, 5.0 for the others

Most impressions are not clicked, and each says little. A sample of them costs less to describe and to learn from, and
its weighted loss has the same expectation as the loss of all impressions.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms.core.digests import event_digests, id_digests, mix

WEIGHT = "impression_weight"
_SALT = 0x756E636C69636B  # "unclick"


def sample_unclicked(impressions: pl.DataFrame, *, share: float, seed: int) -> pl.DataFrame:
    """Return all clicked impressions and a share of the others, in their order, with `impression_weight` (Float32).

    impressions: user_id, time, video_id, page_id, clicked. share: above 0, at most 1. An impression is drawn by a
    digest of the seed and its user, video, time and page, so the sample does not depend on other impressions. Weights
    are 1 for clicked impressions and 1 / share for the others.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], but is {share} (ranking.unclicked in JOB.toml)")
    weight = pl.when("clicked").then(1.0).otherwise(1 / share).cast(pl.Float32).alias(WEIGHT)
    if share == 1 or impressions.is_empty():
        return impressions.with_columns(weight)
    events = event_digests(impressions, seed, _SALT).to_numpy()
    drawn = mix(events, id_digests(impressions["page_id"].cast(pl.String)).to_numpy())
    place = pl.Series((drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    return impressions.filter(pl.col("clicked") | (place < share)).with_columns(weight)
