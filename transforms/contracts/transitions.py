"""Transitions: which videos users completed soon after each video. The trainer counts them, the search adds them.

A first-order Markov chain over the last watches of a user: the next video is b with the probability

    sum over the last `LAGS` completed videos a of weight(a) * share(a, b) / sum over them of weight(a)

The last of them has the weight 1, each one before it `DECAY` times as much. share(a, b) estimates how likely b follows
a: of all watches up to `LAGS` places after a, with the same weights by distance, the share that are b. The embeddings
of the model cannot tell the next episode of a series from the other videos of its channel as sharply as counts do.

The file has a row for each video, in order of the ids:

| column    | type          | value                                                                        |
|-----------|---------------|------------------------------------------------------------------------------|
| id        | int64         | of the video a, from 1                                                       |
| followers | list<int32>   | ids of the videos b with the largest shares, at most `FOLLOWERS`, best first |
| shares    | list<float32> | of each follower; their sum is below 1                                       |
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TRANSITIONS = "transitions.parquet"
LAGS = 5
DECAY = 0.6
FOLLOWERS = 16


def lag_weights() -> npt.NDArray[np.float32]:
    """Return the weights of the last watches, float [LAGS]; the most recent, the last, has 1."""
    return (DECAY ** np.arange(LAGS - 1, -1, -1)).astype(np.float32)
