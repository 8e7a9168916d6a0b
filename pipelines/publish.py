"""Stage 9: make the night the one that is served.

neighbours, evaluation -> every list file is whole -> ROOT/published.json names the night
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from typing import Any

from pipelines import manifest, paths
from pipelines.errors import StageError
from pipelines.stages import Night, Plan, StageResult, complete, stage_main
from transforms import files

FORMAT_VERSION = 1


def plan(night: Night) -> Plan:
    """Depends on the lists and on their evaluation."""
    inputs = {stage: night.require(stage).digest for stage in ("neighbours", "evaluation")}
    return Plan("publish", inputs, [])


def run(night: Night) -> None:
    """Publish the night, unless a later one is published: a backfill never moves what is served backwards."""
    complete(night, plan(night), lambda _folder, _attempt: _work(night))


def _work(night: Night) -> StageResult:
    listed = night.require("neighbours")
    _check(night, listed)
    served = read(night.root)
    if served and served["date"] > night.date.isoformat():
        return StageResult([], {"published": False, "later": served["date"]})
    entry = {
        "format_version": FORMAT_VERSION,
        "date": night.date.isoformat(),
        "neighbours": listed.digest,
        "users": listed.counts.get("users", 0),
        "buckets": night.snapshot.buckets,
        "published_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    files.replace_file(night.root.published, json.dumps(entry, indent=1).encode())
    return StageResult([], {"published": True})


def refresh(root: paths.Root) -> None:
    """Let `published.json` say what the lists of its night have become, where users were taken out of them."""
    served = read(root)
    found = manifest.load(root.stage(dt.date.fromisoformat(served["date"]), "neighbours")) if served else None
    if served and found and served["neighbours"] != found.digest:
        changed = {"neighbours": found.digest, "users": found.counts.get("users", 0)}
        files.replace_file(root.published, json.dumps(served | changed, indent=1).encode())


def read(root: paths.Root) -> dict[str, Any] | None:
    """What is published, or None before the first night is."""
    if not files.exists(root.published):
        return None
    try:
        return dict(json.loads(files.read_bytes(root.published)))
    except ValueError as error:
        raise StageError(f"{root.published} cannot be read ({error}): run the night again") from error


def _check(night: Night, listed: manifest.Manifest) -> None:
    """Every list file is there, whole: what is published must be readable."""
    for entry in listed.named(ending=".parquet"):
        path = paths.join(night.folder("neighbours"), entry.name)
        if not files.exists(path) or files.entry_of(night.folder("neighbours"), entry.name).digest != entry.digest:
            raise StageError(f"{path} is not the file stage neighbours wrote: run the night again from neighbours")


if __name__ == "__main__":
    raise SystemExit(stage_main(sys.modules[__name__]))
