"""What a user gets: the published list of one user, read as a server would, one file opened.

watchnext lookup JOB.toml USER [--k 10] [--json]
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import polars as pl

from pipelines import paths, privacy, publish, store
from pipelines.errors import StageError, guarded
from pipelines.jobs import Job, load_job
from pipelines.stages import Night
from transforms import files
from transforms.frames import bucket_of


@dataclass(frozen=True, kw_only=True)
class Item:
    """One video of a list."""

    video_id: str
    title: str | None
    score: float


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A user's published list, best first; `known` is False for a user the night did not serve."""

    user_id: str
    date: str
    known: bool
    items: list[Item]


def lookup(job: Job, user_id: str, k: int) -> Lookup:
    """The first k videos of a user's published list. Raises StageError where nothing is published."""
    served = publish.read(paths.Root(job.storage.root))
    if served is None:
        raise StageError(f"nothing is published in {job.storage.root}: run watchnext nightly first")
    night = Night(job, dt.date.fromisoformat(served["date"]))
    listed = night.require("neighbours")
    newest = store.latest(night.root.snapshots)
    kept_as = privacy.stored_id(job, user_id, newest.key_check if newest else "")
    bucket = bucket_of(kept_as, served["buckets"])
    lists = [entry for entry in listed.files if not entry.name.startswith("../")]
    entry = next(entry for entry in lists if paths.shard_index(entry.name) == bucket)
    rows = files.read_parquet(paths.join(night.folder("neighbours"), entry.name)).filter(user_id=kept_as)
    shown = rows.select(pl.col("video_ids", "scores").list.head(k)).explode("video_ids", "scores", empty_as_null=False)
    titles = night.titles(shown["video_ids"])
    items = [Item(video_id=video, title=titles.get(video), score=score) for video, score in shown.iter_rows()]
    return Lookup(user_id=user_id, date=served["date"], known=rows.height > 0, items=items)


def to_text(found: Lookup) -> str:
    """A list as people read it."""
    if not found.known:
        return f"user {found.user_id!r} has no watch or search in the window of {found.date}: no list is published"
    lines = [
        f"{n:>4}  {i.score:>9.4f}  {i.video_id:<20}  {i.title or ''}".rstrip() for n, i in enumerate(found.items, 1)
    ]
    return "\n".join([f"user {found.user_id}, published {found.date}", *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Print one user's list; exit code 1 for a user without one."""
    parser = argparse.ArgumentParser(prog="watchnext lookup", description="What a user gets, from what is published.")
    parser.add_argument("job", metavar="JOB.toml")
    parser.add_argument("user", metavar="USER")
    parser.add_argument("--k", type=int, default=10, help="how many videos (default: 10)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(argv)
    if args.k < 1:
        parser.error(f"--k must be positive, but is {args.k}")

    def work() -> int:
        found = lookup(load_job(args.job), args.user, args.k)
        print(json.dumps(asdict(found), ensure_ascii=False) if args.json else to_text(found))
        return 0 if found.known else 1

    return guarded(work)


if __name__ == "__main__":
    raise SystemExit(main())
