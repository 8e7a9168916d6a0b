"""Compare watchnext with other recommenders on the same logs, split, machine, training time and scorer.

    python -m benchmarks.peers PATH LastFM OUT [--peers watchnext implicit_als ...] [--seconds 60] [--again]

PATH has the published files of the logs, see `real_logs`; OUT is a folder. Each peer is a file of this
folder, which runs in an environment of its own: OUT/envs/NAME, created at first use. All peers read the same completed
watches, as numbers (`neutral_logs`), and write lists, which `score_lists` judges.

Settings of peers are chosen on the validation events: each combination of the peer's grid is trained for the same
seconds of wall time and scored at several points of its training. The settings and the number of epochs with the best
figure of `CHOSEN_BY` are then trained once on the test logs and scored on the test events. watchnext has its default
settings, and its training ends after the seconds.

What is in OUT is used again: an interrupted call goes on after its last complete training, and the table has all rows
that are there. With --again the rows of --peers are measured anew, and with --again test only their last training, with
the settings chosen before. With --stop-after a call ends before a training that would begin after these minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import REPOSITORY, Peer, all_peers, install, read_peer
from benchmarks.peers.neutral_logs import prepare
from benchmarks.peers.results import WATCHNEXT, chosen, quality_table, settings_digest
from benchmarks.peers.watchnext import run_night
from benchmarks.real_logs import CHOSEN_BY, CUTS, NIGHTS
from benchmarks.score_lists import read_lists, read_pairs, score

UNFINISHED = 75  # exit status: call again to go on


class OutOfTimeError(Exception):
    """The minutes of --stop-after are over."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What all peers have in common."""

    path: Path
    logs: str
    out: Path
    seconds: float  # of each training
    deadline: float  # of `time.monotonic`, for the start of a training

    @property
    def runs(self) -> Path:
        return self.out / self.logs / f"{self.seconds:g}-seconds"

    def result_of(self, peer: str) -> Path:
        """Return the path of the figures of a row."""
        return self.runs / f"{peer}.json"

    def data(self, part: str) -> Path:
        return self.out / self.logs / part

    def score(self, lists: Path, part: str) -> dict[str, float]:
        """Return the scorer's figures of a folder of lists."""
        truth = self.data(part) / "truth.parquet"
        return score(read_lists(lists), read_pairs(truth), CUTS[self.logs])

    def wait_for_turn(self) -> None:
        """Raise OutOfTimeError if no training may begin any more."""
        if time.monotonic() > self.deadline:
            raise OutOfTimeError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("logs", choices=NIGHTS)
    parser.add_argument("out", type=Path)
    names = [WATCHNEXT, *(name for name in all_peers() if read_peer(name).grid)]
    parser.add_argument("--peers", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each training")
    parser.add_argument("--again", nargs="?", choices=["all", "test"], const="all")
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="MINUTES")
    parser.add_argument("--set", metavar="TABLE.KEY=VALUE", action="append", default=[], help="of watchnext's job")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.stop_after
    comparison = Comparison(path=args.path, logs=args.logs, out=args.out, seconds=args.seconds, deadline=deadline)
    for name in args.peers if args.again else ():
        remove_row(comparison, name, only_test=args.again == "test")
    prepare(args.path, args.logs, args.out / args.logs)
    failed = []
    try:
        for name in args.peers:
            if comparison.result_of(name).exists():
                continue
            try:
                row = ours(comparison, args.set) if name == WATCHNEXT else measured(comparison, read_peer(name))
            except subprocess.CalledProcessError as error:
                failed.append(f"{name} failed: {error}; its log is log.txt below {comparison.runs / name}")
                continue
            comparison.result_of(name).write_text(json.dumps(row, indent=1), encoding="utf-8")
    except OutOfTimeError:
        print("not finished: call again to go on", flush=True)
        return UNFINISHED
    print_table(comparison)
    print("\n".join(failed))
    return 1 if failed else 0


def remove_row(comparison: Comparison, name: str, *, only_test: bool) -> None:
    """Remove the result of a peer and its test training; also those of its grid unless `only_test`."""
    comparison.result_of(name).unlink(missing_ok=True)
    shutil.rmtree(comparison.runs / name / "test" if only_test else comparison.runs / name, ignore_errors=True)


def ours(comparison: Comparison, changes: list[str]) -> dict[str, Any]:
    """Return the row of watchnext."""
    comparison.wait_for_turn()
    out = comparison.runs / WATCHNEXT / "test"
    shutil.rmtree(out, ignore_errors=True)
    logs = comparison.data("test") / "logs"
    row = run_night(logs, comparison.logs, out, seconds=comparison.seconds, changes=changes)
    return row | {"figures": comparison.score(out / "lists", "test")}


def measured(comparison: Comparison, peer: Peer) -> dict[str, Any]:
    """Choose the settings of a peer, train it on the test logs and return its row."""
    python = install(peer, comparison.out / "envs")
    tries = [tried(comparison, peer, python, settings) for settings in peer.settings()]
    best = chosen(tries, CHOSEN_BY[comparison.logs])
    comparison.wait_for_turn()
    folder = comparison.runs / peer.name / "test"
    lengths = ["--epochs", str(best["epochs"])]
    done = run_peer(comparison.data("test"), folder, peer, python, best["settings"], lengths)
    (point,) = done["points"]
    return {
        "peer": peer.name,
        "title": peer.title,
        "settings": best["settings"],
        "tries": len(tries),
        "validation": best,
        "figures": comparison.score(folder / f"lists-{point['epochs']}", "test"),
        "peak_bytes": done["peak_bytes"],
        "whole_seconds": done["whole_seconds"],
        **point,
    }


def tried(comparison: Comparison, peer: Peer, python: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train with some settings on the validation logs; return settings and points with figures."""
    folder = comparison.runs / peer.name / settings_digest(settings)
    kept = folder / "scored.json"
    if not kept.exists():
        comparison.wait_for_turn()
        k = str(max(CUTS[comparison.logs]))
        lengths = ["--k", k, "--epochs", str(peer.epochs), "--seconds", str(comparison.seconds)]
        done = run_peer(comparison.data("validation"), folder, peer, python, settings, lengths)
        points = [
            {**point, "figures": comparison.score(folder / f"lists-{point['epochs']}", "validation")}
            for point in done["points"]
        ]
        kept.write_text(json.dumps({"settings": settings, "points": points}, indent=1), encoding="utf-8")
        figure = CHOSEN_BY[comparison.logs]
        shown = ", ".join(f"{point['epochs']}: {point['figures'][figure]:.4f}" for point in points)
        print(f"{peer.name} {json.dumps(settings)}: {figure} by epochs {shown}", flush=True)
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def run_peer(
    data: Path, folder: Path, peer: Peer, python: str, settings: Mapping[str, Any], lengths: list[str]
) -> dict[str, Any]:
    """Run a peer's file in a new folder and return what it reports; its output is kept in log.txt."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [python, "-m", f"benchmarks.peers.{peer.name}", str(data.absolute()), str(folder.absolute())]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(
            [*command, "--settings", json.dumps(settings), *lengths],
            check=True,
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=log,
            stderr=log,
        )
    done: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return done


def print_table(comparison: Comparison) -> None:
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(comparison.runs.glob("*.json"))]
    if rows:
        measure = CHOSEN_BY[comparison.logs].split("@")[0]
        print(quality_table(rows, CUTS[comparison.logs], measure), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
