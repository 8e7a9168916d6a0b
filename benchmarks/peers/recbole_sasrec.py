"""SASRec of the package RecBole. See `protocol` and `recbole_gru4rec`."""

# /// script
# dependencies = ["recbole==1.2.1", "torch==2.5.1", "numpy==1.26.4", "scipy==1.11.4", "pandas==2.2.3", "polars==2.1.0"]
# [tool.peers]
# title = "RecBole: SASRec"
# environment = "recbole"
# [tool.peers.grid]
# hidden_size = [64, 128]
# dropout = [0.2, 0.5]
# ///

from __future__ import annotations

from benchmarks.peers.protocol import Logs, Settings, run
from benchmarks.peers.recbole_gru4rec import Sequential


class SasRec(Sequential):
    def __init__(self, logs: Logs, settings: Settings) -> None:
        dropout = dict.fromkeys(("hidden_dropout_prob", "attn_dropout_prob"), settings["dropout"])
        super().__init__("SASRec", logs, {"hidden_size": settings["hidden_size"], **dropout})


if __name__ == "__main__":
    run(SasRec)
