"""All data sets by name."""

from __future__ import annotations

from pipelines.datasets import amazon, events, kuai, mind, movielens, music
from pipelines.datasets.data_set import DataSet

DATA_SETS: dict[str, DataSet] = {
    data_set.name: data_set
    for module in (movielens, kuai, mind, amazon, music, events)
    for data_set in module.DATA_SETS
}
