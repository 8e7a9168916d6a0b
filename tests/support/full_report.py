"""A report in which every part has something to show."""

import numpy as np

from transforms.report.page import Report, Status, Training, UserExample
from transforms.report.video_map import video_map

EARLIER_RUN = "served with the lists of an earlier run; the figures are of the last one, not published: "
ATTACK = "<script>alert(1)</script>"

FULL = Report(
    date="2026-11-21",
    status=Status(text="ungated", level="warn"),
    summary=Status(text="Good lists for 1,999 users.", level="ok"),
    headline=[("users served", 1_999), ("recall@100", 0.30184)],
    metric="recall@100",
    systems={
        "neighbours": {
            "figures": {"users": 100, "recall@50": 0.1963, "recall@100": 0.3018, "map": 0.0512},
            "intervals": {"recall@100": [0.281, 0.322]},
        },
        "most popular": {"figures": {"users": 100, "recall@50": 0.1487, "recall@100": 0.2256}, "intervals": {}},
    },
    differences={"most popular": {"recall@100": {"value": 0.0762, "low": 0.051, "high": 0.101}, "map": None}},
    comparisons={"most popular": "significantly better"},
    gates=[
        {"name": "users", "value": 0.0, "bound": "", "ok": True, "message": "gate users: as many as before"},
        {"name": "recall", "value": -0.2, "bound": "", "ok": False, "message": "gate recall: lost too much"},
        {"name": "index recall", "value": None, "bound": "", "ok": None, "message": "gate index recall: no index"},
    ],
    trend_nights=["2026-11-20", "2026-11-21"],
    trend={"held-out users": [None, (0.3018, 0.281, 0.322)]},
    slices={"upload": {"fresh": {"neighbours": {"figures": {"users": 7, "recall@100": 0.41}, "intervals": {}}}}},
    list_statistics={"neighbours": {"coverage": 0.4782, "mean_age_days": 78.77}},
    ages={"neighbours": [0.25, 0.5, 0.0], "watched": [0.5, 0.1, 0.2]},
    lengths={"neighbours": [0.375, 0.625], "watched": [0.5, 0.5]},
    length_classes=["under 1 min", "1 min and more"],
    ann_loss={"index": "exact"},
    diversity={
        "setting": 0.25,
        "by_score": {"figures": {"users": 100, "recall@100": 0.3141}, "intervals": {}},
        "difference": {"recall@100": {"value": -0.0123, "low": -0.0321, "high": 0.0045}},
    },
    new_videos={
        "setting": 0.03,
        "videos": 57,
        "without_new": {"figures": {"users": 100, "recall@100": 0.2987}, "intervals": {}},
        "difference": {"recall@100": {"value": 0.0031, "low": -0.0012, "high": 0.0074}},
        "of_new": {"figures": {"users": 20, "pairs": 27, "recall@100": 0.3704}, "intervals": {}},
    },
    served={
        "date": "2026-11-20",
        "new_videos": {
            "places": {"new": 400, "new_completed": 15, "others": 7_000, "others_completed": 140},
            "of_new": {"figures": {"users": 30, "pairs": 48, "recall@100": 0.3125}, "intervals": {}},
        },
    },
    ranking={
        "cut": 7,
        "users": 9,
        "wanted_seconds": 1_234,
        "neighbours": {"recall": 0.1357, "interval": [0.11, 0.15]},
        "ranking": {"recall": 0.2468, "interval": [0.21, 0.27]},
        "difference": {"value": 0.1111, "low": 0.066, "high": 0.155},
    },
    ranker={
        "figures": {"impressions": 4_321, "per_user_loss": 0.3579, "pairs": 5},
        "calibration": [
            {"impressions": 432, "predicted_seconds": 31.5, "watched_seconds": 29.75},
            {
                "impressions": 431,
                "clicks": 217,
                "predicted_seconds": 40.5,
                "watched_seconds": 45.0,
                "interval": [0.8771, 0.9321],
            },
        ],
    },
    order={
        "weight": 2.5,
        "halves": [2.5, 4.0],
        "reason": "the most watch time of weights that lose no recall",
        "users": 876,
        "curve": [
            {
                "weight": weight,
                "recall": 0.1919,
                "watch_time": 0.2727,
                "recall_difference": {"value": -0.0088, "low": -0.0313, "high": 0.0414},
                "watch_time_difference": {"value": 0.0515, "low": 0.0271, "high": 0.0828},
                "watch_time_error": 0.0123,
            }
            for weight in (0.0, 2.5, "neighbours")
        ],
    },
    map=video_map(np.eye(4, 3), ["en", "en", "es", "de"], by="language"),
    days=["2026-11-19", "2026-11-20"],
    events={"watches": [10, 20], "searches": [1, 2]},
    night_rows=[("2026-11-21", [1_300, 1_299, 1, 99])],
    training=Training(
        steps=[0, 10, 20],
        losses=[7.5, 6.25, 5.0],
        speeds=[90.0, 95.0],
        epochs=[0.21, 0.27],
        waiting=0.0625,
        auto={"dimension": "64 (2,000 videos)"},
    ),
    users=[
        UserExample(
            user_id="u-17",
            watched=[("11-20 21:05", "Trains by day", True), ("11-20 20:15", "Ferries", False)],
            listed=[("Night trains", 212.5), ("Trams", None)],
        )
    ],
    similar={"Popular videos": [("Trains at night", [("Night trains", 0.934), ("Trains", 0.5)]), ("Alone", [])]},
    folding={"similar": {"folded": 0.0123, "of another topic": 0.4}, "random": {"folded": 0.8765}},
    counts=[("ingest", "watches", 1_234_567)],
    rejects={"time in the future": 3, "null user_id": 12},
    vocabulary={"videos": {"kept": 9_876, "cut": 124}},
    seconds={"ingest": 12.34, "train": 72.0},
    costs=[("train", [143.2, "2.5 GiB", "77 MiB"])],
    settings={"model": {"hidden": [1024, 512], "history": "recency", "table_learning_rate": 0.0275}},
    versions={"tensorflow": "2.21.0"},
)
