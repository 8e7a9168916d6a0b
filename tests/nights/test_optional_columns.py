"""Nights of logs without optional columns: each column alone, all together, and without the optional tables."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Collection, Iterable
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, RANKING, TINY, lists, night, published_json, write_job

from pipelines import evaluation, examples, index, ingest, neighbours, publish, ranking, train, vocabulary
from pipelines.night.night import Night
from pipelines.night.outputs import VocabularyOutputs
from pipelines.night.ranking_chain import Chain
from transforms.logs.schemas import IMPRESSIONS, USERS, VIDEOS, WATCHES
from transforms.ranking.features import NUMBERS, POSITION, QUERY_NUMBERS
from transforms.ranking.outcome_features import CHANNEL_OUTCOMES, OUTCOME_NUMBERS

STAGES = (ingest, vocabulary, examples, train, index, neighbours, ranking, evaluation, publish)
COLUMNS = [(table.name, column) for table in (WATCHES, VIDEOS, USERS, IMPRESSIONS) for column in table.optional]
CATEGORIES = {"country", "device", "signed_in", "gender"}  # of the model
RANKED = {*CATEGORIES, "hour", "language", "video_language"}  # categories of the ranker
CHANNELS = {"channel_watches", "seconds_since_channel", "channel_unclicked", *CHANNEL_OUTCOMES}
# What the model and the ranker cannot know without a column. Of a column that is not listed, another says the same.
UNKNOWN = {
    ("watches", "watch_seconds"): {"user_mean_watch_seconds"},
    ("watches", "device"): {"device", "device_impression_seconds"},
    ("watches", "signed_in"): {"signed_in"},
    ("videos", "upload_time"): {"video_age_seconds"},
    ("videos", "video_seconds"): {"video_seconds"},
    ("videos", "channel"): CHANNELS,
    ("videos", "language"): {"video_language"},
    ("users", "gender"): {"gender"},
    ("users", "birth_year"): {"age"},
    ("users", "language"): {"language"},
    ("impressions", "position"): {POSITION},
}
SAMPLE = random.Random(1).sample(COLUMNS, 4)  # for make test; make test-all takes all
USER_COUNT, VIDEO_COUNT, EVENT_COUNT, DAYS = 23, 11, 400, 4


def tables() -> dict[str, pl.DataFrame]:
    """Logs with every column of every table; every user and every video occurs often."""
    start = dt.datetime.combine(DATE, dt.time(), dt.UTC) - dt.timedelta(days=DAYS)
    number = pl.int_range(EVENT_COUNT, eager=True)
    times = pl.Series([start + dt.timedelta(days=DAYS) * (i / EVENT_COUNT) for i in range(EVENT_COUNT)])
    event = {
        "user_id": (number % USER_COUNT).cast(pl.String) + "u",
        "video_id": ((number * number + 7 * number) % VIDEO_COUNT).cast(pl.String) + "v",
        "time": times.dt.cast_time_unit("us"),
    }
    video, user = pl.int_range(VIDEO_COUNT, eager=True), pl.int_range(USER_COUNT, eager=True)
    return {
        "watches": pl.DataFrame(event).with_columns(
            completed=number % 5 != 0,
            watch_seconds=pl.Series(40 + number % 50, dtype=pl.Float64),
            video_seconds=pl.Series(60 + number % 11, dtype=pl.Float64),
            country=pl.Series(["DE", "SE"] * (EVENT_COUNT // 2)),
            device=pl.Series(["tv", "phone", "tv", "web"] * (EVENT_COUNT // 4)),
            signed_in=number % 3 == 0,
        ),
        "searches": pl.DataFrame(event).select("user_id", "time", query=(number % 7).cast(pl.String) + " cats"),
        "videos": pl.DataFrame({"video_id": video.cast(pl.String) + "v"}).with_columns(
            upload_time=pl.lit(start - dt.timedelta(days=3)),
            video_seconds=pl.Series(60 + video, dtype=pl.Float64),
            title="title " + video.cast(pl.String),
            channel="channel " + (video % 3).cast(pl.String),
            language=(video % 2).cast(pl.String).replace_strict({"0": "de", "1": "sv"}),
            available=pl.lit(True),
            countries=pl.lit("DE,SE"),
        ),
        "users": pl.DataFrame({"user_id": user.cast(pl.String) + "u"}).with_columns(
            gender=(user % 2).cast(pl.String).replace_strict({"0": "f", "1": "m"}),
            birth_year=1960 + user,
            country=pl.lit("DE"),
            language=pl.lit("de"),
        ),
        "impressions": pl.DataFrame(event).with_columns(
            page_id=(number // 2).cast(pl.String),
            clicked=number % 2 == 0,
            watch_seconds=30.0 * (number % 2 == 0),
            position=1 + number % 2,
        ),
    }


def night_without(folder: Path, columns: Iterable[tuple[str, str]] = (), left_out: Collection[str] = ()) -> Night:
    """A night of `tables`, as CSV, without some columns and tables."""
    folder.mkdir(exist_ok=True)
    given = {name: table for name, table in tables().items() if name not in left_out}
    for name, table in given.items():
        table.drop(column for of, column in columns if of == name).write_csv(folder / f"{name}.csv")
    logs = "\n".join(f'{name} = "{name}.csv"' for name in given)
    more = f"[examples]\nwindow_days = {DAYS}\nholdout_users = 0.5\n{TINY}{RANKING}max_skew = 0\n[storage]\nbuckets=8\n"
    return night(write_job(folder, logs, more))


@pytest.mark.parametrize(
    "column", [pytest.param(one, id=".".join(one), marks=() if one in SAMPLE else pytest.mark.slow) for one in COLUMNS]
)
def test_other_features_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: tuple[str, str]) -> None:
    """Up to the ranker's records; TFT's graphs, which take seconds each, are left to the whole nights below."""
    of = night_without(tmp_path, [column])
    for stage in (ingest, vocabulary):
        stage.run(of)
    unknown = UNKNOWN.get(column, set())
    window = of.outputs(VocabularyOutputs).window
    assert set(window.categories) == CATEGORIES - unknown
    assert window.birth_years == (0 if unknown == {"age"} else USER_COUNT)
    folder = of.folder("ranking")
    counted = ranking.count_impressions(of, {}, Chain(), folder, "aa")
    ranker = ranking.ranking_spec(of, counted, Chain())
    assert set(ranker.categories) == RANKED - unknown
    assert set(ranker.numbers) == {*NUMBERS, POSITION, *OUTCOME_NUMBERS, *QUERY_NUMBERS} - unknown
    assert ranker.channels == (0 if unknown == CHANNELS else 3)
    monkeypatch.setattr(ranking, "write_numbers_graph", lambda *_, **__: [])
    written = ranking.write_ranking_examples(of, ranker, {}, Chain(), 1.0, folder, "aa")
    assert sum(entry.rows for entry in written.files if entry.name.startswith("examples/train/")) == USER_COUNT


@pytest.mark.slow
@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize(
    ("columns", "tables_left_out"),
    [(sorted({*COLUMNS} - {("watches", "completed")}), ()), ([], ("videos", "searches", "users"))],
    ids=["every column but completed", "every optional table"],
)
def test_a_night_is_ranked(tmp_path: Path, columns: list[tuple[str, str]], tables_left_out: tuple[str, ...]) -> None:
    of = night_without(tmp_path, columns, tables_left_out)
    for stage in STAGES:
        stage.run(of)
    served = published_json(of.root)
    assert (served["stage"], served["users"]) == ("ranking", USER_COUNT)
    assert lists(of, "ranking")["video_ids"].list.len().sum() > 0
