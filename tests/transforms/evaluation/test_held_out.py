"""The labels and slices of held-out users, compared with values computed by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
from made_frames import hours, search, searches_frame, watch, watches_frame

from transforms.contracts.example_spec import FeatureSpec
from transforms.contracts.retrieval_metrics import UserMetrics
from transforms.evaluation.held_out import RECORD, HeldOut
from transforms.evaluation.item_to_item import LAST
from transforms.logs.schemas import TIME

START = hours(24 * 20)
SPEC = FeatureSpec(
    videos=30, tokens=0, watch_history=5, search_history=0, categories={"country": ["DE", "FR"], "signed_in": ["true"]}
)
UPLOADS = {"v01": hours(24 * 13), "v02": hours(24 * 12), "v03": hours(24 * 20.5), "late": hours(24 * 20.5)}
VIDEOS = pl.DataFrame(
    {
        "video_id": [f"v{n:02d}" for n in range(1, 31)] + ["late"],
        "id": [*range(1, 31), None],
        "upload_time": pl.Series([UPLOADS.get(f"v{n:02d}") for n in range(1, 31)] + [UPLOADS["late"]], dtype=TIME),
    }
)
RECORDS = pl.DataFrame(
    {
        "user_id": ["c", "a", "b"],
        "watches": [[], [5, 0, 31, 6, 5, 40], list(range(1, 26))],
        "country": [[0], [2], [1]],
        "device": [[], [], []],
    },
    schema=RECORD,
)
LABELS = {"c": ["v01", "late", "other"], "a": ["v02", "v03"], "b": ["v09"]}
WATCHES = watches_frame(
    [
        *(watch(user, 24 * 20 + n % 2, video) for user, videos in LABELS.items() for n, video in enumerate(videos * 2)),
        watch("c", 24 * 20.2, "v04", False),
        watch("a", 24 * 12.9, "v05", False),
        watch("a", 24 * 19, "v06"),
        watch("b", 24 * 13, "v09"),
        watch("z", 24 * 20.5, "v09"),
    ]
)
SEARCHES = searches_frame([search("b", 24 * 14, "q"), search("c", 24 * 20.9, "q"), search("z", 1, "q")])


def held_out() -> HeldOut:
    columns = ["user_id", "time", "video_id", "completed"]
    return HeldOut.from_records(
        RECORDS, WATCHES.select(columns), SEARCHES.select("user_id", "time"), VIDEOS, SPEC, START
    )


def test_users_have_slices() -> None:
    found = held_out()
    assert found.user_ids.to_list() == ["c", "a", "b"]
    assert {kind: values.tolist() for kind, values in found.kinds.items()} == {
        "country": ["not known", "FR", "DE"],  # the model has no devices
        "history": ["0", "5-19", "20-49"],
        "user": ["new", "known", "new"],
    }


def test_labels_are_the_distinct_videos_completed_in_the_held_out_days() -> None:
    assert held_out().labels.sort("row", "id", "upload").rows() == [
        (0, 0, "fresh"),  # late
        (0, 0, "not known"),  # other
        (0, 1, "fresh"),
        (1, 2, "older"),
        (1, 3, "fresh"),
        (2, 9, "not known"),
    ]


def test_the_last_videos_are_distinct_and_in_vocabulary() -> None:
    recent = held_out().recent
    assert recent.filter(row=0).is_empty()
    assert recent.filter(row=1)["id"].to_list() == [6, 5]
    assert recent.filter(row=2)["id"].to_list() == list(range(1, 26))[-LAST:]


def test_a_batch_counts_its_rows_from_0() -> None:
    whole, last = held_out(), held_out().batch(1, 2)
    assert last.user_ids.to_list() == ["a", "b"]
    assert last.kinds["country"].tolist() == ["FR", "DE"]
    assert last.labels["row"].to_list() == [0, 0, 1]
    assert set(last.recent["row"]) == {0, 1}
    everybody = whole.batch(0, 3)
    assert everybody.labels.equals(whole.labels) and everybody.recent.equals(whole.recent)


def test_metrics_count_the_labels() -> None:
    shown = np.array([[7, 1], [3, 2], [8, -1]])
    found = held_out().metrics(shown, (1, 2))
    hits = np.array([[False, True], [True, True], [False, False]])
    expected = UserMetrics.from_hits(hits, np.array([3, 2, 1]), ks=(1, 2))
    assert found.total() == expected.total()
    fresh = held_out().metrics(shown, (1, 2), pl.col("upload") == "fresh")
    hits = np.array([[False, True], [True, False], [False, False]])
    assert fresh.total() == UserMetrics.from_hits(hits, np.array([2, 1, 0]), ks=(1, 2)).total()
