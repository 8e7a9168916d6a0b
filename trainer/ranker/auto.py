"""Resolve the settings of the ranker that are "auto" from the counts of the impressions, as `trainer.auto` does for the
generator.

    epochs, reason = resolve_epochs("auto", impressions=14_000_000, warm=False)   # 1

Each function returns the value and its reason; the reason of a value that is set by hand is empty. Imports no
TensorFlow, because estimates of resources resolve settings too.
"""

from __future__ import annotations

from typing import Literal

from trainer.config import AUTO

TRAINED_IMPRESSIONS, MOST_EPOCHS = 3_000_000, 3  # impressions of all epochs together
LEAST_LEARNED = 1_000_000  # impressions of a warm start, if the chain has as many
UNCLICKED_PER_CLICK = 2
LEAST_UNCLICKED = 20_000  # on a day, which are kept however few clicks there are


def resolve_epochs(epochs: int | Literal["auto"], *, impressions: int, warm: bool) -> tuple[int, str]:
    """Return the number of epochs over the impressions to learn from, and its reason.

    A `warm` training has one: it adds the new impressions to what an earlier one learned in its epochs.
    """
    if epochs != AUTO:
        return epochs, ""
    if warm:
        return 1, "1 in a warm start"
    found = min(MOST_EPOCHS, max(1, round(TRAINED_IMPRESSIONS / max(1, impressions))))
    return found, f"{impressions:,} impressions; {TRAINED_IMPRESSIONS:,} in 1 to {MOST_EPOCHS}"


def replayed_share(*, new: int, available: int) -> float:
    """Return the share of the users of earlier nights' records to learn again in a warm start.

    `new`: impressions that are new to the earlier ranker; `available`: those in the records of earlier nights. As many
    as are new, so that all nights learn about equally many impressions; on small logs more, because a few steps a night
    cannot follow them.
    """
    return min(1.0, max(new, LEAST_LEARNED - new) / available) if available else 0.0


def unclicked_share(share: float | Literal["auto"], *, impressions: int, clicked: int, days: int) -> tuple[float, str]:
    """Return the share of the unclicked impressions to learn from, and its reason.

    `impressions`, `clicked`: of all `days`. The share has two digits, so that it rarely changes from night to night.
    """
    if share != AUTO:
        return share, ""
    unclicked = impressions - clicked
    wanted = max(UNCLICKED_PER_CLICK * clicked, LEAST_UNCLICKED * days)
    found = 1.0 if wanted >= unclicked else float(f"{wanted / unclicked:.2g}")
    return found, (
        f"{unclicked:,} unclicked impressions of {days} days; {UNCLICKED_PER_CLICK} for each of {clicked:,} clicks, "
        f"and all up to {LEAST_UNCLICKED:,} a day"
    )
