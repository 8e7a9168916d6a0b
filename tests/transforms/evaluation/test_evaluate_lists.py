"""The figures of the evaluation compared with plain loops over its lists, which are as of the start of the held-out
days and obey the serving rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl
import pytest
from made_frames import hours, searches_frame, user_vector, watch, watches_frame, write
from made_index import write_made_index

from transforms.contracts.example_spec import FeatureSpec
from transforms.core.bootstrap import REPLICATES, PairedDifference
from transforms.core.files import FileEntry
from transforms.core.records import Records, WriteRecords, pop_records
from transforms.core.user_sampling import UserSample
from transforms.evaluation import item_to_item, measure_batch
from transforms.evaluation.evaluate_lists import WriteEvaluation
from transforms.evaluation.held_out import RECORD, HeldOut
from transforms.evaluation.list_statistics import DAYS, LENGTHS
from transforms.evaluation.measure_batch import HoldoutInputs, measure_ann_loss, read_shared
from transforms.evaluation.night_metrics import (
    EXACT_SEARCH,
    ITEM_TO_ITEM,
    MOST_POPULAR,
    NEIGHBOURS,
    RANKING,
    SYSTEMS,
    MeasuredRecord,
    ShownRecord,
    collect_metrics,
)
from transforms.examples.tfrecords import write_tfrecords
from transforms.logs.event_window import COMPLETED_COLUMNS, BucketFiles, Window
from transforms.ranking.watch_time_recall import MeasuredRanking, WatchTime
from transforms.search import tower as tower_module
from transforms.search.exclusions import Excluded
from transforms.search.new_videos import NEW_VIDEOS, NewVideos
from transforms.search.shard_search import exact_lists
from transforms.search.user_limits import BucketRecords, SearchInputs
from transforms.search.user_lists import SearchResult

N, K, CUT = 15, 4, 2
START = hours(24)  # of the held-out days
BEFORE = Window(start=hours(0), end=START)
DRAW = np.random.default_rng(3)
VECTORS = pl.DataFrame(
    {
        "id": range(1, N + 1),
        "video_id": [f"v{i:02d}" for i in range(1, N + 1)],
        "vector": [[float(x) for x in DRAW.integers(-3, 4, 4)] for _ in range(N)],
    },
    schema_overrides={"vector": pl.List(pl.Float32)},
)
COUNTS = [int(count) for count in sorted(DRAW.integers(1, 9, N), reverse=True)]
UPLOADS = {"v01": START, "v02": hours(23.9), "v03": hours(30), "v04": None}
LATE = {"v01", "v03"}
LABELS = {"aa-b": [0, 1, 5, 6], "c-dd-e": [2, 7], "fff": [0], "g-h-ii": [3, 4, 9, 11, 12, 13]}  # 0: "gone"
WATCHES = [watch(u, i, f"v{(i * 3 + n) % N + 1:02d}", i % 3 > 0) for n, u in enumerate(LABELS) for i in range(4)]
THEN = [watch(u, 25 + i, f"v{i:02d}" if i else "gone") for u, ids in LABELS.items() for i in [*ids, ids[0]]]
LAST_DAY = {"v05": 3, "v12": 9, "gone": 20}
NEAR = [(5, 7, 100), (5, 9, 300), (2, 9, 50), (2, 10, 350), (11, 1, 900)]  # id, other, weight
COUNTRY_CODES = {"aa-b": 1, "c-dd-e": 0, "fff": 3, "g-h-ii": 1}
SPEC = FeatureSpec(
    videos=N, tokens=0, watch_history=5, search_history=0, categories={"country": ["SE", "DE", "AT"], "device": ["tv"]}
)


HIDDEN = [("fff", "v05"), ("fff", "v06"), ("aa-b", "v08")]
LIMITED = {"v02": "SE", "v07": "DE", "v09": "DE,SE"}
COUNTRY = {"aa-b": "SE", "c-dd-e": "DE"}
CHANNEL = {video: f"c{i % 5}" for i, video in enumerate(VECTORS["video_id"]) if i % 3}
LENGTH_OF = {f"v{i:02d}": 30.0 if i % 2 else 3_000.0 for i in range(1, 9)}  # of the shortest class, of the longest
MOST_OF_ONE = 1  # a quarter of K


def allowed(user: str) -> list[str]:
    """Return the videos that could have been shown to a user at the start of the held-out days."""
    seen = {w["video_id"] for w in WATCHES if w["user_id"] == user and w["completed"]}
    seen |= {video for who, video in HIDDEN if who == user}
    elsewhere = {video for video, codes in LIMITED.items() if COUNTRY.get(user) not in codes.split(",")}
    return [video for video in VECTORS["video_id"] if video not in seen | LATE | elsewhere]


def capped(videos: list[str]) -> list[str]:
    """Return the first K videos, best first, that the limit per channel allows."""
    found: list[str] = []
    for video in videos:
        same = [other for other in found if CHANNEL.get(other) == CHANNEL.get(video)]
        if len(found) < K and (video not in CHANNEL or len(same) < MOST_OF_ONE):
            found.append(video)
    return found


def scores_by_hand(system: str, user: str) -> dict[str, float]:
    vectors = dict(VECTORS.select("video_id", "vector").iter_rows())
    counts = dict(zip(VECTORS["video_id"], COUNTS, strict=True))
    if system in (NEIGHBOURS, EXACT_SEARCH, RANKING):
        return {v: float(np.dot(vectors[v], user_vector(user, 3))) for v in vectors}
    if system == ITEM_TO_ITEM:
        sums = {v: sum(w for i, o, w in NEAR if i in history(user) and f"v{o:02d}" == v) for v in vectors}
        best = lists_by_hand(MOST_POPULAR)[user]  # fills up the list, in its order
        return {v: s or -1.0 - best.index(v) for v, s in sums.items() if s or v in best}
    return {v: float(counts[v] if system == MOST_POPULAR else LAST_DAY.get(v, 0)) for v in vectors}


def history(user: str) -> list[int]:
    """Return the ids of the videos a user completed before, oldest first."""
    return [int(w["video_id"][1:]) for w in WATCHES if w["user_id"] == user and w["completed"]]


def lists_by_hand(system: str) -> dict[str, list[str]]:
    found = {}
    for user in LABELS:
        score = scores_by_hand(system, user)
        found[user] = capped(sorted(set(score) & set(allowed(user)), key=lambda v: (-score[v], v)))
    return {user: videos[::-1] for user, videos in found.items()} if system == RANKING else found


def figures_by_hand(lists: dict[str, list[str]], labels: Mapping[str, list[int]] = LABELS) -> dict[str, float]:
    id_of = dict(VECTORS.select("video_id", "id").iter_rows())
    wanted = {user: own for user, own in labels.items() if own}
    pairs = sum(map(len, wanted.values()))
    hits = {user: [id_of[video] in own for video in lists[user]] for user, own in wanted.items()}
    discount = [1 / np.log2(rank + 2) for rank in range(K)]
    gains = {user: sum(d for d, hit in zip(discount, row, strict=False) if hit) for user, row in hits.items()}
    ndcg = [gain / sum(discount[: len(wanted[user])]) for user, gain in gains.items()]
    first = [1 / (row.index(True) + 1) if any(row) else 0 for row in hits.values()]
    return {
        f"recall@{K}": sum(map(sum, hits.values())) / pairs,
        f"hit@{K}": sum(map(any, hits.values())) / len(hits),
        f"ndcg@{K}": float(np.mean(ndcg)),
        "mrr": float(np.mean(first)),
        "users": len(wanted),
        "pairs": pairs,
    }


def recall_in_first(lists: dict[str, list[str]], cut: int) -> float:
    found = sum(int(video[1:]) in LABELS[user] for user, videos in lists.items() for video in videos[:cut])
    return found / sum(map(len, LABELS.values()))


@dataclass(frozen=True)
class Evaluated:
    """The folder with the lists, and the records, of two buckets of held-out users and one without."""

    lists: Path
    records: Records

    def metrics(self) -> dict[str, Any]:
        measured, shown = self.records.of(MeasuredRecord), self.records.of(ShownRecord)
        return collect_metrics(measured, shown, k=K, index="exact", holdout=("then", "now"), served=None).to_dict()


@dataclass(frozen=True)
class ReversingRanking:
    """A replacement of `HeldOutRanking` that reverses lists, and writes a file with the users of each ranking."""

    folder: Path

    def rank(self, lists: pl.DataFrame, bucket: BucketFiles) -> pl.DataFrame:
        names = [path.name for path in self.folder.iterdir()]
        (self.folder / f"{bucket.bucket}-{len(names)}").write_text(" ".join(lists["user_id"]))
        return lists.with_columns(pl.col("video_ids").list.reverse())

    def watch_time(self, lists: pl.DataFrame, ranked: pl.DataFrame, watches: pl.DataFrame) -> WatchTime:
        assert ranked["video_ids"].to_list() == [videos[::-1] for videos in lists["video_ids"].to_list()]
        columns = {name: np.ones(lists.height, np.int64) for name in ("wanted", "neighbours", "ranking")}
        return WatchTime.from_columns(columns, np.ones((lists.height, REPLICATES), np.uint8))


@pytest.fixture(scope="module", params=[1, 3])
def evaluated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tower: str) -> Evaluated:
    """Evaluate with an index of one shard and of three, and two users per batch; the ranked lists are the reversed
    ones, and one user's is measured at a time."""
    folder = tmp_path_factory.mktemp("evaluated")
    (measured := folder / "measured").mkdir()
    inputs = write_inputs(folder, tower, shards=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tower_module, "BATCH", 2)
        patch.setattr(measure_batch, "USERS_AT_ONCE", 1)
        evaluate = WriteEvaluation(
            inputs,
            Window(start=hours(0), end=hours(48)),
            str(folder),
            "{bucket}.parquet",
            ranking=ReversingRanking(measured),  # type: ignore[arg-type]
        )
        with beam.Pipeline(runner="FnApiRunner") as pipeline:
            pipeline | beam.Create(write_buckets(folder)) | evaluate | WriteRecords(str(folder / "records"))
    return Evaluated(
        folder / "lists", pop_records(str(folder / "records"), FileEntry, MeasuredRecord, ShownRecord, MeasuredRanking)
    )


def write_inputs(folder: Path, tower: str, *, shards: int = 1) -> HoldoutInputs:
    uploads = pl.Series([UPLOADS.get(v) for v in VECTORS["video_id"]], dtype=pl.Datetime("us", "UTC"))
    videos = VECTORS["video_id"].to_list()
    vectors = np.array(VECTORS["vector"].to_list())
    index, path = write_made_index(folder, vectors, videos, uploads=uploads, shards=shards)
    rules = {"channel": [CHANNEL.get(v) for v in videos], "countries": [LIMITED.get(v) for v in videos]}
    seconds = pl.Series([LENGTH_OF.get(v) for v in videos], dtype=pl.Float64)
    catalogue = pl.DataFrame({"video_id": videos, **rules, "upload_time": uploads, "video_seconds": seconds})
    search = SearchInputs(
        tower=tower,
        index=index,
        videos=path,
        k=K,
        exclude="completed",
        watched_window=BEFORE,
        window=BEFORE,
        catalogue=write(catalogue, folder / "catalogue"),
        max_share_per_channel=MOST_OF_ONE / K,
        as_of=START,
    )
    (folder / "spec.json").write_text(SPEC.to_json())
    last_day = pl.DataFrame({"token": list(LAST_DAY), "count": list(LAST_DAY.values())})
    return HoldoutInputs(
        search=search,
        counts=write(pl.DataFrame({"token": VECTORS["video_id"], "count": COUNTS}), folder / "counts"),
        last_day=write(last_day, folder / "last_day"),
        co_watches=write(pl.DataFrame(NEAR, schema=item_to_item.NEAR, orient="row"), folder / "near"),
        spec=str(folder / "spec.json"),
        exact=UserSample(buckets=1, share=1.0),
        ranking_cut=CUT,
    )


def write_buckets(folder: Path) -> list[BucketRecords]:
    watches = write(watches_frame([*WATCHES, *THEN]), folder / "watches")
    known = write(pl.DataFrame({"user_id": list(COUNTRY), "country": list(COUNTRY.values())}), folder / "users")
    hidden = write(pl.DataFrame(HIDDEN, schema=["user_id", "video_id"], orient="row"), folder / "hidden")
    buckets = [BucketRecords(files=BucketFiles(bucket=9), records="")]
    for bucket, users in enumerate((list(LABELS)[:3], list(LABELS)[3:])):
        records = pl.DataFrame(
            {
                "user_id": users,
                "watches": [history(user) for user in users],
                "country": [[COUNTRY_CODES[user]] for user in users],
                "device": [[0]] * len(users),
            }
        )
        write_tfrecords(records, str(folder), f"{bucket}")
        files = BucketFiles(bucket=bucket, watches=(watches,), users=(known,), hidden=(hidden,))
        buckets.append(BucketRecords(files=files, records=str(folder / f"{bucket}"), watched=(watches,)))
    return buckets


def test_lists_are_as_of_the_start_of_the_held_out_days(evaluated: Evaluated) -> None:
    names = sorted(file.name for file in evaluated.records.of(FileEntry))
    assert names == ["lists/0.parquet", "lists/1.parquet"]
    written = {u: v for path in evaluated.lists.iterdir() for u, v, _ in pl.read_parquet(path).iter_rows()}
    assert written == lists_by_hand(NEIGHBOURS)
    assert not LATE & {video for videos in written.values() for video in videos}


def test_the_ranked_lists_of_a_bucket_are_measured_together(
    tmp_path: Path, tower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement reads the bucket's events, so three users in batches of one are measured once."""
    monkeypatch.setattr(tower_module, "BATCH", 1)
    (measured := tmp_path / "measured").mkdir()
    window, ranking = Window(start=hours(0), end=hours(48)), ReversingRanking(measured)
    evaluate = WriteEvaluation(
        write_inputs(tmp_path, tower),
        window,
        str(tmp_path),
        "{bucket}.parquet",
        ranking=ranking,  # type: ignore[arg-type]
    )
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(write_buckets(tmp_path)) | evaluate | WriteRecords(str(tmp_path / "records"))
    assert sorted(path.read_text() for path in measured.iterdir()) == ["aa-b c-dd-e fff", "g-h-ii"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_figures_equal_those_of_the_lists(system: str, evaluated: Evaluated) -> None:
    measured = evaluated.metrics()["systems"][system]
    expected = figures_by_hand(lists_by_hand(system))
    expected[f"recall@{CUT}"] = recall_in_first(lists_by_hand(system), CUT)
    assert {name: measured["figures"][name] for name in expected} == pytest.approx(expected)
    assert set(measured["intervals"]) == set(measured["figures"]) - {"users", "pairs"}
    assert len(measured["replicates"][f"recall@{K}"]) == REPLICATES


def test_ranked_lists_are_compared_with_the_neighbours(evaluated: Evaluated) -> None:
    """The lists to serve are the reversed ones: their first videos differ, and the whole lists have the same videos."""
    found, lists = evaluated.metrics(), [lists_by_hand(system) for system in (RANKING, NEIGHBOURS)]
    assert found["served_system"] == RANKING
    difference = found["differences"][NEIGHBOURS]
    first, last = (recall_in_first(one, CUT) for one in lists)
    assert first != last and difference[f"recall@{CUT}"]["value"] == pytest.approx(first - last)
    assert difference[f"recall@{K}"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_systems_differ() -> None:
    lists = [lists_by_hand(system) for system in SYSTEMS]
    assert all(one != other for one, other in combinations(lists, 2))
    assert 0 < figures_by_hand(lists[0])[f"recall@{K}"] < 1


@pytest.mark.parametrize("system", [NEIGHBOURS, MOST_POPULAR])
def test_slices_are_figures_of_their_users(system: str, evaluated: Evaluated) -> None:
    slices = evaluated.metrics()["slices"]
    of_users = {
        "country": {"SE": ["aa-b", "g-h-ii"], "not known": ["c-dd-e"], "AT": ["fff"]},
        "device": {"not known": list(LABELS)},
        "history": {"1-4": list(LABELS)},
        "user": {"new": list(LABELS)},
    }
    assert {kind: set(values) for kind, values in slices.items() if kind != "upload"} == {
        kind: set(values) for kind, values in of_users.items()
    }
    for kind, values in of_users.items():
        for value, users in values.items():
            expected = figures_by_hand(lists_by_hand(system), {user: LABELS[user] for user in users})
            found = slices[kind][value][system]
            assert {name: found["figures"][name] for name in expected} == pytest.approx(expected)
            assert set(found["intervals"]) == {f"recall@{K}"} and "replicates" not in found


def test_slices_by_upload_are_figures_of_their_labels(evaluated: Evaluated) -> None:
    slices = evaluated.metrics()["slices"]["upload"]
    fresh = {int(video[1:]) for video, time in UPLOADS.items() if time}
    for value, ids in {"fresh": fresh, "not known": {0, *range(1, N + 1)} - fresh}.items():
        labels = {user: [label for label in own if label in ids] for user, own in LABELS.items()}
        expected = figures_by_hand(lists_by_hand(NEIGHBOURS), labels)
        found = slices[value][NEIGHBOURS]["figures"]
        assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert set(slices) == {"fresh", "not known"}


def test_statistics_of_the_videos_shown(evaluated: Evaluated) -> None:
    found = evaluated.metrics()["shown"]
    labels = [label or N + 1 for own in LABELS.values() for label in own]
    assert found["watched"]["mean_log2_rank"] == pytest.approx(np.log2(labels).mean())
    assert set(found) == {"watched", *SYSTEMS} - {RANKING}
    for system in set(SYSTEMS) - {RANKING}:
        ids = [int(video[1:]) for videos in lists_by_hand(system).values() for video in videos]
        assert found[system]["videos"] == len(ids)
        assert found[system]["coverage"] == len(set(ids)) / N
        bias = np.log2(labels).mean() - np.log2(ids).mean()
        assert found[system]["popularity_bias"] == pytest.approx(bias)
        uploads = [upload for i in ids if (upload := UPLOADS.get(f"v{i:02d}")) is not None]
        ages = [(START - upload).total_seconds() / 86_400 for upload in uploads]
        assert ("mean_age_days" in found[system]) == bool(ages)
        if ages:
            assert found[system]["mean_age_days"] == pytest.approx(np.mean(ages))
            assert found[system]["new_uploads"] == 1.0
        assert found[system]["by_day"] == ([1.0] + [0.0] * (DAYS - 1) if ages else [])
        lengths = [length for i in ids if (length := LENGTH_OF.get(f"v{i:02d}")) is not None]
        short = sum(length < LENGTHS[0] for length in lengths)
        expected = [short / len(lengths), *[0.0] * 3, 1 - short / len(lengths)] if lengths else []
        assert found[system]["by_length"] == pytest.approx(expected)


def test_an_exact_index_has_no_ann_loss(evaluated: Evaluated) -> None:
    loss = evaluated.metrics()["ann_loss"]
    sampled = {user: LABELS[user] for user in list(LABELS)[:3]}  # of the first bucket
    expected = figures_by_hand(lists_by_hand(NEIGHBOURS), sampled)
    for system in (NEIGHBOURS, EXACT_SEARCH):
        assert {name: loss[system]["figures"][name] for name in expected} == pytest.approx(expected)
    assert loss["overlap"]["figures"][f"recall@{K}"] == 1.0
    assert loss["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_diverse_lists_are_measured_next_to_those_in_the_order_of_scores(tmp_path: Path, tower: str) -> None:
    inputs = write_inputs(tmp_path, tower, shards=2)
    inputs = replace(inputs, search=replace(inputs.search, diversity=0.9))
    evaluate = WriteEvaluation(inputs, Window(start=hours(0), end=hours(48)), str(tmp_path), "{bucket}.parquet")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(write_buckets(tmp_path)) | evaluate | WriteRecords(str(tmp_path / "records"))
    found = pop_records(str(tmp_path / "records"), FileEntry, MeasuredRecord, ShownRecord)
    metrics = collect_metrics(
        found.of(MeasuredRecord), k=K, index="exact", holdout=("then", "now"), served=None, diversity=0.9
    )
    written = {
        user: videos for path in (tmp_path / "lists").iterdir() for user, videos, _ in pl.read_parquet(path).iter_rows()
    }
    assert written != lists_by_hand(NEIGHBOURS)
    served, by_score = figures_by_hand(written), figures_by_hand(lists_by_hand(NEIGHBOURS))
    assert metrics.diversity is not None and metrics.ann_loss is not None
    for measured, expected in ((metrics.systems[NEIGHBOURS], served), (metrics.diversity.by_score, by_score)):
        assert {name: measured.figures[name] for name in expected} == pytest.approx(expected)
    difference = metrics.diversity.difference[f"recall@{K}"]
    assert difference is not None
    assert difference.value == pytest.approx(served[f"recall@{K}"] - by_score[f"recall@{K}"])
    assert metrics.ann_loss.difference == PairedDifference(value=0.0, low=0.0, high=0.0), "exact search finds the same"


NEW = {"v10": 10, "n1": None, "n2": None}  # video -> id in the vocabulary; v10 was first watched in the held-out days
NEW_LABELS = {"aa-b": ["v10", "n2"], "c-dd-e": [], "fff": ["n1", "gone"], "g-h-ii": []}


@pytest.mark.parametrize("shards", [1, 2])
def test_places_for_new_videos_are_measured_next_to_lists_without(shards: int, tmp_path: Path, tower: str) -> None:
    """New is what was not watched when the held-out days began, whatever the model has learned since."""
    inputs = write_inputs(tmp_path, tower, shards=shards)
    rows = [
        ("n1", None, hours(23), 0, [0.5, 1.0, -1.0, 2.0]),
        ("n2", None, hours(22), 0, [-1.0, 0.0, 1.0, 0.5]),
        ("n3", None, START, 0, [9.0, 9.0, 9.0, 9.0]),
        ("v02", 2, hours(23.9), COUNTS[1], [9.0, 9.0, 9.0, 9.0]),
        ("v10", 10, hours(20), COUNTS[9], [1.0, 1.0, 1.0, 1.0]),
    ]
    path = write(pl.DataFrame(rows, schema=NEW_VIDEOS, orient="row"), tmp_path / "new")
    later = write(pl.DataFrame({"token": ["v10", "v02"], "count": [COUNTS[9], COUNTS[1] - 1]}), tmp_path / "later")
    new = NewVideos(path=path, share=0.25, since=hours(0), until=START, later_counts=later)
    inputs = replace(inputs, search=replace(inputs.search, new=new, max_share_per_channel=1.0))
    then = [watch(user, 25, video) for user, videos in NEW_LABELS.items() for video in videos]
    watches = write(watches_frame([*WATCHES, *then]), tmp_path / "with_new")
    buckets = [
        replace(bucket, files=replace(bucket.files, watches=(watches,)), watched=(watches,))
        for bucket in write_buckets(tmp_path)
    ]
    evaluate = WriteEvaluation(inputs, Window(start=hours(0), end=hours(48)), str(tmp_path), "{bucket}.parquet")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(buckets) | evaluate | WriteRecords(str(tmp_path / "records"))
    records = pop_records(str(tmp_path / "records"), FileEntry, MeasuredRecord, ShownRecord)
    metrics = collect_metrics(
        records.of(MeasuredRecord),
        records.of(ShownRecord),
        k=K,
        index="exact",
        holdout=("then", "now"),
        served=None,
        new_videos=(0.25, 3),
    )
    vectors = {video: list(vector) for video, _, _, _, vector in rows}

    def best(user: str, scored: Mapping[str, list[float]], places: int) -> list[str]:
        return sorted(scored, key=lambda v: (-float(np.dot(scored[v], user_vector(user, 3))), v))[:places]

    known = dict(VECTORS.select("video_id", "vector").iter_rows())
    ordinary = {user: {v: known[v] for v in allowed(user) if v not in NEW} for user in LABELS}
    hidden = {user: {video for who, video in HIDDEN if who == user} for user in LABELS}
    fresh = {user: {v: vectors[v] for v in NEW if v not in hidden[user] | set(seen(user))} for user in LABELS}
    lists = {user: best(user, ordinary[user], K - 1) + best(user, fresh[user], 1) for user in LABELS}
    without = {user: best(user, ordinary[user], K) for user in LABELS}
    written = {u: v for file in (tmp_path / "lists").iterdir() for u, v, _ in pl.read_parquet(file).iter_rows()}
    assert written == lists
    assert metrics.new_videos is not None and metrics.new_videos.of_new is not None

    def recall(shown: dict[str, list[str]], labels: dict[str, set[str]]) -> float:
        return sum(len(labels[u] & set(shown[u])) for u in shown) / sum(map(len, labels.values()))

    labels = {user: set(videos) for user, videos in NEW_LABELS.items()}
    of_new = {user: videos & set(NEW) for user, videos in labels.items()}
    name, measured = f"recall@{K}", metrics.new_videos
    assert metrics.systems[NEIGHBOURS].figures[name] == pytest.approx(recall(lists, labels))
    assert measured.without_new.figures[name] == pytest.approx(recall(without, labels))
    assert measured.of_new is not None and measured.of_new.figures["pairs"] == 3
    assert measured.of_new.figures[name] == pytest.approx(recall(lists, of_new))
    difference = measured.difference[name]
    assert difference is not None
    assert difference.value == pytest.approx(recall(lists, labels) - recall(without, labels))
    assert (measured.setting, measured.videos) == (0.25, 3)
    assert metrics.ann_loss is not None, "the search of the index is compared without reserved places"
    assert metrics.ann_loss.difference == PairedDifference(value=0.0, low=0.0, high=0.0)


def seen(user: str) -> list[str]:
    return [w["video_id"] for w in WATCHES if w["user_id"] == user and w["completed"]]


def test_missed_videos_are_an_ann_loss(tmp_path: Path, tower: str) -> None:
    inputs = write_inputs(tmp_path, tower, shards=2)
    shared, search = read_shared(inputs), inputs.search
    users = list(LABELS)
    records = pl.DataFrame(
        {"user_id": users, "watches": [[]] * 4, "country": [[0]] * 4, "device": [[0]] * 4}, schema=RECORD
    )
    events = watches_frame(THEN).select(COMPLETED_COLUMNS)
    held_out = HeldOut.from_records(
        records, events, searches_frame([]).select("user_id", "time"), shared.videos, SPEC, START
    )
    vectors = np.array([user_vector(user, 3) for user in users], np.float32)
    nothing = Excluded.empty(len(users))
    true = exact_lists(search.index, vectors, nothing, None, k=K)
    worse = np.where(np.arange(K) % 2 == 0, true.positions, -1)  # every second video is missed
    approximate = replace(true, positions=worse)
    lists = dict.fromkeys(("top", "without_new", "by_score", "by_model"), approximate)
    found = SearchResult(user_ids=users, vectors=vectors, excluded=nothing, **lists)
    loss = dict(
        measure_ann_loss(held_out, found, np.array([0, 1, 3]), shared, replace(search, max_share_per_channel=1.0))
    )
    overlap = loss["ann_loss", "overlap"].metrics.compute()
    assert (overlap["users"], overlap[f"recall@{K}"]) == (3, 0.5)
    expected = {
        user: [VECTORS["video_id"][int(p)] for p in true.positions[at] if p >= 0] for at, user in enumerate(users)
    }
    some = {user: LABELS[user] for at, user in enumerate(users) if at != 2}
    figures = loss["ann_loss", EXACT_SEARCH].metrics.compute()
    by_hand = figures_by_hand(expected, some)
    assert {name: figures[name] for name in by_hand} == pytest.approx(by_hand)
    assert loss["ann_loss", NEIGHBOURS].metrics.compute()[f"recall@{K}"] < figures[f"recall@{K}"]
