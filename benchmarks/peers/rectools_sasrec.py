"""SASRec of the package RecTools, which trains with PyTorch Lightning. See `protocol`.

The grid has two losses of its documentation and two sizes; other settings are the package's defaults.
"""

# /// script
# dependencies = ["rectools[torch]==0.19.0", "polars==2.1.0"]
# [tool.peers]
# title = "RecTools: SASRec"
# [tool.peers.grid]
# loss = ["softmax", "gBCE"]
# n_factors = [64, 256]
# ///

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from benchmarks.peers.protocol import Ints, Logs, Settings, run

LENGTH, BATCH, GBCE_NEGATIVES = 50, 128, 256


class SasRec:
    def __init__(self, logs: Logs, settings: Settings) -> None:
        warnings.filterwarnings("ignore")
        columns = {Columns.User: logs.user, Columns.Item: logs.item, Columns.Weight: 1.0}
        # RecTools orders by time only: a step a row keeps the order of watches at the same time
        order = np.datetime64("2000-01-01", "s") + np.arange(len(logs.user)).astype("timedelta64[s]")
        self.dataset = Dataset.construct(pd.DataFrame({**columns, Columns.Datetime: order}))
        negatives = {"n_negatives": GBCE_NEGATIVES} if settings["loss"] == "gBCE" else {}
        self.model = SASRecModel(
            **settings, **negatives, session_max_len=LENGTH, batch_size=BATCH, epochs=1, verbose=0, deterministic=True
        )

    def train_epoch(self) -> None:
        self.model.fit_partial(self.dataset, min_epochs=1, max_epochs=1)

    def recommend(self, users: Ints, k: int) -> Ints:
        found = self.model.recommend(users, self.dataset, k=k, filter_viewed=True, on_unsupported_targets="ignore")
        lists = np.full((len(users), k), -1)
        row = np.searchsorted(users, found[Columns.User].to_numpy())  # users ascend
        lists[row, found[Columns.Rank].to_numpy() - 1] = found[Columns.Item].to_numpy()
        return lists


if __name__ == "__main__":
    run(SasRec)
