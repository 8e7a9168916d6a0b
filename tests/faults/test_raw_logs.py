"""A raw file that is damaged: the night names it or accounts for its rows, and the right file repairs the store."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from commands import stages_in_process, watchnext
from damage import DAMAGE, Injected
from nights import DATE, night, write_job
from stores import DAYS, counts, day_of_watches, newest

WINDOW = "[examples]\nwindow_days = 4\n"


def _gzipped(write: Callable[[pl.DataFrame, Path], object]) -> Callable[[pl.DataFrame, Path], object]:
    def compressed(rows: pl.DataFrame, path: Path) -> None:
        plain = path.with_suffix("")
        write(rows, plain)
        path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
        plain.unlink()

    return compressed


def _text_times(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))


FORMATS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "parquet": lambda rows, path: rows.write_parquet(path),
    "csv": lambda rows, path: _text_times(rows).write_csv(path),
    "jsonl": lambda rows, path: _text_times(rows).write_ndjson(path),
}
FORMATS |= {f"{name}.gz": _gzipped(FORMATS[name]) for name in ("csv", "jsonl")}


def logs(folder: Path, ending: str) -> Path:
    """Four days of watches in one format, and their job."""
    (folder / "w").mkdir(parents=True)
    for day in DAYS:
        FORMATS[ending](day_of_watches(day, 36), folder / "w" / f"{day}.{ending}")
    return write_job(folder, f'watches = "w/{{date}}.{ending}"\nmax_reject_fraction = 1.0', WINDOW)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_raw_file(tmp_path: Path, injected: Injected, ending: str, damage: str) -> None:
    chance = random.Random(f"{ending} {damage}")
    with stages_in_process():
        undisturbed = logs(tmp_path / "undisturbed", ending)
        done = watchnext("nightly", undisturbed, "--date", DATE, "--only", "ingest")
        assert done.code == 0, done.message
        for attempt in range(1 if damage in ("delete", "empty") else 3):
            job = logs(tmp_path / str(attempt), ending)
            path = job.parent / "w" / f"{DAYS[1]}.{ending}"
            right = path.read_bytes()
            DAMAGE[damage](path, chance)
            injected("raw file")
            done = watchnext("nightly", job, "--date", DATE, "--only", "ingest")
            assert not done.has_traceback, done.message
            if done.code:
                assert DAYS[1] in done.message, done.message
            else:
                tables = counts(night(job))["tables"]
                rows = tables["watches"]  # type: ignore[index]
                left_out = sum(rows[why] for why in ("refused", "duplicates", "forgotten", "other_days"))
                assert rows["read"] == rows["kept"] + left_out
            path.write_bytes(right)
            again = [word for day in DAYS[1:3] for word in ("--reingest", day)]  # the file has events of both days
            done = watchnext("nightly", job, "--date", DATE, "--only", "ingest", *again)
            assert done.code == 0, done.message
            assert _events(job) == _events(undisturbed)


def _events(job: Path) -> list[tuple[object, ...]]:
    """All watches of the newest snapshot."""
    of = night(job)
    frames = [pl.read_parquet(f"{of.root.store}/{file.file.name}") for file in newest(of).files]
    return pl.concat(frames).sort("user_id", "time", "video_id").rows()
