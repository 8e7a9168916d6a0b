"""Two nights in a row: what they say of themselves against what anybody could compute from their files and the logs."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from nights import DATE, REPOSITORY, completed_videos, lists, night

from pipelines import evaluation, ranking
from pipelines.base import paths
from pipelines.night import publication_file
from pipelines.night.night import Night
from pipelines.night.outputs import EvaluationOutputs
from pipelines.reports import report
from transforms.evaluation import night_metrics
from transforms.evaluation.measure_batch import metric_cuts

FIRST = DATE - dt.timedelta(days=1)
SCORER = REPOSITORY.parent / "shared" / "tools" / "score_neighbours.py"


@pytest.fixture
def nights(ranked_nights: Path) -> tuple[Night, Night]:
    """The night of the day before, and the night."""
    job = ranked_nights / "job.toml"
    return night(job, FIRST), night(job)


def metrics_of(of: Night) -> dict[str, Any]:
    return json.loads(Path(of.folder("evaluation"), evaluation.METRICS).read_bytes())


def held_out_lists(of: Night) -> pl.DataFrame:
    listed = of.require("evaluation").named("lists/")
    return pl.concat(pl.read_parquet(f"{of.folder('evaluation')}/{entry.name}") for entry in listed)


def completed_on(of: Night, day: dt.date) -> dict[str, set[str]]:
    """What each user completed on a day, from the raw logs, as the contract has it."""
    job = Path(of.root.path).parent / "job.toml"
    return completed_videos(job, pl.read_parquet(job.parent / f"watches/{day}.parquet"))


def held_out(of: Night) -> dict[str, set[str]]:
    wanted = completed_on(of, of.date - dt.timedelta(days=1))
    users = pl.Series(sorted(wanted))
    return {user: wanted[user] for user in users.filter(of.holdout.contains(users))}


def figures_by_hand(found: pl.DataFrame, wanted: dict[str, set[str]], k: int) -> dict[str, float]:
    """One user at a time, one video at a time."""
    shown = dict(found.select("user_id", "video_ids").iter_rows())
    hits = {user: [video in want for video in shown.get(user, [])[:k]] for user, want in wanted.items()}
    pairs = sum(map(len, wanted.values()))
    precisions = {u: [sum(row[: r + 1]) / (r + 1) for r, hit in enumerate(row) if hit] for u, row in hits.items()}
    gains = {u: sum(1 / math.log2(r + 2) for r, hit in enumerate(row) if hit) for u, row in hits.items()}
    ideal = {u: sum(1 / math.log2(r + 2) for r in range(min(len(want), k))) for u, want in wanted.items()}
    users = len(wanted)
    return {
        "users": users,
        "pairs": pairs,
        f"recall@{k}": sum(map(sum, hits.values())) / pairs,
        f"hit@{k}": sum(map(any, hits.values())) / users,
        f"ndcg@{k}": sum(gains[u] / ideal[u] for u in wanted) / users,
        "map": sum(sum(precisions[u]) / min(len(want), k) for u, want in wanted.items()) / users,
        "mrr": sum(1 / (row.index(True) + 1) for row in hits.values() if any(row)) / users,
    }


def test_figures_are_those_of_the_lists_that_were_kept(nights: tuple[Night, Night]) -> None:
    for of in nights:
        metrics, k = metrics_of(of), of.job.neighbours.k
        expected = figures_by_hand(held_out_lists(of), held_out(of), k)
        found = metrics["systems"]["neighbours"]["figures"]
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-10)
        assert (found["users"], found["pairs"]) == (expected["users"], expected["pairs"])
        assert set(metrics["systems"]) == set(night_metrics.SYSTEMS)
        for measured in metrics["systems"].values():
            assert (measured["figures"]["users"], measured["figures"]["pairs"]) == (found["users"], found["pairs"])
        assert of.outputs(EvaluationOutputs).figures == night_metrics.ordered_figures(
            night_metrics.NightMetrics.model_validate(metrics)
        )


def ranked_lists(of: Night) -> pl.DataFrame:
    """Return the lists of the held-out users in the order of the night's ranker."""
    ranker, done = ranking.of_held_out(of), of.require("evaluation")
    assert ranker is not None
    bucket_files = {bucket.bucket: bucket for bucket in of.ingested.buckets()}
    found = []
    for entry in done.named("lists/"):
        lists = pl.read_parquet(f"{of.folder('evaluation')}/{entry.name}")
        found.append(ranker.rank(lists, bucket_files[paths.shard_index(entry.name)]))
    return pl.concat(found)


def test_figures_of_ranking_are_those_of_the_ranked_lists(nights: tuple[Night, Night]) -> None:
    for of in nights:
        metrics, k = metrics_of(of), of.job.neighbours.k
        ranked, unranked, wanted = ranked_lists(of), held_out_lists(of), held_out(of)
        found = metrics["systems"]["ranking"]["figures"]
        expected = figures_by_hand(ranked, wanted, k)
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-10)
        in_front, before = (figures_by_hand(lists, wanted, 10)["recall@10"] for lists in (ranked, unranked))
        assert found["recall@10"] == in_front and metrics["served_system"] == "ranking"
        difference = metrics["differences"]["neighbours"]["recall@10"]["value"]
        assert difference == pytest.approx(in_front - before, abs=1e-10)
        assert dict(report.gather(of).headline)["recall@10, ranking"] == in_front
    assert ranked["video_ids"].to_list() != unranked["video_ids"].to_list()


def test_figures_are_those_of_another_scorer(nights: tuple[Night, Night], tmp_path: Path) -> None:
    if not SCORER.exists():
        pytest.skip(f"there is no {SCORER.name} beside this checkout")
    spec = importlib.util.spec_from_file_location("scorer", SCORER)
    assert spec and spec.loader
    scorer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scorer)
    for of in nights:
        wanted = [(user, video) for user, videos in held_out(of).items() for video in sorted(videos)]
        truth = pl.DataFrame(wanted, schema=["user_id", "video_id"], orient="row")
        cuts = metric_cuts(of.job.neighbours.k)
        theirs = scorer.score(held_out_lists(of), truth, list(cuts))
        ours = metrics_of(of)["systems"]["neighbours"]["figures"]
        shared = set(theirs) & set(ours)
        assert shared == {"users", "pairs", *(f"{f}@{k}" for f in ("recall", "hit", "ndcg") for k in cuts)}
        assert {name: round(float(ours[name]), 5) for name in shared} == {name: theirs[name] for name in shared}


def test_the_lists_published_before_are_measured_against_the_day_they_were_served(nights: tuple[Night, Night]) -> None:
    before, of = nights
    assert metrics_of(before)["served"] is None
    served, k = metrics_of(of)["served"], of.job.neighbours.k
    assert (served["date"], served["start"], served["end"]) == (
        FIRST.isoformat(),
        f"{FIRST}T00:00:00+00:00",
        f"{DATE}T00:00:00+00:00",
    )
    wanted, lists_before = completed_on(of, FIRST), lists(before, publication_file.RANKING)
    expected = figures_by_hand(lists_before, wanted, k)
    assert {name: served["figures"][name] for name in expected} == pytest.approx(expected, abs=1e-10)
    listed = set(lists_before["user_id"])
    assert served["share"] == sum(user in listed for user in wanted) / len(wanted)
    with_a_list = figures_by_hand(lists_before, {u: want for u, want in wanted.items() if u in listed}, k)
    assert served["with_a_list"]["figures"]["mrr"] == pytest.approx(with_a_list["mrr"], abs=1e-10)


def test_the_report_compares_the_lists_with_item_to_item_lists(nights: tuple[Night, Night]) -> None:
    """The interval is that of the differences of the replicates, which have the same users on both sides."""
    metrics, report_of = metrics_of(nights[1]), report.gather(nights[1])
    systems = {name: metrics["systems"][name] for name in ("ranking", "item to item")}
    ours, theirs = (np.array(one["replicates"]["recall@14"]) for one in systems.values())
    low, high = np.percentile(ours - theirs, [2.5, 97.5])
    recall, other = (one["figures"]["recall@14"] for one in systems.values())
    headline = dict(report_of.headline)
    assert (headline["recall@14, ranking"], headline["recall@14, item to item"]) == (recall, other)
    difference = report_of.differences["item to item"]["recall@14"]
    assert difference == pytest.approx({"value": recall - other, "low": low, "high": high})
    too_few = f"too few held-out users ({metrics['holdout']['users']}) to tell"
    assert report_of.comparisons["item to item"] == too_few
    assert report_of.summary and f"({too_few}) than in the most popular videos" in report_of.summary.text


def test_slices_add_up_to_all_users_and_all_labels(nights: tuple[Night, Night]) -> None:
    metrics = metrics_of(nights[1])
    total = metrics["systems"]["neighbours"]["figures"]
    for kind, values in metrics["slices"].items():
        parts = [systems["neighbours"]["figures"] for systems in values.values()]
        assert sum(part["pairs"] for part in parts) == total["pairs"], kind
        if kind != "upload":
            assert sum(part["users"] for part in parts) == total["users"], kind
    assert {"country", "device", "history", "user", "upload"} == set(metrics["slices"])
