"""Stage vocabulary: the share of users that are held out, from those who completed a watch in the held-out days."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from nights import DATE, night, write_job

from pipelines import ingest, vocabulary
from pipelines.night.night import Night
from pipelines.night.outputs import VocabularyOutputs
from transforms.logs.event_window import Holdout

END = dt.datetime.combine(DATE, dt.time(), dt.UTC)


def watches(users: range, *, days_before: int, completed: bool = True, each: int = 1) -> pl.DataFrame:
    """Watches of users on the day that lies so many days before DATE."""
    at = np.repeat(np.array(users), each)
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in at],
            "video_id": [f"v{n % 7}" for n in range(len(at))],
            "time": [END - dt.timedelta(days=days_before) + dt.timedelta(seconds=n) for n in range(len(at))],
            "completed": completed,
        }
    )


def counted(folder: Path, *tables: pl.DataFrame, examples: str = "", buckets: int = 8) -> Night:
    """A night whose stage vocabulary is complete."""
    pl.concat(tables).write_parquet(folder / "watches.parquet")
    more = f"[examples]\nwindow_days = 5\n{examples}\n[storage]\nbuckets = {buckets}\n"
    of = night(write_job(folder, 'watches = "watches.parquet"', more))
    ingest.run(of)
    vocabulary.run(of)
    return of


def held_out(of: Night, users: range) -> int:
    """How many of the users are held out."""
    return int(of.holdout.contains(pl.Series([f"u{user}" for user in users])).sum())


def test_about_two_thousand_users_of_the_held_out_days_are_held_out(tmp_path: Path) -> None:
    """Users of other days, of watches that were not completed, and robots do not count."""
    active = range(6_200)
    of = counted(
        tmp_path,
        watches(active, days_before=1, each=2),
        watches(range(9_000), days_before=2),
        watches(range(9_000, 9_500), days_before=1, completed=False),
        watches(range(9_500, 9_550), days_before=1, each=11),
        examples="max_events_per_day = 10",
    )
    assert of.outputs(VocabularyOutputs).holdout_share == of.holdout.share == 0.33  # 2,000 of 6,200, rounded up
    assert 1_950 < held_out(of, active) < 2_150
    done = of.require("vocabulary")
    note = "0.33 (6,200 users completed a watch in the held-out days; about 2,000 of them, from 5% to 50%)"
    assert done.counts["notes"] == [f"examples.holdout_users = {note}"]
    assert done.counts["auto"] == {"holdout_users": note}
    assert vocabulary.plan(of).is_done(of)  # a resumed night does not count again


def test_the_held_out_users_are_excluded_from_the_counts(tmp_path: Path) -> None:
    logs = [watches(range(6_200), days_before=1), watches(range(50), days_before=2)]
    window = counted(tmp_path, *logs).outputs(VocabularyOutputs).window
    by_hand = Holdout(start=END - dt.timedelta(days=1), share=0.33, seed=1)
    every = pl.concat(logs)
    assert (
        window.completed == every.filter(~by_hand.contains(every["user_id"]) | (every["time"] < by_hand.start)).height
    )


def test_small_logs_hold_out_half_of_the_users_and_a_share_by_hand_wins(tmp_path: Path) -> None:
    logs = [watches(range(300), days_before=1), watches(range(300), days_before=2)]
    assert counted(tmp_path, *logs).holdout.share == 0.5
    of = counted(tmp_path, *logs, examples="holdout_users = 0.25")
    assert of.outputs(VocabularyOutputs).holdout_share == of.holdout.share == 0.25
    assert "auto" not in of.require("vocabulary").counts


def test_without_held_out_days_nothing_is_noted(tmp_path: Path) -> None:
    of = counted(tmp_path, watches(range(30), days_before=1), examples="holdout_days = 0")
    assert of.holdout.start == END and "notes" not in of.require("vocabulary").counts


def test_many_users_are_counted_in_some_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "COUNTED_USERS", 2_000)
    of = counted(tmp_path, watches(range(20_000), days_before=1), watches(range(50), days_before=2), buckets=32)
    assert of.holdout.share == pytest.approx(0.1, abs=0.011)
    assert held_out(of, range(20_000)) > 1_900
    assert "20,000 users" not in of.require("vocabulary").counts["notes"][0]  # only an estimate


def test_logs_of_one_day_can_be_learned_from(tmp_path: Path) -> None:
    window = counted(tmp_path, watches(range(100), days_before=1)).outputs(VocabularyOutputs).window
    assert 30 < window.completed < 70
