"""Two nights with places for new videos: the places in the lists, and what the second night says of them, compared with
what the raw logs and the catalogue tell."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from commands import stages_in_process, watchnext
from nights import DATE, GATES, completed_videos, lists, night, reports_without_plots, simulated
from two_nights import MORE_GATES

from pipelines import evaluation
from pipelines.night import publication_file
from pipelines.night.night import Night
from transforms.evaluation.night_metrics import NightMetrics

pytestmark = pytest.mark.slow

BEFORE = DATE - dt.timedelta(days=1)
K, SHARE, DAYS = 30, 0.1, 2
UPLOADS = {"new0": BEFORE, "new1": BEFORE, "new2": DATE}  # half a day before the midnight in which the date begins
WATCHERS = [f"u{n:07d}" for n in range(1, 40)]  # of new0, on the first day on which lists may have it


@dataclass(frozen=True, kw_only=True)
class Logs:
    """The raw logs of a job whose catalogue has videos that nobody watched before they were new."""

    job: Path

    @classmethod
    def write(cls, folder: Path) -> Logs:
        job = simulated(folder, GATES + MORE_GATES)
        settings = f"[neighbours]\nnew_videos = {SHARE}\nnew_days = {DAYS}\n"
        job.write_text(job.read_text().replace("[neighbours]\n", settings))
        videos = pl.read_parquet(folder / "videos.parquet")
        uploads = [
            videos.head(1).with_columns(
                video_id=pl.lit(name),
                upload_time=pl.lit(midnight(date) - dt.timedelta(hours=12)).cast(videos.schema["upload_time"]),
                available=True,
            )
            for name, date in UPLOADS.items()
        ]
        pl.concat([videos, *uploads]).write_parquet(folder / "videos.parquet")
        path = folder / "watches" / f"{BEFORE}.parquet"
        watches = pl.read_parquet(path)
        new = watches.head(len(WATCHERS)).with_columns(
            user_id=pl.Series(WATCHERS), video_id=pl.lit("new0"), watch_seconds=1e4, video_seconds=1e4
        )
        pl.concat([watches, new]).write_parquet(path)
        return cls(job=job)

    def completed(self, dates: Iterable[dt.date]) -> dict[str, set[str]]:
        """Return the videos that each user completed on some days."""
        paths = [self.job.parent / "watches" / f"{date}.parquet" for date in dates]
        return completed_videos(self.job, pl.concat(pl.read_parquet(path) for path in paths))

    def days_before(self, date: dt.date) -> list[dt.date]:
        """Return the days of the logs before a date."""
        return sorted(day for path in (self.job.parent / "watches").iterdir() if (day := day_of(path)) < date)

    def new(self, date: dt.date, watched: Iterable[str]) -> set[str]:
        """Return the available videos that were uploaded in the days before a date and are not among `watched`."""
        start, end = midnight(date - dt.timedelta(days=DAYS)), midnight(date)
        videos = pl.read_parquet(self.job.parent / "videos.parquet").filter("available")
        recent = videos.filter(pl.col("upload_time").is_between(start, end, closed="left"))
        return set(recent["video_id"]) - set(watched)


def midnight(date: dt.date) -> dt.datetime:
    return dt.datetime.combine(date, dt.time(), dt.UTC)


def day_of(path: Path) -> dt.date:
    return dt.date.fromisoformat(path.name.removesuffix(".parquet"))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """The logs after both nights."""
    made = Logs.write(tmp_path_factory.mktemp("nights"))
    with stages_in_process(), reports_without_plots():
        for date in (BEFORE, DATE):
            done = watchnext("nightly", made.job, "--date", date)
            assert done.code == 0, done.message
    return made


def metrics_of(of: Night) -> NightMetrics:
    return NightMetrics.model_validate(json.loads(Path(of.folder("evaluation"), evaluation.METRICS).read_bytes()))


def learned_videos(logs: Logs, of: Night) -> set[str]:
    """Return the videos completed before a night, without what held-out users did in the held-out days."""
    last = of.date - dt.timedelta(days=1)
    everything, held_out = logs.completed(logs.days_before(last)), logs.completed([last])
    users = pl.Series(sorted(held_out))
    learned = users.filter(~of.holdout.contains(users))
    return set().union(*everything.values(), *(held_out[user] for user in learned))


@pytest.mark.parametrize("date", [BEFORE, DATE])
def test_the_places_of_new_videos_in_every_list(logs: Logs, date: dt.date) -> None:
    of = night(logs.job, date)
    new = logs.new(date, learned_videos(logs, of))
    assert {name for name, day in UPLOADS.items() if day == date} <= new
    assert ("new0" in new) == (date == BEFORE), "it was watched on the day between the nights"
    done, due = logs.completed(logs.days_before(date)), [9, 19, 29]
    for user, shown in lists(of, publication_file.NEIGHBOURS).select("user_id", "video_ids").iter_rows():
        placed = min(len(new - done.get(user, set())), len(due))
        expected = [min(place, len(shown) - placed + n) for n, place in enumerate(due[:placed])]
        assert [place for place, video in enumerate(shown) if video in new] == expected, user


def test_the_effect_on_held_out_users_is_that_of_videos_new_when_their_day_began(logs: Logs) -> None:
    found = metrics_of(night(logs.job)).new_videos
    assert found is not None
    watched = logs.completed(logs.days_before(BEFORE))
    new = logs.new(BEFORE, set().union(*watched.values()))
    assert (found.setting, found.videos) == (SHARE, len(new))
    users = pl.Series(sorted(logs.completed([BEFORE])))
    held_out = users.filter(night(logs.job).holdout.contains(users))
    pairs = sum(len(new & logs.completed([BEFORE])[user]) for user in held_out)
    assert found.of_new is not None and found.of_new.figures["pairs"] == pairs > 0


def test_what_became_of_new_videos_on_the_next_day(logs: Logs) -> None:
    before = night(logs.job, BEFORE)
    served = metrics_of(night(logs.job)).served
    assert served is not None and served.new_videos is not None
    new, done = logs.new(BEFORE, learned_videos(logs, before)), logs.completed([BEFORE])
    shown = dict(lists(before, publication_file.NEIGHBOURS).select("user_id", "video_ids").iter_rows())
    places = [(video in new, video in done[user]) for user in done for video in shown.get(user, [])]
    assert vars(served.new_videos.places) == {
        "new": sum(is_new for is_new, _ in places),
        "new_completed": sum(is_new and hit for is_new, hit in places),
        "others": sum(not is_new for is_new, _ in places),
        "others_completed": sum(hit and not is_new for is_new, hit in places),
    }
    assert served.new_videos.of_new is not None
    assert served.new_videos.of_new.figures["pairs"] == sum(len(new & videos) for videos in done.values())
    assert served.new_videos.places.new_completed > 0
