"""Raw logs to the same TFRecords: watchnext's stages, one process of plain polars, and DuckDB.

    python -m benchmarks.peers.examples OUT [--events 10000000] [--again NAME]

OUT is a folder for the logs of `benchmarks.examples`, which are written at the first call, for the environment of
DuckDB and for results. Each row is a file OUT/rows/NAME.json, which an interrupted call leaves and the next one goes
on after; --again measures a row anew. All records of the two single processes are compared, and those of two buckets
of the stages, by `benchmarks.examples`. DuckDB and polars run in one process with two threads; the stages also fill
the store, check and count rows, and can be interrupted, see `polars_examples`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.examples import STAGES, compare_records, measured, read_records, run_stages, write_logs
from benchmarks.peers.environments import REPOSITORY, install, read_peer

ROWS = {"watchnext": "watchnext, stages ingest to examples", "polars": "polars, one process", "duckdb": "DuckDB"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--again", choices=ROWS, action="append", default=[])
    args = parser.parse_args()
    out = args.out.absolute()
    logs, rows = out / "logs", out / "rows"
    if not (out / "events.json").exists():
        shutil.rmtree(logs, ignore_errors=True)
        (out / "events.json").write_text(json.dumps(write_logs(logs, args.events)), encoding="utf-8")
    events = json.loads((out / "events.json").read_text(encoding="utf-8"))
    rows.mkdir(exist_ok=True)
    measures: dict[str, Callable[[Path, int], dict[str, float]]] = {
        "watchnext": _stages,
        "polars": lambda logs, _: _process(sys.executable, "benchmarks.polars_examples", logs),
        "duckdb": lambda logs, _: _process(_duckdb(out), "benchmarks.peers.duckdb_examples", logs),
    }
    for name, measure in measures.items():
        if name in args.again or not (rows / f"{name}.json").exists():
            (rows / f"{name}.json").write_text(json.dumps(measure(logs, events)), encoding="utf-8")
    compare_records(logs)
    compare_processes(logs)
    print(table({name: json.loads((rows / f"{name}.json").read_text(encoding="utf-8")) for name in ROWS}, events))


def _stages(logs: Path, events: int) -> dict[str, float]:
    shutil.rmtree(logs / "runs", ignore_errors=True)
    done = run_stages(logs, events)
    return {"seconds": done.total, "peak_gib": max(done.peak_gib[stage] for stage in STAGES)}


def _duckdb(out: Path) -> str:
    return install(read_peer("duckdb_examples"), out / "envs")


def _process(python: str, module: str, logs: Path) -> dict[str, float]:
    """Run a process from its start to its end, with its imports, as the stages are measured."""
    done = measured(["-m", module, str(logs)], python=python, folder=REPOSITORY)
    print(done.output, flush=True)
    return {"seconds": done.seconds, "peak_gib": done.peak_gib}


def compare_processes(logs: Path) -> None:
    """Raise AssertionError if a record of DuckDB differs from that of polars."""
    for split in ("train", "serving"):
        theirs, ours = (
            read_records([logs / name / f"{split}.tfrecord.gz"]).sort("user_id") for name in ("duckdb", "polars")
        )
        assert ours.drop("example_age").equals(theirs.drop("example_age")), f"{split} records of DuckDB differ"
        ages = [frame["example_age"].explode() for frame in (ours, theirs)]
        apart = (ages[0] - ages[1]).abs().to_numpy().max()
        print(f"same records: {ours.height:,} of {split} compared; example ages at most {apart:.4f} apart", flush=True)


def table(rows: dict[str, dict[str, Any]], events: int) -> str:
    """Return a Markdown table; times are those of whole processes."""
    lines = ["| method | s | events/s | memory, GiB |", "|---|---|---|---|"]
    for name, row in rows.items():
        rate = events / row["seconds"]
        lines.append(f"| {ROWS[name]} | {row['seconds']:.1f} | {rate:,.0f} | {row['peak_gib']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
