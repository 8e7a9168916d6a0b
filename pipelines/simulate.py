"""`watchnext simulate OUT`: write simulated logs to try the pipeline, with their ground truth and a job file.

    OUT/watches/2026-11-20.parquet   and searches/, impressions/: one file a day
    OUT/videos.parquet, users.parquet
    OUT/job.toml
    OUT/truth/next_day.parquet       user_id, video_id: completed watches on the day after the last day
    OUT/truth/preferences.parquet    user_id, video_id, probability: the most probable next watches at 00:00 of that day
    OUT/truth/watch_seconds.parquet  user_id, video_id, watch_seconds: the mean watch time of these
    OUT/truth/topics.parquet         the topics of each video

The same arguments produce identical files.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from pipelines.base import command_lines, console
from transforms.simulation.play_day import play_day
from transforms.simulation.state import State, begin_day, start_state
from transforms.simulation.tables import topics_frame, users_frame, videos_frame
from transforms.simulation.truth import completed_watches, true_preferences
from transforms.simulation.world import SimulationSettings, World, build_world

TRUTH_USERS = 20_000  # preferences are written for at most this many users, evenly spaced
DAILY = ("watches", "searches", "impressions")

JOB = """\
# A night on simulated logs. Paths are relative to this file. All settings: docs/job.md.
[logs]
watches = "watches/{{date}}.parquet"
searches = "searches/{{date}}.parquet"
videos = "videos.parquet"
users = "users.parquet"
# Impressions train a ranker, which orders lists by expected watch time. In small simulated logs it loses recall.
# impressions = "impressions/{{date}}.parquet"
[examples]
window_days = {days}
[neighbours]
k = 100
[storage]
root = "runs"
"""


def simulate(out: Path, settings: SimulationSettings, *, overwrite: bool = False) -> Counter[str]:
    """Write all files below `out`, each atomically, the job file last. Return the number of rows by table of `DAILY`.

    Raises FileExistsError if `out` is not empty and `overwrite` is false. With `overwrite`, earlier simulated logs are
    removed; other files, such as nights, remain.
    """
    _clear(out, overwrite=overwrite)
    world = build_world(settings)
    _write(out / "videos.parquet", videos_frame(world))
    _write(out / "users.parquet", users_frame(world))
    state, counts = start_state(world), Counter[str]()
    for day in tqdm(range(settings.days), desc="simulate", unit="day", disable=not sys.stderr.isatty()):
        logs = play_day(world, begin_day(world, state, day), day)
        state = logs.state
        for name in DAILY:
            frame = getattr(logs, name)
            counts[name] += frame.height
            _write(out / name / f"{settings.day(day)}.parquet", frame)
    _write_truth(out / "truth", world, state)
    job = JOB.format(days=settings.days)
    _replace(out / "job.toml", lambda path: path.write_text(job, encoding="utf-8"))
    return counts


def _write_truth(folder: Path, world: World, state: State) -> None:
    day, users = world.settings.days, world.settings.users
    morning = begin_day(world, state, day)
    chosen = np.unique(np.linspace(0, users - 1, min(users, TRUTH_USERS)).astype(np.int64))
    preferences = true_preferences(world, morning, day, users=chosen)
    _write(folder / "preferences.parquet", preferences.drop("watch_seconds"))
    _write(folder / "watch_seconds.parquet", preferences.drop("probability"))
    _write(folder / "next_day.parquet", completed_watches(world, play_day(world, morning, day)))
    _write(folder / "topics.parquet", topics_frame(world))


def _clear(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; use a folder")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise FileExistsError(f"{out} is not empty; use another folder, or add --overwrite")
    # The job file is removed first, so that logs next to a job file are always complete.
    (out / "job.toml").unlink(missing_ok=True)
    for folder in (*DAILY, "truth"):
        for path in sorted((out / folder).glob("*.parquet*")):
            path.unlink()
        (out / folder).mkdir(parents=True, exist_ok=True)


def _write(path: Path, frame: pl.DataFrame) -> None:
    _replace(path, frame.write_parquet)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a temporary file next to `path`, then rename it to `path`."""
    temporary = path.with_name(f"{path.name}.tmp")
    write(temporary)
    temporary.replace(path)


parser = command_lines.simulate


def main(argv: list[str]) -> int:
    """Write the logs. Return 0, 2 for a wrong argument, or 1 if OUT cannot be written; both errors print a message."""
    return console.print_to_reader(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    try:
        args = parser().parse_args(argv)
        settings = SimulationSettings(
            users=args.users,
            videos=args.videos,
            days=args.days,
            seed=args.seed,
            last_day=args.last_day or datetime.now(UTC).date() - timedelta(days=1),
        )
        counts = simulate(args.out, settings, overwrite=args.overwrite)
    except (ValueError, OSError) as error:
        print(f"watchnext simulate: {console.printable(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | FileExistsError) else 1
    rows = ", ".join(f"{counts[name]:,} {name}" for name in DAILY)
    text = (
        f"{args.out}: {rows} of {settings.users:,} users and {settings.videos:,} videos from {settings.day(0)} to "
        f"{settings.last_day}; next: watchnext nightly {args.out / 'job.toml'}"
    )
    print(console.printable(text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
