"""Measure the order of ranked lists on made logs: tastes times popularity, no order, videos of different lengths.

    python -m benchmarks.ranking_order OUT --seeds 4 5 6 --clicks 0.12 0.45

For each seed and share of clicked impressions it makes the logs of 1,500 users and 800 videos, runs a night up to its
ranked lists, and prints the weight that the night chose (`order_weight`), the served expected seconds beyond the
video's length, the calibration on held-out impressions, and, for what all users completed on the day after (which no
stage has read), recall@10 and the share of watch time in the first 10 videos of the served lists and of the neighbours'
lists, with the paired difference and its 95 % interval. With `--weights` it prints these also by each weight in place
of the chosen one, to choose settings by: use other seeds than those to report.
"""

from __future__ import annotations

import argparse
import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.ranked import STAGES
from pipelines import ranking
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.night.outputs import RankingOutputs
from transforms.core.bootstrap import Replicates, interval, weights
from transforms.core.digests import id_digests
from transforms.ranking.order import GRID, as_numbers, order_scores
from transforms.ranking.rank_lists import list_candidates
from transforms.ranking.watch_time_recall import completed_seconds, seconds_in_lists

USERS, VIDEOS, TOPICS, DAYS = 1_500, 800, 20, 14
PAGE_VIDEOS, PAGES_A_DAY, WATCHES_A_DAY = 10, 0.8, 1.5  # means of a user
NIGHT = dt.date(2026, 11, 21)
CUT = 10
JOB = """\
[logs]
watches = "watches.parquet"
videos = "videos.parquet"
impressions = "impressions.parquet"
[examples]
window_days = 14
[neighbours]
k = 100
"""
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class World:
    """Users' probabilities of the next video, [users, videos], and what they watch of a video once it is clicked."""

    choice: Floats  # rows sum to 1
    match: Floats  # in (0, 1]: how well the video's topic matches the user's taste
    lengths: Floats  # seconds, [videos]
    popularity: Floats  # sums to 1, [videos]
    click_shift: float


def make_world(draw: np.random.Generator, clicks: float) -> World:
    """Draw tastes over topics, popularity and lengths, independent of each other."""
    topic = draw.integers(0, TOPICS, VIDEOS)
    taste = draw.dirichlet(np.full(TOPICS, 0.15), USERS) + 0.01
    popularity = draw.lognormal(0, 1, VIDEOS)
    popularity /= popularity.sum()
    match = (taste / taste.max(axis=1, keepdims=True))[:, topic]
    choice = popularity * taste[:, topic]
    choice /= choice.sum(axis=1, keepdims=True)
    lengths = np.clip(draw.lognormal(np.log(300), 1.0, VIDEOS), 20, 7_200).round()
    world = World(choice=choice, match=match, lengths=lengths, popularity=popularity, click_shift=0.0)
    page, videos = _chosen(shown_probability(world), np.full(USERS, PAGE_VIDEOS), np.random.default_rng(0))
    low, high = -9.0, 9.0
    for _ in range(40):
        middle = (low + high) / 2
        few = click_probability(world, middle)[page, videos].mean() < clicks
        low, high = (middle, high) if few else (low, middle)
    return replace(world, click_shift=low)


def shown_probability(world: World) -> Floats:
    """Return the probability of each video to be shown: half by taste, half by popularity."""
    return (world.choice + world.popularity) / 2


def click_probability(world: World, shift: float) -> Floats:
    """Return the probability of a click on each video if it is shown."""
    return np.asarray(1 / (1 + np.exp(-(np.log(world.match) + shift))))


def watched_fraction(
    world: World, users: NDArray[np.int64], videos: NDArray[np.int64], draw: np.random.Generator
) -> Floats:
    """Draw the watched share of videos: less of long ones and of those that do not match the taste."""
    mean = 0.75 * (world.lengths[videos] / 240) ** -0.25 * (0.5 + 0.5 * world.match[users, videos])
    mean = np.clip(mean, 0.05, 0.95)
    return draw.beta(4 * mean, 4 * (1 - mean))


def make_logs(out: Path, seed: int, clicks: float) -> float:
    """Write watches, impressions and the catalogue of `DAYS` days, the day after as truth.parquet, and the job.

    Returns the share of clicked impressions.
    """
    draw = np.random.default_rng([seed, round(1_000 * clicks)])
    world = make_world(draw, clicks)
    completed = np.zeros((USERS, VIDEOS), bool)
    watches, impressions = [], []
    start = dt.datetime.combine(NIGHT - dt.timedelta(days=DAYS), dt.time(), dt.UTC)
    for day in range(DAYS + 1):
        organic, shown = _day(world, completed, day, draw)
        watches.append(organic)
        impressions.append(shown)
        both = pl.concat([organic, shown.filter("clicked").select(organic.columns)])
        done = both.filter(pl.col("watch_seconds") >= 0.5 * pl.col("video_seconds"))
        completed[done["user"].to_numpy(), done["video"].to_numpy()] = True
    out.mkdir(parents=True, exist_ok=True)
    shown = _named(pl.concat(impressions), start)
    of_clicks = shown.filter("clicked").select("user_id", "video_id", "time", "watch_seconds", "video_seconds")
    every_watch = pl.concat([_named(pl.concat(watches), start), of_clicks], how="diagonal").sort("time")
    night = dt.datetime.combine(NIGHT, dt.time(), dt.UTC)
    every_watch.filter(pl.col("time") < night).write_parquet(out / "watches.parquet")
    shown.filter(pl.col("time") < night).drop("video_seconds").write_parquet(out / "impressions.parquet")
    after = every_watch.filter(pl.col("time") >= night)
    done = after.with_columns(completed=pl.col("watch_seconds") >= 0.5 * pl.col("video_seconds"))
    done.write_parquet(out / "truth.parquet")
    videos = pl.DataFrame({"video": np.arange(VIDEOS), "video_seconds": world.lengths})
    videos.select(_id("v", "video").alias("video_id"), "video_seconds").write_parquet(out / "videos.parquet")
    (out / "job.toml").write_text(JOB, encoding="utf-8")
    return float(shown["clicked"].mean() or 0.0)  # type: ignore[arg-type]


def _day(
    world: World, completed: NDArray[np.bool_], day: int, draw: np.random.Generator
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the watches that users choose themselves, and the impressions of a day."""
    users, videos = _chosen(world.choice * ~completed, draw.poisson(WATCHES_A_DAY, USERS), draw)
    seconds = draw.integers(0, 86_400, len(users))
    organic = _frame(world, users, videos, day * 86_400 + seconds, draw)
    pages = draw.poisson(PAGES_A_DAY, USERS)
    of_page = np.repeat(np.arange(USERS), pages)
    probabilities = (shown_probability(world) * ~completed)[of_page]
    page, videos = _chosen(probabilities, np.full(len(of_page), PAGE_VIDEOS), draw)
    users = of_page[page]
    at = day * 86_400 + np.sort(draw.integers(0, 86_000, len(of_page)))[page]
    shown = _frame(world, users, videos, at, draw)
    clicked = draw.random(len(users)) < click_probability(world, world.click_shift)[users, videos]
    return organic, shown.with_columns(
        page_id=pl.Series(page).cast(pl.String) + f"-{day}",
        clicked=pl.Series(clicked),
        watch_seconds=pl.when(pl.Series(clicked)).then("watch_seconds").otherwise(0.0),
    )


def _chosen(
    probabilities: Floats, counts: NDArray[np.int64], draw: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw distinct videos for each row, by Gumbel noise: (rows, videos)."""
    with np.errstate(divide="ignore"):
        keys = np.log(probabilities) + draw.gumbel(size=probabilities.shape)
    most = int(counts.max(initial=0))
    order = np.argsort(-keys, axis=1)[:, :most]
    kept = (np.arange(most) < counts[:, None]) & (np.take_along_axis(probabilities, order, axis=1) > 0)
    return np.nonzero(kept)[0], order[kept]


def _frame(
    world: World, users: NDArray[np.int64], videos: NDArray[np.int64], at: NDArray[np.int64], draw: np.random.Generator
) -> pl.DataFrame:
    seconds = (watched_fraction(world, users, videos, draw) * world.lengths[videos]).round(1)
    return pl.DataFrame(
        {"user": users, "video": videos, "at": at, "watch_seconds": seconds, "video_seconds": world.lengths[videos]}
    )


def _named(rows: pl.DataFrame, start: dt.datetime) -> pl.DataFrame:
    time = pl.lit(start) + pl.duration(seconds=pl.col("at"))
    ids = {"user_id": _id("u", "user"), "video_id": _id("v", "video"), "time": time.cast(pl.Datetime("us", "UTC"))}
    return rows.with_columns(**ids).drop("user", "video", "at")


def _id(prefix: str, column: str) -> pl.Expr:
    return prefix + pl.col(column).cast(pl.String).str.zfill(4)


def run_night(out: Path, date: dt.date) -> Night:
    """Run a night up to its ranked lists, in this process."""
    night = Night(load_job(str(out / "job.toml")), date)
    for stage in (*STAGES, ranking):
        stage.run(night)
    return night


def read_lists(night: Night) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the lists of stage neighbours and the ranked ones, in the same order of users."""
    folders = [night.folder(stage) for stage in ("neighbours", "ranking")]
    found, ranked = (pl.read_parquet(f"{folder}/0*.parquet").sort("user_id") for folder in folders)
    return found, ranked


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A figure of the served lists and of the neighbours', and the paired difference with its 95 % interval."""

    served: float
    neighbours: float
    low: float
    high: float

    def __str__(self) -> str:
        of = f"({self.low:+.4f} to {self.high:+.4f})"
        return f"{self.served:.4f}, neighbours {self.neighbours:.4f}, {self.served - self.neighbours:+.4f} {of}"


def compare(lists: pl.DataFrame, others: pl.DataFrame, truth: pl.DataFrame) -> tuple[Compared, Compared]:
    """Return recall and watch time of the first `CUT` videos. lists, others: user_id, video_ids, of the same users."""
    wanted = completed_seconds(truth.join(lists.select("user_id"), on="user_id", how="semi"))
    counted = wanted.with_columns(seconds=pl.lit(1, pl.Int64))
    drawn, found = weights(id_digests(lists["user_id"]).to_numpy()), []
    for amounts in (counted, wanted):
        totals = lists.select("user_id").join(
            amounts.group_by("user_id").agg(pl.col("seconds").sum()), on="user_id", how="left", maintain_order="left"
        )
        columns = {"all": totals["seconds"].fill_null(0).to_numpy()}
        columns |= {name: seconds_in_lists(of, amounts, CUT) for name, of in (("served", lists), ("other", others))}
        sums = Replicates.from_columns(drawn, columns)
        low, high = interval(sums.ratio("served", "all") - sums.ratio("other", "all"))
        shares = {name: float(column.sum() / columns["all"].sum()) for name, column in columns.items()}
        found.append(Compared(served=shares["served"], neighbours=shares["other"], low=low, high=high))
    return found[0], found[1]


def beyond_length(ranked: pl.DataFrame, videos: pl.DataFrame) -> tuple[int, int]:
    """Return the number of served expected seconds above the length of the video, and of all."""
    rows = ranked.select("user_id", "video_ids", "expected_seconds").explode("video_ids", "expected_seconds")
    rows = rows.drop_nulls("expected_seconds").join(videos, left_on="video_ids", right_on="video_id")
    return rows.filter(pl.col("expected_seconds").cast(pl.Float64) > pl.col("video_seconds")).height, rows.height


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking_order", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6])
    parser.add_argument("--clicks", type=float, nargs="+", default=[0.12, 0.45])
    parser.add_argument("--nights", type=int, default=1, help="the ranker of a first night has no earlier lists")
    parser.add_argument("--weights", action="store_true", help="also print the figures by every weight")
    args = parser.parse_args(argv)
    for clicks in args.clicks:
        for seed in args.seeds:
            out = args.out / f"{clicks:g}-{seed}"
            share = make_logs(out, seed, clicks)
            nights = [run_night(out, NIGHT - dt.timedelta(days=before)) for before in reversed(range(args.nights))]
            print(f"seed {seed}, {share:.1%} of the impressions clicked")
            report(nights[-1], out)
            if args.weights:
                report_weights(nights[-1], out)
    return 0


def report(night: Night, out: Path) -> None:
    """Print the figures of a night."""
    truth, videos = pl.read_parquet(out / "truth.parquet"), pl.read_parquet(out / "videos.parquet")
    found, ranked = read_lists(night)
    recall, watch_time = compare(ranked, found, truth)
    beyond, served = beyond_length(ranked, videos)
    outputs = night.outputs(RankingOutputs)
    assert outputs.ranked and outputs.ranked.order and outputs.calibration
    total, classes = outputs.calibration.total, outputs.calibration.classes
    ratios = ", ".join(f"{of.ratio:.2f}" for of in classes if of.ratio)
    print(f"  order_weight {outputs.ranked.order.weight}, by halves {outputs.ranked.order.halves}")
    print(f"  expected seconds beyond the length: {beyond} of {served:,}")
    print(f"  expected {total.predicted_seconds:.1f} s, watched {total.watched_seconds:.1f} s, by decile {ratios}")
    print(f"  recall@{CUT}  {recall}")
    print(f"  watch time {watch_time}", flush=True)


def report_weights(night: Night, out: Path) -> None:
    """Print recall and watch time by each weight of the grid, on the day after."""
    truth, (found, ranked) = pl.read_parquet(out / "truth.parquet"), read_lists(night)
    columns = ["user_id", "video_ids"]
    rows = list_candidates(found, night.job.ranking.candidates, night.dates.end).rename({"video_id": "video_ids"})
    seconds = ranked.select(*columns, "expected_seconds").explode("video_ids", "expected_seconds").drop_nulls()
    rows = rows.join(seconds, on=columns)
    for weight, number in zip(GRID, as_numbers(GRID), strict=True):
        scored, generator, rank = (rows[name].to_numpy() for name in ("expected_seconds", "generator", "rank"))
        scores = order_scores(scored, generator, rank, number)
        ordered = rows.with_columns(score=scores).sort("user_id", "score", "rank", descending=[False, True, False])
        recall, watch_time = compare(ordered.group_by("user_id", maintain_order=True).agg("video_ids"), found, truth)
        print(f"  weight {weight}: recall@{CUT} {recall}; watch time {watch_time}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
