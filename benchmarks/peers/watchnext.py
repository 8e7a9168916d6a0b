"""The row of watchnext: a night with the settings of `real_logs`, whose training ends after the seconds."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.peers.protocol import BULK_K
from benchmarks.peers.results import WATCHNEXT
from benchmarks.real_logs import NIGHTS, job_text, with_setting
from pipelines.base import manifest
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.night.stage import STAGES


def run_night(logs: Path, name: str, out: Path, *, seconds: float, changes: list[str]) -> dict[str, Any]:
    """Run the night of some logs in a new folder, whose lists are then in `lists`; return the figures of its row.

    Lists are 200 long. Training seconds are those of stage train, list seconds those of stage neighbours, without the
    start of their processes; memory is that of the largest stage; the whole is the command, with all stages.
    """
    out.mkdir(parents=True)
    job = job_text(name)
    for change in (f"training.minutes={seconds / 60}", f"neighbours.k={BULK_K}", *changes):
        job = with_setting(job, *change.split("=", 1))
    (out / "job.toml").write_text(job, encoding="utf-8")
    (out / "logs").symlink_to(logs.absolute(), target_is_directory=True)
    date, began = NIGHTS[name], time.monotonic()
    with (out / "log.txt").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "pipelines.nightly", str(out / "job.toml"), "--date", date]
        subprocess.run(command, check=True, stdout=log, stderr=log)
    whole = time.monotonic() - began
    night = Night(load_job(str(out / "job.toml")), dt.date.fromisoformat(date))
    stages = {stage: manifest.load(night.folder(stage)) for stage in STAGES}
    done = {stage: found for stage, found in stages.items() if found}
    lists = night.folder("neighbours")
    (out / "lists").symlink_to(lists, target_is_directory=True)
    return {
        "peer": WATCHNEXT,
        "title": WATCHNEXT,
        "settings": dict(change.split("=", 1) for change in changes),
        "tries": 0,
        "epochs": None,
        "train_seconds": done["train"].seconds,
        "list_seconds": done["neighbours"].seconds,
        "listed_users": pl.scan_parquet(f"{lists}/*.parquet").select(pl.len()).collect().item(),
        "peak_bytes": max(found.peak_bytes for found in done.values()),
        "whole_seconds": whole,
    }
