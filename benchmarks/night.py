"""Measure a warm night at full size: time per stage, time besides the stages' own work, and the report.

    python -m benchmarks.night OUT [--users 100000] [--videos 20000]

OUT is a new folder. Simulates 22 days of logs, runs the night after 21 of them, adds the last day and runs the next
night, which starts from the first one's model: this warm night is measured. The first night trains one pass, of the
generator and of the ranker, because it is only the base of the second. A stage's own work is the time in its manifest,
from its first line to its commit. The rest of the command's time is starting nine processes with their imports and
ends, the checks between them, and `nightly` itself. The report is opened in a headless Chromium, if there is one, and
compared with an empty page.
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

from benchmarks.night_log import COMMAND, Log, report_of
from pipelines.config.jobs import load_job
from pipelines.night.night import Night
from pipelines.night.stage import STAGES
from pipelines.simulate import DAILY, simulate
from transforms.simulation.world import SimulationSettings

WARM, DAYS = dt.date(2026, 11, 21), 22
MOST_SECONDS_BESIDE, MOST_REPORT_BYTES, MOST_SECONDS_TO_OPEN = 45, 5_000_000, 2
OPENINGS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--videos", type=int, default=20_000)
    args = parser.parse_args()
    last = WARM - dt.timedelta(days=1)
    settings = SimulationSettings(users=args.users, videos=args.videos, days=DAYS, seed=7, last_day=last)
    counts = simulate(args.out, settings)
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
