"""Measure the pages of `watchnext serve`: median milliseconds of requests to a server of its own.

    python -m benchmarks.serve_page JOB.toml [--requests 100] [--from redis] [--why 3]

Starts the command as a process on a free port. Each kind of page is requested once before it is measured, the time of
which is printed as `first`: it includes what a publication reads once. Then come requests of random users and videos,
one after the other, each on a new connection as from a browser that was just opened. The marks are for the medians.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from urllib.parse import urlencode

import polars as pl

from pipelines.config.jobs import load_job
from pipelines.page.publications import Publication, Publications

MARKS_MS = {"first page": 200, "user": 100}  # of the medians
SEED = 7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", metavar="JOB.toml")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--from", dest="source", default="files")
    parser.add_argument("--why", type=int, default=3, help="requests of explained lists, if lists are ranked")
    args = parser.parse_args()
    of = Publications(load_job(args.job), args.source).current()
    command = [sys.executable, "-m", "pipelines.serve", args.job, "--port", "0", "--from", args.source]
    began = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = address_of(server)
            print(f"{of.night.date}, {of.served.lists.date}: the server starts in {time.monotonic() - began:.1f} s")
            print(f"{'page':<16}{'first':>10}{'median':>10}{'p90':>10}{'mark':>8}  ms")
            met = [measure(address, name, path, args.requests) for name, path in pages(of).items()]
            if of.is_ranked:
                measure(
                    address, "user, why", lambda: f"/user?{urlencode({'id': any_of(of.user_ids), 'why': 1})}", args.why
                )
        finally:
            server.terminate()
    return 0 if all(met) else 1


def pages(of: Publication) -> dict[str, Callable[[], str]]:
    """Return the address of a random page of each kind."""
    videos = of.videos.frame["video_id"]
    titles = of.videos.frame["title"].drop_nulls()

    def word() -> str:
        return random.choice(any_of(titles).split() or ["a"]) if len(titles) else any_of(videos)

    return {
        "first page": lambda: "/",
        "user": lambda: f"/user?{urlencode({'id': any_of(of.user_ids)})}",
        "unknown user": lambda: f"/user?{urlencode({'id': f'nobody {random.random()}'})}",
        "video": lambda: f"/video?{urlencode({'id': any_of(videos)})}",
        "search": lambda: f"/search?{urlencode({'q': word()})}",
        "nights": lambda: "/nights",
        "night": lambda: f"/nights/{of.night.date}",
        "report": lambda: f"/nights/{of.night.date}/report",
    }


def measure(address: str, name: str, path: Callable[[], str], requests: int) -> bool:
    """Print the times of requests of one kind, and return whether their median is within its mark."""
    random.seed(SEED)
    first, *taken = (milliseconds(address + path()) for _ in range(1 + requests))
    median, mark = statistics.median(taken), MARKS_MS.get(name)
    slow = sorted(taken)[int(0.9 * (len(taken) - 1))]
    print(f"{name:<16}{first:>10.1f}{median:>10.1f}{slow:>10.1f}{mark or '':>8}", flush=True)
    return mark is None or median < mark


def milliseconds(url: str) -> float:
    """Return the time in which a page is read whole."""
    began = time.perf_counter()
    with urllib.request.urlopen(url) as answer:
        answer.read()
    return 1_000 * (time.perf_counter() - began)


def any_of(ids: pl.Series | None) -> str:
    """Return a random element of a series. Raises ValueError if there is none, as of pseudonyms."""
    if ids is None or not len(ids):
        raise ValueError("the publication has no users whose ids are known: measure another one")
    return str(ids[random.randrange(len(ids))])


def address_of(server: subprocess.Popen[str]) -> str:
    """Return the address that the server prints."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"http://[^ ]*(?=/ shows)", line):
            return found[0]
        sys.stderr.write(line)
    raise RuntimeError("the server did not start")


if __name__ == "__main__":
    raise SystemExit(main())
