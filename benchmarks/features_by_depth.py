"""Measure the gain of more features and a deeper tower on simulated logs: holdout MAP, the paper's figure 6.

    python -m benchmarks.features_by_depth OUT [--users 2000] [--videos 300] [--days 21] [--seeds 1 2 3]
        [--signal strong] [--depths 0 1 2 3 4] [--width 64] [--plot docs/features_by_depth.svg]

Each seed has its own logs and training. Its results are a file in OUT, and what the file has is not measured again: a
run resumes after an interruption, and seeds can run in separate processes. `strong` is the signal for which a perfect
model gains from each feature (`benchmarks.perfect_model`). Towers have the paper's shape with a last hidden layer of
`--width` units, and twice as many in each layer before; the paper's has 256. Features are added one after the other:
`watches` (logs without searches, users, countries and devices; `example_age = false`), `+ searches`, `+ example age`,
`all`.

MAP is that of the trainer's holdout: lists of 200 videos that the user had not completed, against all videos completed
on a day of which nothing was learned. Trainings have a fixed number of passes; dropout and learning rate were chosen on
seed 9. The upper bound is the MAP of lists by the simulator's true probabilities that morning. Intervals are 95 % over
seeds; those of gains are of the differences within a seed. Gains that are not significant are marked.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from benchmarks.simulated import (
    LAST,
    SIGNALS,
    TABLES,
    Interval,
    best_ranking,
    fit_examples,
    last_morning,
    quiet_axes,
    save_plot,
    write_examples,
    write_logs,
)
from trainer.config import ModelSettings, TrainingSettings
from trainer.examples import ExampleFiles, read_label_counts
from trainer.holdout import KS
from transforms.examples.tfrecords import read_tfrecords
from transforms.simulation.world import SimulationSettings

BEST = "best possible"


@dataclass(frozen=True, kw_only=True)
class Features:
    """Which logs are read, one of `TABLES`, and whether the tower reads example age."""

    tables: str
    example_age: bool


FEATURES = {
    "watches": Features(tables="watches", example_age=False),
    "+ searches": Features(tables="searches", example_age=False),
    "+ example age": Features(tables="searches", example_age=True),
    "all": Features(tables="all", example_age=True),
}
Cell = tuple[str, int]  # features, depth; the depth of BEST is 0
Found = dict[Cell, list[float]]  # MAP per seed


def main() -> None:
    args = _arguments()
    found: Found = {}
    for seed in args.seeds:
        for cell, value in _measure_seed(args.out / f"seed-{seed}.json", seed, args).items():
            found.setdefault(cell, []).append(value)
    _print_table(found, args.depths)
    _print_gains(found, args.depths)
    if args.plot:
        save_plot(draw(found, args.depths), args.plot)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--days", type=int, default=21)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--signal", choices=SIGNALS, default="strong")
    parser.add_argument("--per-user", type=int, default=0, help="labels learned from; 0: all")
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 1, 2, 3, 4], choices=range(5))
    parser.add_argument("--width", type=int, default=64, help="units of the last hidden layer")
    parser.add_argument("--passes", type=int, default=5, help="passes over the labels")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--table-learning-rate", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def _measure_seed(path: Path, seed: int, args: argparse.Namespace) -> dict[Cell, float]:
    """Return MAP of every cell, from the file `path` where it has it. The file also has the simulation's settings."""
    settings = SimulationSettings(
        users=args.users, videos=args.videos, days=args.days, seed=seed, last_day=LAST, signal=SIGNALS[args.signal]
    )
    found: dict[Cell, float] = {}
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found = {(cell["features"], cell["depth"]): cell["map"] for cell in stored}
    cells = [(BEST, 0), *((name, depth) for depth in args.depths for name in FEATURES)]
    missing = [cell for cell in cells if cell not in found]
    for cell, value in _measure_cells(path.with_suffix(""), settings, missing, args) if missing else ():
        found[cell] = value
        stored = [{"features": name, "depth": depth, "map": of_cell} for (name, depth), of_cell in found.items()]
        text = json.dumps({"simulation": asdict(settings), "cells": stored}, indent=1, default=str)
        path.write_text(text, encoding="utf-8")
    return {cell: found[cell] for cell in cells}


def _measure_cells(
    out: Path, settings: SimulationSettings, cells: list[Cell], args: argparse.Namespace
) -> Iterator[tuple[Cell, float]]:
    """Yield MAP of cells. That of `BEST` is measured for the same users as the others."""
    if not (out / f"{list(TABLES)[-1]}.toml").exists():
        write_logs(out, settings, per_user=args.per_user)
    examples = {tables: write_examples(out, tables) for tables in TABLES}
    users = pl.concat([read_tfrecords(path, {"user_id": pl.String}) for path in examples["all"].holdout])["user_id"]
    best = best_ranking(last_morning(settings), users, ks=KS).compute()
    for name, depth in cells:
        began = time.monotonic()
        is_best = name == BEST
        figures = best if is_best else _train(examples[FEATURES[name].tables], name, depth, settings.seed, args)[-1]
        _tell(settings.seed, f"{name}, depth {depth}", figures, f"; {time.monotonic() - began:.0f} s")
        if figures["pairs"] != best["pairs"]:
            raise SystemExit(f"{figures['pairs']} videos were held out, but {best['pairs']} completed")
        yield (name, depth), figures["map"]


def _tell(seed: int, name: str, figures: Mapping[str, float], more: str = "") -> None:
    printed = ", ".join(f"{cut} {figures[cut]:.4f}" for cut in ("map", "recall@10", "recall@50", "recall@200"))
    print(f"seed {seed}: {name}: {printed}, {figures['users']} users{more}", flush=True)


def _train(files: ExampleFiles, name: str, depth: int, seed: int, args: argparse.Namespace) -> list[dict[str, float]]:
    """Return the figures of the held-out users after each pass."""
    model = ModelSettings.model_validate(
        {
            "dimension": 64,
            "hidden": [args.width * 2**layer for layer in reversed(range(depth))],
            "loss": "softmax",
            "dropout": args.dropout,
            "example_age": FEATURES[name].example_age,
        }
    )
    training = TrainingSettings(
        batch_size=args.batch_size,
        epochs=args.passes,
        table_learning_rate=args.table_learning_rate,
        learning_rate_schedule="linear",
        checkpoint_steps=10**9,
        holdout_sample=10**9,
        seed=seed,
    )
    folder, counts = args.out / f"training-{seed}", read_label_counts(files)
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    fitted = fit_examples(files, counts, folder, model=model, training=training)
    shutil.rmtree(folder)
    return fitted.progress.holdout


def _print_table(found: Mapping[Cell, list[float]], depths: list[int]) -> None:
    seeds, best = len(found[BEST, 0]), Interval.of(found[BEST, 0])
    print(f"\nholdout MAP, mean and 95 % interval over {seeds} seeds; in brackets the share of the best possible")
    print(f"{'':<16}" + "".join(f"{f'depth {depth}':>24}" for depth in depths))
    for name in FEATURES:
        cells = [(Interval.of(found[name, depth]), _shares(found, (name, depth))) for depth in depths]
        print(f"{name:<16}" + "".join(f"{f'{value} ({share.mean:.0%})':>24}" for value, share in cells))
    print(f"{BEST:<16}{best!s:>24}")


def _shares(found: Mapping[Cell, list[float]], cell: Cell) -> Interval:
    """Return the share of the best possible MAP that a cell reaches."""
    return Interval.of([value / best for value, best in zip(found[cell], found[BEST, 0], strict=True)])


def _print_gains(found: Mapping[Cell, list[float]], depths: list[int]) -> None:
    names = list(FEATURES)
    print("\ngain of MAP, by features")
    for before, name in pairwise(names):
        for depth in depths:
            print(f"{f'{name} over {before}, depth {depth}':<45}{gain(found[name, depth], found[before, depth])}")
    print("\ngain of MAP, by depth")
    for name in names:
        for shallow, deep in pairwise(depths):
            print(f"{f'{name}, depth {deep} over {shallow}':<45}{gain(found[name, deep], found[name, shallow])}")


def gain(values: list[float], others: list[float]) -> str:
    """Return the mean difference within a seed with its interval, and whether it is significant."""
    found = Interval.of([value - other for value, other in zip(values, others, strict=True)])
    difference = f"{found.mean:+.4f} ±{found.half:.4f}"
    if len(values) == 1:
        return f"{difference}  one seed tells nothing"
    if abs(found.mean) <= found.half:
        return f"{difference}  no gain beyond the interval"
    return difference if found.mean > 0 else f"{difference}  a loss"


def draw(found: Mapping[Cell, list[float]], depths: list[int]) -> Figure:
    """Plot MAP over depth, one line per feature set, with bars for the intervals."""
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    for place, name in enumerate(FEATURES):
        cells = [Interval.of(found[name, depth]) for depth in depths]
        shifted = [depth + 0.04 * (place - 1.5) for depth in depths]  # so that bars do not hide each other
        means, bars = [cell.mean for cell in cells], [cell.half for cell in cells]
        axes.errorbar(shifted, means, yerr=bars, marker="o", markersize=4, capsize=3, linewidth=1.4, label=name)
    best = Interval.of(found[BEST, 0]).mean
    axes.axhline(best, color="black", linestyle=":", linewidth=1, label=f"{BEST}: {best:.3f}")
    axes.set(xlabel="depth of the tower", ylabel="holdout MAP", xticks=depths)
    quiet_axes(axes)
    return figure


if __name__ == "__main__":
    main()
