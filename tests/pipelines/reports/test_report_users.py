"""Users in a report: their last watches and first videos, from the files of a night."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from nights import DATE, lists, night, published_night, write_job

from pipelines.reports import report_users
from pipelines.reports.report import gather
from transforms.report.page import render_report, without_users


def test_users_have_their_last_watches_and_first_videos(ranked_nights: Path) -> None:
    of = night(ranked_nights / "job.toml")
    found = report_users.users_of(of)
    assert len(found) == report_users.SHOWN_USERS == len({user.user_id for user in found})
    ranked = {row["user_id"]: row for row in lists(of, "ranking").to_dicts()}
    watches = pl.read_parquet(ranked_nights / "watches" / "*.parquet").filter(pl.col("time").dt.date() < DATE)
    titles = dict(pl.read_parquet(ranked_nights / "videos.parquet").select("video_id", "title").iter_rows())
    for user in found:
        row, own = ranked[user.user_id], watches.filter(user_id=user.user_id).sort("time", descending=True)
        assert own.height >= report_users.LEAST_WATCHES
        shown = list(zip(row["video_ids"], row["expected_seconds"], strict=True))[: report_users.SHOWN_VIDEOS]
        assert [(title, seconds) for title, seconds in user.listed] == [(titles[id], s) for id, s in shown]
        last = own.head(report_users.SHOWN_VIDEOS)
        assert [time for time, _, _ in user.watched] == [f"{time:%m-%d %H:%M}" for time in last["time"]]
        assert [title for _, title, _ in user.watched] == [titles[id] for id in last["video_id"]]


def test_a_night_without_watches_shows_nobody(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    assert report_users.users_of(night(job)) == []
    rows = pl.DataFrame(
        {"user_id": ["ann"], "video_ids": [["v1"]], "scores": [[1.0]]},
        schema_overrides={"scores": pl.List(pl.Float32)},
    )
    assert report_users.users_of(published_night(job, rows)) == []


def test_the_section_can_be_removed_from_a_page(ranked_nights: Path) -> None:
    report = gather(night(ranked_nights / "job.toml"))
    page = render_report(report)
    assert all(user.user_id in page for user in report.users) and report.users
    without = without_users(page)
    assert not any(user.user_id in without for user in report.users)
    assert without.count("<section") == page.count("<section") - 1 and without_users(without) == without
