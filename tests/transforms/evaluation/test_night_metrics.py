"""`metrics.json`: the place of each value, and nulls for missing parts."""

from __future__ import annotations

import json
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from transforms.contracts.retrieval_metrics import UserMetrics
from transforms.core.bootstrap import REPLICATES, PairedDifference, weights
from transforms.core.digests import mix
from transforms.core.records import encode, pop_records, write_records
from transforms.evaluation.night_metrics import (
    FORMAT_VERSION,
    RANKING,
    SYSTEMS,
    MeasuredRecord,
    NightMetrics,
    ShownRecord,
    collect_metrics,
    measured_record,
    ordered_figures,
    read,
    serialize,
)
from transforms.evaluation.user_metrics import Measured
from transforms.ranking.watch_time_recall import MeasuredRanking, RankedRecall

K, USERS = 4, 30
DRAW = np.random.default_rng(3)
WANTED = DRAW.integers(4, 7, USERS)
DRAWN = weights(mix(2, np.arange(USERS)))


def measured(chance: float) -> Measured:
    hits = np.random.default_rng(4).random((USERS, K)) < chance  # a better system has all hits of a worse one
    return Measured.from_users(UserMetrics.from_hits(hits, WANTED, ks=(2, K)), DRAWN)


RANKED_CHANCES = dict(zip(SYSTEMS, (0.7, 0.6, 0.4, 0.2, 0.5), strict=True))
SLICED = ("neighbours", "most popular")
CHANCES = {system: chance for system, chance in RANKED_CHANCES.items() if system != RANKING}


def collected(
    *more: MeasuredRecord | ShownRecord | MeasuredRanking,
    served: dict[str, str] | None = None,
    chances: dict[str, float] = CHANCES,
) -> NightMetrics:
    records = [measured_record(("systems", system), measured(chance), k=K) for system, chance in chances.items()]
    with TemporaryDirectory() as folder:  # written and read, as between workers
        write_records(map(encode, [*records, *more]), f"{folder}/records")
        found = pop_records(f"{folder}/records", MeasuredRecord, ShownRecord, MeasuredRanking)
    return collect_metrics(
        found.of(MeasuredRecord),
        found.of(ShownRecord),
        next(iter(found.of(MeasuredRanking)), None),
        k=K,
        index="scann",
        holdout=("then", "now"),
        served=served,
    )


def content(*more: MeasuredRecord | ShownRecord | MeasuredRanking, served: dict[str, str] | None = None) -> Any:
    return json.loads(serialize(collected(*more, served=served)))


def test_systems_have_figures_intervals_and_the_replicates_that_are_compared() -> None:
    found = content()
    assert list(found["systems"]) == list(CHANCES)
    for system, chance in CHANCES.items():
        of = found["systems"][system]
        assert of["figures"] == measured(chance).metrics.compute()
        of_every_k = system in ("neighbours", "most popular")
        assert set(of["replicates"]) == ({"recall@2", "recall@4"} if of_every_k else {found["gate"]})
        assert found["gate"] == "recall@4"
        assert len(of["replicates"]["recall@4"]) == REPLICATES
    assert found["holdout"] == {"start": "then", "end": "now", "users": USERS}


@pytest.mark.parametrize("chances", [CHANCES, RANKED_CHANCES])
def test_each_system_is_compared_with_the_lists_to_serve(chances: dict[str, float]) -> None:
    found = json.loads(serialize(collected(chances=chances)))
    served, *others = chances
    assert found.get("served_system", "neighbours") == served
    assert list(found["differences"]) == others
    assert list(found["beside"]) == [system for system in others if system != "neighbours"]
    for system, differences in found["differences"].items():
        assert list(differences) == ["recall@2", "recall@4", "map"]
        assert system == "neighbours" or found["beside"][system] == differences["recall@4"]
        for figure, difference in differences.items():
            ours, theirs = (measured(chances[one]) for one in (served, system))
            low, high = np.percentile(ours.replicate_values(figure) - theirs.replicate_values(figure), [2.5, 97.5])
            assert difference["value"] == ours.metrics.compute()[figure] - theirs.metrics.compute()[figure]
            assert (difference["low"], difference["high"]) == pytest.approx((low, high), abs=1e-8)
            assert 0 < low < difference["value"] < high


def test_ranked_lists_are_the_lists_to_serve() -> None:
    ranked = MeasuredRanking(users=3, wanted_seconds=0)
    records = [measured_record(("systems", system), measured(chance), k=K) for system, chance in RANKED_CHANCES.items()]
    for cut, figure in ((2, "recall@2"), (9, "recall@4")):
        found = collect_metrics(records, [], ranked, k=K, index="exact", holdout=("a", "b"), served=None, cut=cut)
        assert list(found.systems) == list(SYSTEMS) and found.served_system == "ranking"
        assert found.cut_figure == figure
        for system, of in found.systems.items():
            of_every_k = system in ("ranking", "neighbours", "most popular")
            assert set(of.replicates) == ({"recall@2", "recall@4"} if of_every_k else {"recall@4"})
        assert read(serialize(found)) == found
    unranked = collected()
    assert unranked.served_system == "neighbours" and unranked.cut_figure == ""
    assert "served_system" not in content(), "absent without ranking"


def test_slices_are_by_kind_value_and_system() -> None:
    some = Measured.from_users(UserMetrics.from_hits(np.ones((USERS, K), bool), WANTED, ks=(2, K)), DRAWN, ["recall@4"])
    keys = [("slices", "country", value, system) for value in ("SE", "DE") for system in SLICED]
    found = content(*(measured_record(key, some, k=K) for key in keys))["slices"]
    assert {kind: {value: list(systems) for value, systems in of.items()} for kind, of in found.items()} == {
        "country": {"DE": sorted(SLICED), "SE": sorted(SLICED)}
    }
    assert set(found["country"]["DE"]["neighbours"]) == {"figures", "intervals"}


def test_slices_with_numbers_are_in_their_order() -> None:
    some = measured(0.3)
    values = ["5-19", "50+", "0", "1-4", "20-49"]
    found = content(*(measured_record(("slices", "history", value, "neighbours"), some, k=K) for value in values))
    assert list(found["slices"]["history"]) == ["0", "1-4", "5-19", "20-49", "50+"]


def test_popularity_bias_is_relative_to_the_videos_watched() -> None:
    lists = {"watched": 5.0, "neighbours": 3.5, "most popular": 1.0}
    records = [
        ShownRecord(system=name, figures={"videos": 9, "mean_log2_rank": r}, by_day=[], by_length=[])
        for name, r in lists.items()
    ]
    found = content(*records, ShownRecord(system="item to item", figures={"videos": 0}, by_day=[], by_length=[]))[
        "shown"
    ]
    assert {name: of.get("popularity_bias") for name, of in found.items()} == {
        "watched": None,
        "neighbours": 1.5,
        "most popular": 4.0,
        "item to item": None,
    }


def test_the_loss_of_an_approximate_search() -> None:
    sides = {"neighbours": 0.3, "exact search": 0.4, "overlap": 0.9}
    found = content(*(measured_record(("ann_loss", name), measured(c), k=K) for name, c in sides.items()))["ann_loss"]
    assert found["index"] == "scann"
    assert found["difference"]["value"] < 0
    assert found["difference"]["high"] < 0
    assert found["overlap"]["figures"] == measured(0.9).metrics.compute()
    assert "replicates" in found["exact search"] and "replicates" not in found["overlap"]
    assert content()["ann_loss"] == {"index": "scann"}


def test_the_cost_of_diversity_at_every_cut() -> None:
    by_score = measured_record(("diversity", "by score"), measured(0.7), k=K)
    records = [measured_record(("systems", "neighbours"), measured(0.6), k=K), by_score]
    metrics = collect_metrics(records, k=K, index="exact", holdout=("then", "now"), served=None, diversity=0.25)
    found = json.loads(serialize(metrics))["diversity"]
    assert found["setting"] == 0.25 and found["by_score"]["figures"] == measured(0.7).metrics.compute()
    assert set(found["difference"]) == {"recall@2", "recall@4"}
    for name, difference in found["difference"].items():
        assert difference["value"] == metrics.systems["neighbours"].figures[name] - by_score.measured.figures[name]
        assert difference["low"] < difference["value"] < difference["high"] < 0
    assert "diversity" not in content(), "absent without the setting"
    assert read(serialize(metrics)) == metrics


def test_the_lists_served_before() -> None:
    about = {"date": "2026-11-20", "start": "a", "end": "b"}
    keys = {"everybody": measured(0.5), "with a list": measured(0.5)}
    records = [measured_record(("served", name), value, k=K) for name, value in keys.items()]
    found = content(*records, served=about)["served"]
    assert {name: found[name] for name in about} == about
    assert found["share"] == 1.0 and set(found["replicates"]) == {"recall@4"}
    assert "replicates" not in found["with_a_list"]
    assert content(served=about)["served"] is None  # there were no watches


def test_no_held_out_users_is_null() -> None:
    found = collect_metrics([], k=K, index="exact", holdout=("then", "now"), served=None)
    assert json.loads(serialize(found)) == {
        "format_version": FORMAT_VERSION,
        "k": K,
        "gate": "recall@4",
        "holdout": None,
        "systems": {},
        "beside": {},
        "differences": {},
        "slices": {},
        "shown": {},
        "ann_loss": None,
        "ranking": None,
        "served": None,
    }


def test_ranking_is_stored_with_its_cut() -> None:
    ranked = MeasuredRanking(users=3, wanted_seconds=0)
    found = collect_metrics([], [], ranked, k=K, index="exact", holdout=("then", "now"), served=None, cut=7)
    assert found.to_dict()["ranking"] == {"cut": 7, "users": 3, "wanted_seconds": 0}
    assert ordered_figures(found) == {}


def test_figures_are_in_reading_order() -> None:
    found = ordered_figures(collected(chances=RANKED_CHANCES))
    assert list(found) == list(SYSTEMS)
    cut = ["recall@2", "hit@2", "ndcg@2", "recall@4", "hit@4", "ndcg@4"]
    assert list(found["neighbours"]) == ["users", "pairs", *cut, "map", "mrr"]


@pytest.mark.parametrize("old", [{"neighbours": {"recall@4": 0.5}}, {"format_version": FORMAT_VERSION + 1}, {}])
def test_another_format_version_is_none(old: dict[str, Any]) -> None:
    assert read(json.dumps(old).encode()) is None


def whole() -> NightMetrics:
    """Return metrics with every part."""
    some = measured(0.3)
    keys = [("slices", "country", "SE", "neighbours"), ("ann_loss", "neighbours"), ("ann_loss", "exact search")]
    keys += [("ann_loss", "overlap"), ("served", "everybody"), ("served", "with a list")]
    shown = ShownRecord(
        system="neighbours", figures={"videos": 9, "mean_log2_rank": 1.5}, by_day=[0.5, 0.5], by_length=[]
    )
    order = RankedRecall(recall=0.5, interval=(0.4, 0.6))
    difference = PairedDifference(value=0.0, low=-0.1, high=0.1)
    ranked = MeasuredRanking(users=3, wanted_seconds=9, neighbours=order, ranking=order, difference=difference)
    about = {"date": "2026-11-20", "start": "a", "end": "b"}
    records = [measured_record(key, some, k=K) for key in keys]
    return collected(*records, shown, ranked, served=about)


def everything() -> Any:
    return json.loads(serialize(whole()))


def test_written_metrics_are_read() -> None:
    for of in (
        collected(),
        collected(chances=RANKED_CHANCES),
        whole(),
        collect_metrics([], k=K, index="exact", holdout=None, served=None),
    ):
        found = read(serialize(of))
        assert found == of and serialize(found) == serialize(of)


def test_older_files_are_read_and_errors_name_the_field() -> None:
    for part in ("holdout", "beside", "differences", "slices", "shown", "ann_loss", "ranking", "served", "k", "gate"):
        assert read(json.dumps({name: of for name, of in everything().items() if name != part}).encode()) is not None
    spoilt = everything()
    spoilt["systems"]["neighbours"]["figures"]["recall@4"] = "high"
    del spoilt["systems"]["most popular"]["figures"]
    with pytest.raises(
        ValueError, match=r"systems\.neighbours\.figures\.recall@4.*systems\.most popular\.figures: field r"
    ):
        read(json.dumps(spoilt).encode())
    with pytest.raises(ValueError, match=r"^gaet: extra inputs are not permitted$"):
        read(json.dumps(everything() | {"gaet": "recall@4"}).encode())
    with pytest.raises(ValueError, match=r"^systems: field required$"):
        read(json.dumps({"format_version": FORMAT_VERSION}).encode())
    with pytest.raises(ValueError, match="it must be a JSON object, but is of type list"):
        read(b"[]")


def test_figures_that_are_not_finite_are_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        serialize(
            collected(ShownRecord(system="neighbours", figures={"videos": float("nan")}, by_day=[], by_length=[]))
        )
