"""Stages ingest, vocabulary and examples on logs of a few lines: every input is there, and only those the logs have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from nights import night, watch_rows, write_job

from pipelines import examples, ingest, vocabulary
from pipelines.night.errors import StageError
from pipelines.reports.report import long_tail
from transforms.contracts.example_spec import MISSING, FeatureSpec
from transforms.core.digests import id_digests
from transforms.examples.tfrecords import read_tfrecords

WATCHES: list[dict[str, Any]] = [
    {"user_id": "ann", "time": "2026-11-18T10:00:00Z", "video_id": "tea", "completed": True, "country": "SE"},
    {"user_id": "ann", "time": "2026-11-18T11:00:00Z", "video_id": "jazz", "completed": False, "country": None},
    {"user_id": "ann", "time": "2026-11-19T10:00:00Z", "video_id": "jazz", "completed": True, "country": None},
    {"user_id": "bob", "time": "2026-11-19T12:00:00Z", "video_id": "tea", "completed": True, "country": "DE"},
    {"user_id": "bob", "time": "2026-11-19T13:00:00Z", "video_id": "rare", "completed": True, "country": "DE"},
    {"user_id": "bob", "time": "2026-11-20T13:00:00Z", "video_id": "jazz", "completed": True, "country": "DE"},
]
CONTEXT = {"ann": {"device": "tv", "signed_in": True}, "bob": {"device": "phone", "signed_in": False}}
SEARCHES: list[dict[str, Any]] = [
    {"user_id": "ann", "time": "2026-11-18T09:00:00Z", "query": "Green TEA"},  # an hour before: led to nothing
    {"user_id": "ann", "time": "2026-11-19T09:50:00Z", "query": "green jazz"},  # led to the last watch
    {"user_id": "bob", "time": "2026-11-20T13:00:00Z", "query": "green"},
]
USERS: list[dict[str, Any]] = [
    {"user_id": "ann", "gender": "f", "birth_year": 1986, "plan": "free"},
    {"user_id": "bob", "gender": None, "birth_year": None, "plan": "paid"},
]
SETTINGS = {"window_days": 5, "holdout_days": 0, "watch_vocabulary": 2, "watch_history": 4, "search_history": 4}


def run(folder: Path, *, tables: tuple[str, ...], context: bool = True, **changed: Any) -> tuple[FeatureSpec, Any, Any]:
    """The three stages on some of the tables: the spec, records by split and user, the counts."""
    folder.mkdir(exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {"searches": SEARCHES, "users": USERS}
    rows["watches"] = [{**w, **CONTEXT[w["user_id"]]} for w in WATCHES]
    if not context:
        rows["watches"] = [{n: w[n] for n in ("user_id", "time", "video_id", "completed")} for w in WATCHES]
    for table in tables:
        (folder / f"{table}.jsonl").write_text("\n".join(json.dumps(row) for row in rows[table]))
    lines = [f"{name} = {json.dumps(value)}" for name, value in (SETTINGS | changed).items()]
    job = write_job(
        folder,
        "\n".join(f'{table} = "{table}.jsonl"' for table in tables),
        "\n".join(["[examples]", *lines, "[storage]", "buckets = 8"]),
    )
    of = night(job)
    for stage in (ingest, vocabulary, examples):
        stage.run(of)
    done, at = of.require("examples"), of.folder("examples")
    spec = FeatureSpec.from_json((Path(at) / "spec.json").read_text())
    named = [entry.rows for entry in done.named("search_tokens.parquet")]  # a later night finds its tokens by it
    assert named == ([spec.tokens] if spec.tokens else [])
    features: dict[str, Any] = {"user_id": pl.String()}
    ids = ("watches", "tokens", "label", "watches_end", "tokens_end", "label_days", "as_of_days", *spec.categories)
    features |= dict.fromkeys(ids, pl.List(pl.Int64))
    features |= dict.fromkeys(("example_age", *spec.numbers), pl.List(pl.Float32))
    records = {
        split: {
            row.pop("user_id"): row
            for entry in done.named(f"{split}/")
            for row in read_tfrecords(f"{at}/{entry.name}", features).to_dicts()
        }
        for split in ("train", "serving")
    }
    return spec, records, done.counts


ALL = ("watches", "searches", "users")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureSpec, Any, Any]:
    return run(tmp_path_factory.mktemp("all"), tables=ALL, user_categories=["plan"])


def test_every_input_of_the_model_is_in_the_records(everything: tuple[FeatureSpec, Any, Any]) -> None:
    spec, records, _ = everything
    assert spec == FeatureSpec(
        videos=2,
        tokens=5,  # green, green jazz, green tea, jazz, tea
        watch_history=4,
        search_history=4,
        holdout_days=0,
        categories={
            "country": ["DE", "SE"],
            "device": ["phone", "tv"],
            "gender": ["f"],
            "plan": ["free", "paid"],
            "signed_in": ["false", "true"],
        },
        numbers=["age"],
    )
    jazz, tea = 1, 2  # both completed twice
    ann, bob = records["train"]["ann"], records["train"]["bob"]
    assert (ann["watches"], ann["label"], ann["watches_end"]) == ([tea], [tea, jazz], [0, 1])
    assert (bob["watches"], bob["label"], bob["watches_end"]) == ([tea, 0], [tea, jazz], [0, 2])
    green, green_tea, both_tea = 1, 3, 5  # green thrice, the others once or twice: ties by token
    assert ann["tokens_end"] == [3, 3] and set(ann["tokens"]) <= {green, 2, green_tea, 4, both_tea}
    assert bob["tokens_end"] == [0, 0]
    assert (ann["country"], bob["country"]) == ([0, 2], [0, 1])
    assert (ann["device"], ann["signed_in"]) == ([0, 2], [0, 2])
    assert (ann["gender"], ann["plan"], bob["gender"], bob["plan"]) == ([1, 1], [1, 1], [0, 0], [2, 2])
    assert (ann["age"], bob["age"]) == ([pytest.approx(0.4)] * 2, [MISSING] * 2)
    assert 1 >= ann["example_age"][0] > ann["example_age"][1] > bob["example_age"][1] >= 0
    served = records["serving"]["ann"]
    assert (ann["label_days"], bob["label_days"], served["label_days"]) == ([2, 1], [1, 0], [0])
    assert (served["watches"], served["watches_end"], served["tokens_end"]) == ([tea, jazz], [2], [6])
    assert (served["country"], served["device"], served["plan"]) == ([2], [2], [1]) and served["example_age"] == [0]


def test_every_event_is_accounted_for(everything: tuple[FeatureSpec, Any, Any]) -> None:
    counts = everything[2]
    left_out = {name: n for name, n in counts.items() if name.startswith("watches_") and n}
    assert left_out == {"watches_not_completed": 1, "watches_out_of_vocabulary": 1}
    assert counts["watches"] == len(WATCHES) == sum(left_out.values()) + counts["train_pointers"]
    assert counts["searches"] == len(SEARCHES) == counts["searches_used"]
    assert long_tail(counts) == {
        "share of completed watches out of vocabulary": 1 / 5,
        "share of users with such a watch": 1 / 2,
        "share of users with only such watches": 0,
    }


def test_missing_tables_and_columns_shrink_the_spec(tmp_path: Path) -> None:
    spec, records, counts = run(tmp_path, tables=("watches",), context=False, user_categories=["plan"])
    assert spec == FeatureSpec(videos=2, tokens=0, watch_history=4, search_history=4, holdout_days=0)
    with pytest.raises(KeyError):
        records["train"]["ann"]["country"]
    assert records["train"]["ann"]["tokens"] == records["serving"]["ann"]["tokens_end"] == []
    assert counts["searches"] == 0


def test_hashed_videos_are_in_histories_alone_and_withholding_may_be_switched_off(tmp_path: Path) -> None:
    """Without a users table, too: what of the context stands in the watches is there."""
    changed: dict[str, Any] = {"long_tail": "hash", "long_tail_rows": 50, "withhold_last_search": False}
    spec, records, _ = run(tmp_path, tables=("watches", "searches"), **changed)
    assert set(spec.categories) == {"country", "device", "signed_in"} and spec.numbers == []
    assert records["train"]["ann"]["tokens_end"] == [3, 6]
    assert (spec.videos, spec.shared_rows) == (2, 50)
    rare = 3 + id_digests(pl.Series(["rare"])).item() % 50
    assert records["train"]["bob"]["watches"] == [2, rare]
    assert records["train"]["bob"]["label"] == [2, 1]
    assert records["serving"]["bob"]["watches"] == [2, rare, 1]


def test_watches_that_were_not_completed_are_in_histories_alone(tmp_path: Path) -> None:
    completed, records_without, _ = run(tmp_path / "completed", tables=("watches",), partial_watches=False)
    spec, records, _ = run(tmp_path / "all", tables=("watches",), partial_watches=True)
    assert (spec.partial_watches, spec.watch_ids, completed.watch_ids) == (True, 2 * spec.videos, spec.videos)
    for user, record in records["train"].items():
        assert record["label"] == records_without["train"][user]["label"]
    histories = [record["watches"] for record in records["serving"].values()]
    assert any(row > spec.videos for history in histories for row in history)
    known = {user: [row for row in record["watches"] if row <= 2] for user, record in records["serving"].items()}
    assert known == {user: record["watches"] for user, record in records_without["serving"].items() if user in known}


def test_the_days_of_robots_are_no_events(tmp_path: Path) -> None:
    """On ann's 18th are two watches and a search."""
    _, records, counts = run(tmp_path, tables=ALL, max_events_per_day=2)
    assert (counts["robot_days"], counts["watches_of_robots"], counts["searches_of_robots"]) == (1, 2, 1)
    jazz, rare = 1, 2  # tea was completed as often as rare: once, on a day that counts
    assert (records["serving"]["ann"]["watches"], records["serving"]["ann"]["tokens_end"]) == ([jazz], [3])
    assert records["serving"]["bob"]["watches"] == [0, rare, jazz]
    assert records["train"]["ann"]["label"] == [jazz]
    job = tmp_path / "job.toml"
    job.write_text(job.read_text().replace("max_events_per_day = 2", "max_events_per_day = 3"))
    assert not vocabulary.plan(night(job)).is_done(night(job)), "another limit is another vocabulary"


def no_label(folder: Path, watches: pl.DataFrame, more: str = "") -> str:
    """The message of stage vocabulary about watches that nothing can be learned from."""
    folder.mkdir(exist_ok=True)
    watches.write_csv(folder / "watches.csv")
    of = night(write_job(folder, 'watches = "watches.csv"', f"[examples]\nwindow_days = 5\n{more}"))
    ingest.run(of)
    with pytest.raises(StageError) as raised:
        vocabulary.run(of)
    return str(raised.value)


def test_the_message_names_why_no_watch_is_learned_from(tmp_path: Path) -> None:
    """Of one user and day, of held-out days, not completed, of several of these, and none at all."""
    one_user = watch_rows(1_200, days=1).with_columns(user_id=pl.lit("everybody"), completed=pl.lit(True))
    assert "all 1,200 watches are of days with more than max_events_per_day" in no_label(tmp_path, one_user)
    message = no_label(tmp_path / "held out", one_user.head(40), "holdout_users = 1.0")
    assert "all 40 watches are of held-out users in the held-out days" in message
    short = one_user.head(30).with_columns(user_id=pl.lit("short"), completed=pl.lit(False))
    message = no_label(tmp_path / "several", pl.concat([one_user, short]))
    assert message.startswith("none of the 1,230 watches of the window can be learned from; 1,200 are of days with")
    assert "30 are not completed" in message
    before = one_user.head(3).with_columns(pl.col("time").dt.offset_by("-30d"))
    assert "is --date right" in no_label(tmp_path / "old", before)


def test_labels_of_a_user_from_the_counts_of_the_window(tmp_path: Path) -> None:
    _, records, counts = run(tmp_path / "auto", tables=("watches",), per_user="auto")
    _, every, _ = run(tmp_path / "all", tables=("watches",), per_user=0)
    assert records["train"].keys() == every["train"].keys()
    assert "per_user = 0" in counts["notes"][0] and counts["auto"]["per_user"].startswith("0 (")
