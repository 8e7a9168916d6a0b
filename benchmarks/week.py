"""Run seven nights in a row in which things go wrong, and check what is published on each and served meanwhile.

    python -m benchmarks.week OUT [--users 600] [--videos 300]

OUT is a new folder. Every night is the real command, on logs that arrive day by day, with a real Redis server:

    1  an ordinary night, the first
    2  a truncated log file; it is repaired the day after
    3  an ordinary night, which catches up on the second
    4  half of the day's watches; a person checks it and publishes the night nevertheless
    5  the run is killed (SIGKILL) while it trains; the schedule starts it again
    6  Redis is down; it is up again the day after
    7  an ordinary night, which catches up on the sixth

Meanwhile a reader reads every user's list several times a second (`benchmarks.served`). Prints the outcome of each
night that was tried, and the status in its report. The exit code is 1 if a list was incomplete, or a night ended in
another way than it should.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.night_log import COMMAND, Log, report_of, text_of
from benchmarks.redis_process import KEEPING, RedisProcess
from benchmarks.served import Watcher
from pipelines.simulate import simulate
from transforms.simulation.world import SimulationSettings

FIRST = dt.date(2026, 11, 14)
NIGHTS, WINDOW, K = 7, 14, 20
REASON = "half a day is all there was"
NOT_REACHED = "not reached"
CATCH_UP = "--catch-up"
JOB = """\
[logs]
watches = "logs/watches/{{date}}.parquet"
searches = "logs/searches/{{date}}.parquet"
videos = "logs/videos.parquet"
users = "logs/users.parquet"
[examples]
window_days = {window}
holdout_users = 0.3
[model]
dimension = 32
hidden = [64]
negatives = 200
[training]
epochs = 3
batch_size = 256
[neighbours]
k = {k}
similar = 5
[gates]
item_to_item = false  # the week is about what is published, not about the quality of a small model
[storage]
root = "runs"
[storage.redis]
url = "{url}"
retry_seconds = 3
"""


@dataclass(frozen=True)
class Expected:
    """How a night should end: exit code, the date that is served then, status of the gates, failed gates."""

    code: int
    served: str
    gates: str = NOT_REACHED
    failed: tuple[str, ...] = ()


@dataclass
class Week:
    """The logs as they arrive, and the results of each night that was tried."""

    out: Path
    server: RedisProcess
    watcher: Watcher
    wrong: list[str] = field(default_factory=list)
    served: str = "nothing"
    runs: int = 0

    def deliver(self, number: int) -> None:
        """Add the files of the day before a night, and the catalogue as of then."""
        first = day_before(number) - dt.timedelta(days=WINDOW - 1 if number == 1 else 0)
        for back in range((day_before(number) - first).days + 1):
            for table in ("watches", "searches"):
                self.put(table, first + dt.timedelta(days=back))
        morning = dt.datetime.combine(date_of(number), dt.time(), dt.UTC)
        videos = pl.read_parquet(self.out / "all" / "videos.parquet").filter(pl.col("upload_time") < morning)
        videos.write_parquet(self.out / "logs" / "videos.parquet")

    def put(self, table: str, day: dt.date, *, share: float = 1.0) -> Path:
        """Write a day's file, or the first share of its rows as after an aborted transfer; return its path."""
        path = self.out / "logs" / table / f"{day}.parquet"
        rows = pl.read_parquet(self.out / "all" / table / path.name)
        rows.head(int(share * rows.height)).write_parquet(path)
        return path

    def run(
        self,
        number: int,
        what: str,
        *arguments: str,
        expected: dict[int, Expected],
        meanwhile: Callable[[subprocess.Popen[bytes], Log], None] = lambda process, log: None,
    ) -> None:
        """Run one command, and print lines for each night that it tried, by their numbers in `expected`."""
        self.runs += 1
        log = Log(self.out / f"run-{self.runs:02d}.jsonl")
        command = [*COMMAND, str(self.out / "job.toml"), "--date", date_of(number).isoformat(), *arguments]
        began = time.time()
        with log.path.open("wb") as errors:
            process = subprocess.Popen([*command, "--log-format", "json"], stderr=errors)
            meanwhile(process, log)
            code = process.wait()
        for tried, wanted in expected.items():
            killed = {"exit_code": code, "message": "(killed: it says nothing)", "seconds": time.time() - began}
            end = log.end_of(date_of(tried)) or killed
            self._tell(tried, what if tried == number else "caught up", arguments, end, began, wanted)
        if (now := _published(self.out / "runs")) != self.served:
            self.wrong.append(f"published.json names {now} after the lines above, not {self.served}")

    def _tell(
        self, number: int, what: str, arguments: tuple[str, ...], end: dict[str, Any], began: float, wanted: Expected
    ) -> None:
        date = date_of(number).isoformat()
        ended_well = end["exit_code"] == 0
        found = re.search(r"published: ([-\d]+)", end["message"])
        if ended_well and found:
            self.served = found[1]
        gates = _written_since(began, self.out / "runs" / "nights" / date / "gates.json")
        held: dict[str, Any] = json.loads(gates.read_text()) if gates else {"status": NOT_REACHED, "gates": []}
        failed = tuple(gate["name"] for gate in held["gates"] if gate["ok"] is False)
        print(f"{number} {date}  {' '.join((what, *arguments))}")
        print(
            f"    exit code {end['exit_code']}, {end['seconds']:.0f} s; served: {self.served}; gates: {held['status']}"
        )
        print(f"    failed: {', '.join(failed) or 'none'}; message: {end['message'].splitlines()[0]}")
        report = report_of(self.out / "runs", date_of(number))
        said = _status(report) if report and _written_since(began, report) else ""
        print(f"    report: {said or 'none of this run'}", flush=True)
        meanwhile = f"the night of {self.served} is served"
        if said and not (said.startswith("published") if ended_well else said.startswith("not ") and meanwhile in said):
            self.wrong.append(f"the report of night {number} does not say what was published: {said}")
        if not said and end["exit_code"] > 0:
            self.wrong.append(f"night {number} failed and has no report")
        ended = Expected(end["exit_code"], self.served, held["status"], failed)
        if ended != wanted:
            self.wrong.append(f"night {number} ended as {ended}, not as {wanted}")


def date_of(number: int) -> dt.date:
    """Return the date of night 1, 2, ..."""
    return FIRST + dt.timedelta(days=number - 1)


def day_before(number: int) -> dt.date:
    """Return the last day of logs of a night."""
    return date_of(number - 1)


def run_week(week: Week) -> None:
    """Run the seven nights in order."""
    dates = {number: date_of(number).isoformat() for number in range(1, NIGHTS + 1)}
    good = {number: Expected(0, dates[number], "passed") for number in dates} | {1: Expected(0, dates[1], "ungated")}
    week.deliver(1)
    week.run(1, "ordinary", expected={1: good[1]})

    week.deliver(2)
    cut = week.out / "logs" / "watches" / f"{day_before(2)}.parquet"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    week.run(2, "a log file is cut short", CATCH_UP, expected={2: Expected(1, dates[1])})
    week.put("watches", day_before(2))

    week.deliver(3)
    week.run(3, "ordinary", CATCH_UP, expected={2: good[2], 3: good[3]})

    week.deliver(4)
    week.put("watches", day_before(4), share=0.5)
    volume = ("volume of watches",)
    week.run(4, "half the volume", CATCH_UP, expected={4: Expected(3, dates[3], "failed", volume)})
    forced = Expected(0, dates[4], "forced", volume)
    week.run(4, "a person decides", f"--force-publish={REASON}", expected={4: forced})

    week.deliver(5)
    week.run(5, "killed in stage train", CATCH_UP, expected={5: Expected(-9, dates[4])}, meanwhile=kill_in_training)
    week.run(5, "started again", CATCH_UP, expected={5: good[5]})

    week.deliver(6)
    week.watcher.redis_is_up.clear()
    week.server.kill()
    week.run(6, "Redis is down", CATCH_UP, expected={6: Expected(1, dates[5], "passed")})
    week.server.start()
    week.watcher.redis_is_up.set()

    week.deliver(7)
    week.run(7, "ordinary", CATCH_UP, expected={6: good[6], 7: good[7]})
    week.run(7, "the same again", CATCH_UP, expected={7: Expected(0, dates[7])})


def kill_in_training(process: subprocess.Popen[bytes], log: Log) -> None:
    """Send SIGKILL once the training has written something."""
    nights = log.path.parent / "runs" / "nights"
    while process.poll() is None:
        begun = [event for event in log.events("stage_begins") if event["stage"] == "train"]
        if begun and any((nights / begun[0]["date"] / "model").rglob("*")):
            process.kill()
            return
        time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--videos", type=int, default=300)
    args = parser.parse_args()
    size = {"users": args.users, "videos": args.videos, "days": WINDOW + NIGHTS - 1, "seed": 7}
    simulate(args.out / "all", SimulationSettings(**size, last_day=day_before(NIGHTS)))
    for table in ("watches", "searches"):
        (args.out / "logs" / table).mkdir(parents=True)
    (args.out / "logs" / "users.parquet").symlink_to((args.out / "all" / "users.parquet").resolve())
    with tempfile.TemporaryDirectory(prefix="watchnext-") as folder:
        server = RedisProcess(Path(folder), *KEEPING)
        try:
            (args.out / "job.toml").write_text(JOB.format(window=WINDOW, k=K, url=server.url), encoding="utf-8")
            with Watcher(args.out / "runs", server, K) as watcher:
                week = Week(args.out, server, watcher)
                run_week(week)
        finally:
            server.kill()
    return closing(week)


def closing(week: Week) -> int:
    """Print the results of all nights and return the exit code."""
    seen = week.watcher
    print(
        f"{seen.polls:,} times every list was read, {seen.lists:,} lists, of files and Redis; {seen.unanswered:,} times"
    )
    print(f"Redis was down. Lists that were not whole, or not there: {len(seen.violations)}")
    for line in (*seen.violations[:20], *week.wrong):
        print(f"  WRONG: {line}")
    index = week.out / "runs" / "index.html"
    if index.exists():
        print(f"nights on the index page: {text_of(index)}")
    return 1 if seen.violations or week.wrong else 0


def _published(root: Path) -> str:
    path = root / "published.json"
    return json.loads(path.read_text())["date"] if path.exists() else "nothing"


def _written_since(began: float, path: Path) -> Path | None:
    return path if path.exists() and path.stat().st_mtime >= began else None


def _status(page: Path) -> str:
    """Return the status of the night that a report shows."""
    found = re.search(r'class="status[^"]*">(.*?)</', page.read_text(encoding="utf-8"), re.DOTALL)
    return " ".join(unescape(found[1]).split()) if found else "nothing"


if __name__ == "__main__":
    raise SystemExit(main())
