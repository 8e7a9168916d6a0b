"""Measure a warm night at full size: time per stage, time besides the stages' own work, and the report.

    python -m benchmarks.night OUT [--users 100000] [--videos 20000] [--unranked]

OUT is a new folder. Simulates 22 days of logs, runs the night after 21 of them, adds the last day and runs the next
night, which starts from the first one's model: this warm night is measured. The first night trains one pass, of the
generator and of the ranker, because it is only the base of the second. A stage's own work is the time in its manifest,
from its first line to its commit. The rest of the command's time is starting nine processes with their imports and
ends, the checks between them, and `nightly` itself. The served lists are compared with the baselines on the held-out
users, and with the simulator's true probabilities on the day after the night. The report is opened in a headless
Chromium, if there is one, and compared with an empty page. With --unranked, impressions are not used.
"""

from __future__ import annotations

import argparse
import datetime as dt
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.night_log import COMMAND, Log, report_of
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.night.stage import STAGES
from pipelines.simulate import DAILY, simulate
from transforms.contracts.retrieval_metrics import RankingMetrics, hits_from_ids
from transforms.evaluation import night_metrics
from transforms.simulation.world import SimulationSettings

WARM, DAYS = dt.date(2026, 11, 21), 22
MOST_SECONDS_BESIDE, MOST_REPORT_BYTES, MOST_SECONDS_TO_OPEN = 45, 5_000_000, 2
OPENINGS = 5
CUTS = (10, 50, 100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--unranked", action="store_true", help="publish the lists of stage neighbours")
    args = parser.parse_args()
    last = WARM - dt.timedelta(days=1)
    settings = SimulationSettings(users=args.users, videos=args.videos, days=DAYS, seed=7, last_day=last)
    counts = simulate(args.out, settings)
    if not args.unranked:
        rank_lists(args.out / "job.toml")
    print(f"{counts['watches']:,} watches, {counts['searches']:,} searches in {DAYS} days", flush=True)
    for table in DAILY:
        (args.out / table / f"{last}.parquet").rename(args.out / f"{table}-of-the-last-day.parquet")
    run_night(args.out, last, learning_once(args.out))
    for table in DAILY:
        (args.out / f"{table}-of-the-last-day.parquet").rename(args.out / table / f"{last}.parquet")
    log, seconds = run_night(args.out, WARM, args.out / "job.toml")
    night = Night(load_job(str(args.out / "job.toml")), WARM)
    print_stages(night, log, seconds)
    print_quality(night)
    print_share_of_best(night, args.out / "truth")
    report = report_of(args.out / "runs", WARM)
    if report:
        print_report(report)
    end = log.end_of(WARM)
    return int(end["exit_code"]) if end else 1


def rank_lists(job: Path) -> None:
    """Change the job so that lists are ranked, whatever this loses in recall: both orders are measured."""
    text = job.read_text(encoding="utf-8").replace("# impressions =", "impressions =")
    job.write_text(f"{text}[gates]\nmax_ranking_loss = 1\n", encoding="utf-8")


def learning_once(out: Path) -> Path:
    """Write the job with one training pass and return its path."""
    path = out / "first.toml"
    job = (out / "job.toml").read_text(encoding="utf-8")
    path.write_text(f"{job}[training]\nepochs = 1\n[ranking]\nepochs = 1\n", encoding="utf-8")
    return path


def run_night(out: Path, date: dt.date, job: Path) -> tuple[Log, float]:
    """Run the command and return its log and its wall time in seconds."""
    log = Log(out / f"night-{date}.jsonl")
    began = time.monotonic()
    with log.path.open("wb") as errors:
        command = [*COMMAND, str(job), "--date", date.isoformat(), "--log-format", "json"]
        subprocess.run(command, stderr=errors, check=False)
    seconds = time.monotonic() - began
    end = log.end_of(date) or {"message": "it said nothing of its end"}
    print(f"night {date}: {seconds:.0f} s; {end['message']}", flush=True)
    return log, seconds


def print_stages(night: Night, log: Log, seconds: float) -> None:
    """Print one line per stage, and the rest of the command's seconds."""
    processes = log.stage_seconds()
    work = {stage: night.require(stage).seconds for stage in STAGES if stage in processes}
    print(f"{'stage':<12}{'process':>10}{'own work':>10}{'beside':>10}  seconds")
    for stage, own in work.items():
        print(f"{stage:<12}{processes[stage]:>10.1f}{own:>10.1f}{processes[stage] - own:>10.1f}")
    print(f"{'nightly':<12}{'':>10}{'':>10}{seconds - sum(processes.values()):>10.1f}")
    beside = seconds - sum(work.values())
    print(f"{'the command':<12}{seconds:>10.1f}{sum(work.values()):>10.1f}{beside:>10.1f}", end="")
    print(f"  beside the stages' own work: {beside:.1f} s, wanted: under {MOST_SECONDS_BESIDE} s")
    print(f"training went on from: {night.require('train').counts.get('start', {})}")


def print_quality(night: Night) -> None:
    """Print the difference of the served lists and each other system on the held-out users, with 95 % intervals."""
    found = night_metrics.read(Path(night.folder("evaluation"), night_metrics.FILE).read_bytes())
    if found is None or found.holdout is None:
        print("no held-out users were measured")
        return
    print(f"{found.served_system}, {found.holdout.users:,} held-out users, minus")
    for system, differences in found.differences.items():
        cells = [f"{name} {of.value:+.3f} ({of.low:+.3f} to {of.high:+.3f})" for name, of in differences.items() if of]
        print(f"  {system:<28}{', '.join(cells)}")


def print_share_of_best(night: Night, truth: Path) -> None:
    """Print figures of the served lists and of the simulator's order, on what users completed on the day of the night.

    `truth` has the true order of a sample of users, as of the morning of that day.
    """
    order = pl.read_parquet(truth / "preferences.parquet").group_by("user_id", maintain_order=True).agg("video_id")
    watched = pl.read_parquet(truth / "next_day.parquet").group_by("user_id").agg("video_id")
    served = pl.read_parquet(lists_folder(night) / "*.parquet").select("user_id", lists="video_ids")
    users = watched.join(order, on="user_id", suffix="_in_order").join(served, on="user_id", how="left")
    figures = {name: figures_of(users[name], users["video_id"]) for name in ("lists", "video_id_in_order")}
    ours, best = figures.values()
    print(f"day after the night, {len(users):,} users:")
    for name in ("map", *(f"recall@{k}" for k in CUTS)):
        print(f"  {name:<12}{ours[name]:.3f}, the simulator's order {best[name]:.3f}: {ours[name] / best[name]:.0%}")


def lists_folder(night: Night) -> Path:
    """Return the folder of the lists that stage publish serves."""
    return Path(night.folder("ranking" if night.job.logs.impressions else "neighbours"))


def figures_of(lists: pl.Series, watched: pl.Series) -> dict[str, float]:
    """Return retrieval metrics of one list of video ids per user, null for none, against the videos watched."""
    ids = pl.concat([lists.explode(), watched.explode()]).drop_nulls().unique()
    codes = pl.DataFrame({"id": ids, "code": pl.int_range(len(ids), eager=True)})
    places = lists.list.eval(pl.element().replace_strict(codes["id"], codes["code"]))
    ranked = places.list.head(max(CUTS)).fill_null(pl.Series([[]], dtype=places.dtype))
    padded = np.array([row + [-1] * (max(CUTS) - len(row)) for row in ranked.to_list()], np.int64)
    wanted = watched.list.len().to_numpy().astype(np.int64)
    labels = watched.explode().replace_strict(codes["id"], codes["code"]).to_numpy()
    hits = hits_from_ids(padded, offsets=np.concatenate([[0], np.cumsum(wanted)]), labels=labels)
    return RankingMetrics.from_hits(hits, wanted, ks=CUTS).compute()


def print_report(report: Path) -> None:
    """Print the size of the report, and the median seconds in which a browser opens it."""
    print(f"report: {report.stat().st_size:,} bytes, wanted: under {MOST_REPORT_BYTES:,}; {report}")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("no Chromium is here to open it")
        return
    opened, empty = (open_seconds(browser, url) for url in (report.resolve().as_uri(), "about:blank"))
    print(
        f"opened by {browser} in {opened:.2f} s, wanted: under {MOST_SECONDS_TO_OPEN} s; an empty page: {empty:.2f} s"
    )


def open_seconds(browser: str, url: str) -> float:
    """Return the median time from the start of the browser to its end, with the page loaded and dumped."""
    taken = []
    with tempfile.TemporaryDirectory(prefix="watchnext-") as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
        for _ in range(OPENINGS):
            began = time.monotonic()
            subprocess.run([browser, *flags, url], capture_output=True, check=True)
            taken.append(time.monotonic() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    raise SystemExit(main())
