"""GRU4Rec of the package RecBole. See `protocol`.

The grid varies size and dropout around RecBole's defaults, which other settings have; the loss is the full softmax.
"""

# /// script
# dependencies = ["recbole==1.2.1", "torch==2.5.1", "numpy==1.26.4", "scipy==1.11.4", "pandas==2.2.3", "polars==2.1.0"]
# [tool.peers]
# title = "RecBole: GRU4Rec"
# environment = "recbole"
# [tool.peers.grid]
# hidden_size = [128, 256]
# dropout_prob = [0.2, 0.4]
# ///

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data.dataloader import TrainDataLoader
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed

from benchmarks.peers.protocol import Floats, Ints, Logs, Settings, run

LENGTH, BATCH, SEED = 50, 2048, 1


class Sequential:
    """A sequential model of RecBole, trained on all prefixes of all users' histories."""

    def __init__(self, model: str, logs: Logs, settings: Settings) -> None:
        self.logs = logs
        scratch = Path(tempfile.mkdtemp())
        (scratch / "logs").mkdir()
        table = {"user_id:token": logs.user, "item_id:token": logs.item, "timestamp:float": np.arange(len(logs.user))}
        pd.DataFrame(table).to_csv(scratch / "logs" / "logs.inter", sep="\t", index=False)
        given = {
            "data_path": str(scratch),
            "checkpoint_dir": str(scratch / "saved"),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": LENGTH,
            "train_neg_sample_args": None,
            "train_batch_size": BATCH,
            "show_progress": False,
            "state": "WARNING",
            "use_gpu": False,
            **settings,
        }
        config = Config(model=model, dataset="logs", config_dict=given)
        init_seed(SEED, reproducibility=True)
        dataset = SequentialDataset(config)
        self.items = dataset.token2id("item_id", [str(item) for item in range(logs.items)])
        dataset._change_feat_format()  # cuts the histories into prefixes, without holding any out
        self.batches = TrainDataLoader(config, dataset, None, shuffle=True)
        self.model = get_model(model)(config, dataset)
        self.trainer, self.epoch = Trainer(config, self.model), 0

    def train_epoch(self) -> None:
        self.trainer._train_epoch(self.batches, self.epoch)
        self.epoch += 1

    def recommend(self, users: Ints, k: int) -> Ints:
        rows, lengths = self.logs.recent(users, LENGTH)
        ids = np.concatenate([[0], self.items])  # of RecBole, by our number from 1
        given = {"item_id_list": torch.as_tensor(ids[rows]), "item_length": torch.as_tensor(lengths)}
        self.model.eval()
        with torch.no_grad():
            scores: Floats = self.model.full_sort_predict(Interaction(given)).reshape(len(users), -1).numpy()
        return self.logs.best(scores[:, self.items], users, k)


class Gru4Rec(Sequential):
    def __init__(self, logs: Logs, settings: Settings) -> None:
        super().__init__("GRU4Rec", logs, settings)


if __name__ == "__main__":
    run(Gru4Rec)
