"""Stage neighbours: which watches count as had, for serving and as of the start of the held-out days."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from nights import DATE, commit, night, write_job
from stores import daily, ingested

from pipelines import neighbours
from pipelines.night.night import Night
from pipelines.night.outputs import LearnableWindow, TrainOutputs, VocabularyOutputs

SETTINGS = "[neighbours]\nexclude_days = {}\n"
LATER = DATE + dt.timedelta(days=1)  # the window of 4 days begins on the second day of the logs


def night_of(folder: Path, exclude_days: int | None) -> Night:
    """A night with logs of 4 days, the first of them before its window, and no examples."""
    job = daily(folder, SETTINGS.format(exclude_days) if exclude_days is not None else "")
    job.write_text(job.read_text().replace("max_reject", "allow_missing_days = true\nmax_reject"))
    ingested(job)
    of = ingested(job, LATER)
    commit(of, "examples")
    return of


def days_of(of: Night, split: str) -> list[int]:
    """How many days before the night the files lie whose watches may count as had."""
    paths = [path for bucket in neighbours.bucket_records(of, split) for path in bucket.watched]
    assert all("/watches/" in path for path in paths)
    return sorted({(LATER - dt.date.fromisoformat(path.split("/")[-2])).days for path in paths})


@pytest.mark.parametrize(
    ("exclude_days", "serving", "holdout"),
    [
        (None, [2, 3, 4], [2, 3, 4]),
        (0, [2, 3, 4, 5], [2, 3, 4, 5]),
        (1, [], [2]),
        (2, [2], [2, 3]),
        (4, [2, 3, 4], [2, 3, 4, 5]),
    ],
)
def test_exclude_days(exclude_days: int | None, serving: list[int], holdout: list[int], tmp_path: Path) -> None:
    of = night_of(tmp_path, exclude_days)
    assert (days_of(of, "serving"), days_of(of, "holdout")) == (serving, holdout)
    for held_out, ends in ((False, of.dates.end), (True, of.dates.holdout_start)):
        span = neighbours._watched_window(of, held_out=held_out)
        first = of.dates.start if exclude_days is None else ends - dt.timedelta(days=exclude_days)
        first = first if exclude_days != 0 else dt.datetime.min.replace(tzinfo=dt.UTC)
        assert (span.start, span.end) == (first, ends)


def test_what_lies_before_the_window_matters_with_exclude_days_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    window, ever = (neighbours.limit_digests(night_of(tmp_path / name, days)) for name, days in (("a", None), ("b", 0)))
    assert {name for name in window if window[name] != ever[name]} == {"seen"}


@pytest.mark.parametrize(
    ("empty", "beginning"), [(0, None), (3, "3 of 1,200 lists are empty: "), (1_200, "all 1,200 lists are empty: ")]
)
def test_a_night_says_how_many_lists_are_empty_and_why(empty: int, beginning: str | None) -> None:
    notes = neighbours.empty_lists_note(empty, 1_200, "completed")
    assert len(notes) == (0 if beginning is None else 1)
    if beginning is not None:
        assert notes[0].startswith(beginning) and 'neighbours.exclude = "completed"' in notes[0]


@pytest.mark.parametrize(
    ("text", "completed", "share"),
    [
        ("", 5, 0.3),
        ("", 3_000_000, 0.6),
        ("[neighbours]\ntransitions = 0.2\n", 3_000_000, 0.2),
        ("[neighbours]\ntransitions = 0\n", 3_000_000, None),
        ('[model]\npreset = "paper"\n', 3_000_000, None),
    ],
)
def test_the_share_of_transitions_follows_from_the_window(
    text: str, completed: int, share: float | None, tmp_path: Path
) -> None:
    of = night(write_job(tmp_path, 'watches = "w"', text))
    counts = dict.fromkeys(("robot_watches", "held_out_watches", "searches", "users", "birth_years"), 0)
    window = LearnableWindow(newest=of.dates.end, watches=completed, completed=completed, categories={}, **counts)
    commit(of, "vocabulary", outputs=VocabularyOutputs(window=window).model_dump(mode="json"))
    commit(of, "train", outputs=TrainOutputs(tower="t", state="s", transitions="file").model_dump(mode="json"))
    source = neighbours._transitions(of)
    assert (source and source.share) == share
