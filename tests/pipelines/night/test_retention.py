from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from nights import DATE, commit, night, write_job

from pipelines.base import manifest, paths
from pipelines.base.manifest import Manifest
from pipelines.night import retention, store_cleanup, warm_start_base
from pipelines.night.night import Night
from pipelines.night.stage import STAGES
from transforms.core import files

FILES = {
    "ingest": ["videos-{attempt}.parquet"],
    "examples": ["train/0-{attempt}", "holdout/0-{attempt}", "serving/0-{attempt}", "spec.json"],
    "train": ["video_vectors.parquet", "tower-{attempt}/1", "state-{attempt}/1"],
    "neighbours": ["0-{attempt}.parquet", "../similar/0-{attempt}.parquet", "../user_vectors/0-{attempt}.parquet"],
    "ranking": ["0-{attempt}.parquet", "examples/train/0-{attempt}", "examples/holdout/0-{attempt}"],
    "evaluation": ["lists/0-{attempt}.parquet", "metrics.json"],
    "publish": [],
}

COUNTS = {"snapshot": 1, "published": True}


def date_of(past: int) -> dt.date:
    return DATE - dt.timedelta(days=past)


def made(of: Night, past: int, stages: Iterable[str] = STAGES) -> None:
    """Write a night so many days before DATE, as its stages leave it, and a file of rejected rows."""
    of = Night(of.job, date_of(past))
    for stage in stages:
        names = [name.format(attempt="aa") for name in FILES.get(stage, ["rows.parquet"])]
        entries = [files.write_bytes(of.folder(stage), name, 1, b"rows") for name in names]
        commit(of, stage, entries, counts=COUNTS, attempt="aa")
    files.replace_file(paths.join(of.root.rejects(of.date), "00000.parquet"), b"rejected")


def nights_made(folder: Path, nights: Iterable[int], more: str = "keep_nights = 2") -> Night:
    """Write the nights so many days before DATE. Return the one of DATE."""
    of = job(folder, more)
    for past in nights:
        made(of, past)
    return of


def left(of: Night, past: int) -> list[str]:
    """What is there of a night, without its manifests."""
    folder = of.root.night(date_of(past))
    found = (path[len(folder) + 1 :] for path in files.list_files(folder))
    return [name for name in found if not name.endswith(manifest.NAME)]


def whole(of: Night, nights: Iterable[int]) -> list[int]:
    """Which nights are still complete but for their training records."""
    return [n for n in nights if all(manifest.load(of.root.stage(date_of(n), stage)) for stage in STAGES)]


def job(folder: Path, more: str = "keep_nights = 2") -> Night:
    return night(write_job(folder, 'watches = "w"', f"[storage]\n{more}\n"))


def test_the_training_records_of_a_published_night_go_and_all_else_stays(tmp_path: Path) -> None:
    of = nights_made(tmp_path, [0])
    before, digests = left(of, 0), [of.require(stage).digest for stage in retention.TRAINING]
    retention.apply(of, DATE)
    gone = ["examples/train/0-aa", "ranked/examples/holdout/0-aa", "ranked/examples/train/0-aa"]
    assert [name for name in before if name not in left(of, 0)] == gone
    examples = of.require("examples")
    now = [of.require(stage).digest for stage in retention.TRAINING]
    assert now == digests, "a stage that reads the examples, or the lists, would be taken for undone"
    assert [entry.name for entry in examples.present] == ["holdout/0-aa", "serving/0-aa", "spec.json"]
    assert not any(path.name == "train" for path in Path(of.folder("examples")).iterdir())


def test_training_records_stay_where_that_is_wanted(tmp_path: Path) -> None:
    of = nights_made(tmp_path, [0], "keep_examples = true")
    before = left(of, 0)
    retention.apply(of, DATE)
    assert left(of, 0) == before


def test_of_older_nights_reports_figures_and_manifests_stay(tmp_path: Path) -> None:
    of = nights_made(tmp_path, range(4))
    retention.apply(of, DATE)
    assert whole(of, range(4)) == [0, 1]
    assert left(of, 2) == left(of, 3) == ["evaluation/metrics.json"]
    for stage in STAGES:
        once = manifest.record(of.root.stage(date_of(2), stage))
        assert once is not None and once.counts == COUNTS
    assert store_cleanup.snapshot_of(of.root, date_of(2)) is None, "the store would keep its files for ever"


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ("keep_nights = 2", [0, 1]),
        ("keep_nights = 0", [0, 1, 2, 9, 40]),
        ("keep_nights = 0\nkeep_days = 30", [0, 1, 2, 9]),
    ],
)
def test_only_new_reports_show_users(settings: str, shown: list[int], tmp_path: Path) -> None:
    of = nights_made(tmp_path, [0, 1, 2, 9, 40], settings)
    page = '<p>1</p>\n<section id="users">ann</section>\n<p>2</p>'
    for past in (0, 1, 2, 9, 40):
        files.replace_file(of.root.report(date_of(past)), page.encode())
    retention.apply(of, DATE)
    reports = {past: files.read_bytes(of.root.report(date_of(past))).decode() for past in (0, 1, 2, 9, 40)}
    assert reports == {past: page if past in shown else "<p>1</p>\n<p>2</p>" for past in reports}


@pytest.mark.parametrize("most", [0, 4, 9])
def test_no_night_goes_where_all_are_to_stay_or_there_are_no_more(tmp_path: Path, most: int) -> None:
    of = nights_made(tmp_path, range(4), f"keep_nights = {most}\nkeep_examples = true")
    retention.apply(of, DATE)
    assert whole(of, range(4)) == [0, 1, 2, 3]


def test_what_is_served_and_what_was_before_stay_however_old(tmp_path: Path) -> None:
    """Rolled back to an old night; the one before it was withdrawn, so that the next rollback goes two back."""
    of = nights_made(tmp_path, range(7))
    Path(of.root.withdrawn).write_text(json.dumps([date_of(4).isoformat()]))
    retention.apply(of, date_of(3))
    assert whole(of, range(7)) == [0, 1, 3, 5]


def test_the_model_a_later_night_goes_on_from_stays(tmp_path: Path) -> None:
    """The newest nights never came to train: the next one goes on from an older model, one under way from its own."""
    of = nights_made(tmp_path, range(2, 7))
    for past in range(2):
        made(of, past, ["ingest"])
    pending = paths.join(of.root.stage(date_of(1), "train"), warm_start_base.PENDING)
    files.replace_file(pending, json.dumps({"date": date_of(4).isoformat(), "digest": "d"}).encode())
    retention.apply(of, None)
    assert whole(of, range(7)) == [2, 4]
    assert files.exists(pending)


def test_a_night_made_late_stays_until_another_is_published(tmp_path: Path) -> None:
    """A backfill publishes nothing, but its own work is not taken from under it."""
    of = nights_made(tmp_path, (0, 1, 7))
    retention.apply(Night(of.job, date_of(7)), DATE)
    assert whole(of, (0, 1, 7)) == [0, 1, 7]
    retention.apply(of, DATE)
    assert whole(of, (0, 1, 7)) == [0, 1]


def test_a_dropping_that_was_cut_short_is_ended_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = nights_made(tmp_path, range(4))
    sweep = manifest.sweep

    def cut(folder: str, found: Manifest | None, beside: Iterable[str] = (), *, keep: str = "") -> None:
        if folder.endswith("neighbours"):
            raise KeyboardInterrupt
        sweep(folder, found, beside, keep=keep)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(manifest, "sweep", cut)
        retention.apply(of, DATE)
    retention.apply(of, DATE)
    assert left(of, 2) == left(of, 3) == ["evaluation/metrics.json"]


def test_a_night_that_failed_is_dropped_too(tmp_path: Path) -> None:
    of = nights_made(tmp_path, range(3))
    made(of, 3, ["ingest", "vocabulary"])
    files.replace_file(paths.join(of.root.stage(date_of(3), "examples"), "train/half-bb"), b"half")
    retention.apply(of, DATE)
    assert left(of, 3) == []
