"""Compare the ranker with simpler orders on KuaiRand's impressions: per-user loss, in one table.

    python -m benchmarks.ranking_kuairand PATH OUT [--validation] [--set KEY=VALUE ...] [--rankers none 256 ...]

PATH is the folder of the data set `kuairand-pure-processed` of `watchnext import`; OUT is a folder in which each night
is run once. A ranker learns from the impressions of the validation days (2022-04-25 to 30) and is measured on those of
the test days (2022-05-01 to 08). With --validation, for choosing settings, it learns from 04-25 to 28 and is measured
on 04-29 and 30. The generator's features come from the night of 04-25, which learned from earlier days only. All other
features are the user's events strictly before an impression, and what became of all impressions of earlier days, on
measured days too. The orders by a video's rates are learned once, from the days that the ranker learns from, or read as
of the start of each measured day. Each ranker is also trained without the outcomes of earlier days. The calibration is
that of the night's own ranker, as served.

These logs have no pages: here a page is what a user was shown in one tab without a pause of half an hour. The channel
of a video is its first tag. The seconds of a click are its play time; impressions without a click count as not watched.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.ranked import Shown, difference, held_out, ranking_records, run_lists, without_outcomes
from benchmarks.real_logs import write_logs
from pipelines.base import manifest
from pipelines.night.outputs import RankingOutputs
from trainer.ranker.config import TOWERS, RankerSettings
from trainer.ranker.task import read_ranking_folder
from trainer.ranker.training import RankingFiles, fit_ranker
from transforms.contracts.ranking_spec import RankingSpec

GENERATOR = dt.date(2022, 4, 25)
TEST = (dt.date(2022, 5, 9), 8)  # the night, and the number of measured days before it
VALIDATION = (dt.date(2022, 5, 1), 2)
PARTS = ("val", "test")
PAUSE_MILLISECONDS = 30 * 60_000
BEIJING = pl.duration(hours=8)  # times are Beijing's wall clock written as UTC, as in the imported logs
JOB = """\
[logs]
watches = "logs/watches/*.parquet"
{impressions}
videos = "logs/videos.parquet"
users = "logs/users.parquet"
[examples]
window_days = 28
per_user = {per_user}
holdout_days = {holdout_days}
holdout_users = 1.0
user_categories = ["activity"]
[model]
dimension = 64
hidden = [256]
history = "recency"
dropout = 0.5
negatives = 2000
[training]
epochs = {epochs}
max_steps = {max_steps}
[neighbours]
k = 200
[ranking]
epochs = 1
[storage]
root = "runs"
keep_examples = true
"""
PRIOR = 20  # pseudo-impressions at the mean, for smoothing
Scores = npt.NDArray[np.floating]


def main() -> None:
    args = _arguments()
    args.out.mkdir(exist_ok=True)
    records = _records(args)
    files, paths = read_ranking_folder(str(records)), held_out(records)
    changed = tomllib.loads("\n".join(args.set))
    rows: dict[str, Scores] = {}
    learned = shown = None
    fewer = without_outcomes(files, args.out / "without-outcomes")
    for name in args.rankers:
        settings = RankerSettings.model_validate(changed | {"hidden": name})
        rows[f"ranker {name} without outcomes"] = Shown.of(fit_ranker(fewer, settings).ranker, paths).log_odds
        fitted = fit_ranker(files, settings)
        shown, progress = Shown.of(fitted.ranker, paths), fitted.progress
        learned = learned or Shown.of(fitted.ranker, files.train)
        rows[f"ranker {name}"] = shown.log_odds
        print(f"ranker {name}: {progress.examples / progress.seconds:,.0f} examples/s", flush=True)
    _print_calibration(records)
    assert learned is not None and shown is not None
    rows |= simpler(learned, shown, files, fewer)
    _print_table(shown, rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--rankers", nargs="+", default=["none", "256", "1024-512-256"], choices=TOWERS)
    return parser.parse_args()


def _records(args: argparse.Namespace) -> Path:
    """Run the nights that OUT lacks, and return the folder of the later night's ranking records.

    A night reads no logs of its future, so each finds only what was logged before it.
    """
    date, days = VALIDATION if args.validation else TEST
    nights, logs = args.out / "runs" / "nights", args.out / "logs"
    if (nights / date.isoformat() / "ranked" / "COMPLETED").exists():
        return nights / date.isoformat() / "ranked" / "examples"
    processed = args.path / "processed"
    if not (nights / GENERATOR.isoformat() / "neighbours" / "COMPLETED").exists():
        if not logs.exists():
            write_logs(args.path, "kuairand", logs, validation=False)
            add_channels(logs / "videos.parquet", processed)
        job = JOB.format(impressions="", per_user=0, holdout_days=0, epochs=8, max_steps=10**9)
        run_lists(_written(job, args.out, GENERATOR), GENERATOR)
    for part in PARTS if date == TEST[0] else PARTS[:1]:
        write_events(processed, logs, part)
    # No impression here uses the later nights' models, so they are trained for one step only.
    others = json.dumps([other.isoformat() for other, _ in (VALIDATION, TEST)])
    (args.out / "runs" / "withdrawn.json").write_text(others, encoding="utf-8")
    later = {"per_user": 1, "holdout_days": days, "epochs": 1, "max_steps": 1}
    job = JOB.format(impressions='impressions = "logs/impressions/*.parquet"', **later)
    return ranking_records(_written(job, args.out, date), date, generators=[])


def _written(job: str, out: Path, date: dt.date) -> Path:
    path = out / f"{date}.toml"
    path.write_text(job, encoding="utf-8")
    return path


def add_channels(videos: Path, processed: Path) -> None:
    """Set the channel of the imported videos to their first tag."""
    tags = pl.read_parquet(processed / "item_features.parquet", columns=["video_id", "tag"])
    tags = tags.select(pl.col("video_id").cast(pl.String), channel=pl.col("tag").str.split(",").list.first())
    pl.read_parquet(videos).join(tags, on="video_id", how="left").write_parquet(videos)


def write_events(processed: Path, logs: Path, part: str) -> None:
    """Write the events of some days as watches, as the importer does, and as impressions, unless they exist."""
    path = logs / "impressions" / f"{part}.parquet"
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    wanted = ["user_id", "video_id", "time_ms", "is_click", "long_view", "play_time_ms", "duration_ms", "tab"]
    events = pages(pl.read_parquet(processed / f"{part}.parquet", columns=wanted)).with_columns(
        pl.col("user_id", "video_id", "tab").cast(pl.String),
        time=pl.col("time_ms").cast(pl.Datetime("ms", "UTC")) + BEIJING,
        seconds=(pl.col("play_time_ms") / 1000).cast(pl.Float32),
        clicked=pl.col("is_click") == 1,
    )
    ids = ["user_id", "video_id", "time"]
    length = (pl.col("duration_ms") / 1000).cast(pl.Float32)
    watches = events.select(
        *ids, watch_seconds="seconds", video_seconds=length, completed=pl.col("long_view") == 1, tab="tab"
    )
    watches.write_parquet(logs / "watches" / f"part-{part}.parquet")
    seconds = pl.when("clicked").then("seconds").otherwise(0)
    events.select(
        *ids, pl.format(f"{part}-{{}}", "page").alias("page_id"), "clicked", watch_seconds=seconds
    ).write_parquet(path)


def pages(events: pl.DataFrame) -> pl.DataFrame:
    """Add `page` to events: a number per run of impressions in one tab without a pause of half an hour."""
    ordered = events.sort("user_id", "tab", "time_ms", "video_id")
    same = (pl.col("user_id") == pl.col("user_id").shift()) & (pl.col("tab") == pl.col("tab").shift())
    new = ~same | (pl.col("time_ms").diff() > PAUSE_MILLISECONDS)
    return ordered.with_columns(page=new.fill_null(True).cum_sum())


def simpler(learned: Shown, shown: Shown, files: RankingFiles, fewer: RankingFiles) -> dict[str, Scores]:
    """Return the scores of the orders that the ranker is compared with, learned from the same impressions.

    fewer: `without_outcomes` of the files.
    """
    rates = click_rate(learned, shown), watch_rate(learned, shown)
    return {
        "click-through rate of the video": rates[0],
        "watch time of the video": rates[1],
        "watch time as of the day": np.nan_to_num(shown.columns["video_impression_seconds"], nan=0),
        "the generator's score": np.nan_to_num(shown.columns["score"], nan=-1e9),
        "boosted trees, clicks": boosted_trees(learned, shown, files.spec, weigh_seconds=False),
        "boosted trees, watch time": boosted_trees(learned, shown, files.spec, weigh_seconds=True),
        "trees, watch time, without outcomes": boosted_trees(learned, shown, fewer.spec, weigh_seconds=True),
    }


def click_rate(learned: Shown, shown: Shown) -> Scores:
    """Return the share of a video's impressions that were clicked, smoothed towards the overall share."""
    return _rate(learned, shown, learned.columns["clicked"])


def watch_rate(learned: Shown, shown: Shown) -> Scores:
    """Return the watch seconds per impression of a video, smoothed towards the overall mean."""
    return _rate(learned, shown, learned.columns["watch_seconds"])


def _rate(learned: Shown, shown: Shown, values: npt.NDArray[np.generic]) -> Scores:
    video = learned.columns["video"].astype(np.int64)
    size = int(max(video.max(), shown.columns["video"].max())) + 1
    total, count = np.bincount(video, weights=values, minlength=size), np.bincount(video, minlength=size)
    rates: Scores = (total + PRIOR * values.mean()) / (count + PRIOR)
    return rates[shown.columns["video"]]


def boosted_trees(learned: Shown, shown: Shown, spec: RankingSpec, *, weigh_seconds: bool) -> Scores:
    """Train LightGBM on the same features with the ranker's loss; ids and categories are categorical.

    Trees cannot read histories, so these are left out. With `weigh_seconds` clicks are weighted by watch time.
    """
    import lightgbm

    names = [name for name in spec.features if name not in ("watches", "tokens")]
    categories = [name for name in names if name not in spec.numbers]
    clicked, seconds = learned.columns["clicked"], learned.columns["watch_seconds"]
    weights = np.where(clicked.astype(bool), seconds if weigh_seconds else 1, 1)
    parameters = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 63, "min_data_in_leaf": 50, "seed": 1}
    parameters |= {"verbosity": -1, "num_threads": 1, "deterministic": True, "cat_smooth": 50}
    data = lightgbm.Dataset(
        _matrix(learned, names), clicked, weight=weights, feature_name=names, categorical_feature=categories
    )
    trees = lightgbm.train(parameters, data, num_boost_round=200)
    return np.asarray(trees.predict(_matrix(shown, names), raw_score=True))


def _matrix(shown: Shown, names: list[str]) -> npt.NDArray[np.float64]:
    return np.stack([shown.columns[name].astype(np.float64) for name in names], axis=1)


def _print_table(shown: Shown, rows: Mapping[str, Scores]) -> None:
    counts = shown.metrics(shown.log_odds).compute()
    told = ", ".join(f"{int(counts[name]):,} {name}" for name in ("impressions", "clicks", "users", "pages", "pairs"))
    print(f"\n{told}\n{'':<36}{'per-user loss, %':>18}{'ndcg':>8}{'auc':>8}   less loss by the best ranker, points")
    rankers = [name for name in rows if name.startswith("ranker")]
    losses = {name: shown.metrics(scores).compute() for name, scores in rows.items()}
    best = min(rankers, key=lambda name: losses[name]["per_user_loss"])
    for name, scores in rows.items():
        figures = losses[name]
        low, high = (100 * bound for bound in difference(shown, rows[best], scores))
        of = "" if name == best else f"{low:+.2f} to {high:+.2f}{'' if low > 0 else '  NOT BEYOND DOUBT'}"
        print(f"{name:<36}{100 * figures['per_user_loss']:>18.2f}{figures['ndcg']:>8.4f}{figures['auc']:>8.4f}   {of}")


def _print_calibration(records: Path) -> None:
    """Print the expected seconds as the night serves them: each half of the users by the calibration of the other."""
    measured = manifest.load_outputs(str(records.parent), RankingOutputs)
    assert measured is not None and measured.calibration is not None
    total, classes = measured.calibration.total, measured.calibration.classes
    print(f"seconds an impression: expected {total.predicted_seconds:.2f}, watched {total.watched_seconds:.2f}")
    print(f"  by tenth: {', '.join(f'{of.ratio:.3f}' for of in classes if of.ratio)}", flush=True)


if __name__ == "__main__":
    main()
