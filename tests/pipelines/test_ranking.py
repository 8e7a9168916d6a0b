"""Two nights in a row with impressions: the impressions learned from, the ranked lists, messages and `lookup`."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from nights import DATE, lists, night, published_json
from two_nights import copy

from pipelines import evaluation, lookup, ranking
from pipelines.night import local_workdir, publication_file, ranking_chain, ranking_nights, sink_protocol
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import RankingOutputs
from pipelines.runs import dry_run
from pipelines.serving.explain import MOST, feature_effects
from transforms.evaluation import night_metrics
from transforms.ranking.features import NUMBERS, QUERY_NUMBERS
from transforms.ranking.generator_features import GENERATOR_NUMBERS
from transforms.ranking.order import DEFAULT_WEIGHT, GRID
from transforms.ranking.outcome_features import OUTCOME_NUMBERS

FIRST = DATE - dt.timedelta(days=1)


@pytest.fixture
def job(ranked_nights: Path) -> Path:
    """The job file of two nights."""
    return ranked_nights / "job.toml"


def ranked_lists(of: Night) -> pl.DataFrame:
    done = of.require("ranking")
    names = [entry.name for entry in publication_file.own(done)]
    assert len(names) == of.ingested.snapshot.buckets
    return pl.concat(pl.read_parquet(f"{of.folder('ranking')}/{name}") for name in names).sort("user_id")


def spec_of(of: Night) -> set[str]:
    return set(ranking.spec_of_night(of).numbers)


def test_the_first_of_each_list_are_put_in_order_and_the_rest_stay(job: Path) -> None:
    of = night(job)
    before, after = lists(of), ranked_lists(of)
    assert after["user_id"].to_list() == before["user_id"].to_list()
    for had, has in zip(before["video_ids"], after["video_ids"], strict=True):
        assert set(had[:12]) == set(has[:12]) and list(had[12:]) == list(has[12:])
    assert any(list(had) != list(has) for had, has in zip(before["video_ids"], after["video_ids"], strict=True))
    for videos, scores, seconds in after.select("video_ids", "scores", "expected_seconds").iter_rows():
        assert sorted(scores, reverse=True) == list(scores)
        assert list(scores[12:]) == [scores[11] - place for place in range(1, len(scores) - 11)]
        lengths = of.ingested.lengths(videos)
        assert all(0 < expected <= lengths[video] for video, expected in zip(videos[:12], seconds[:12], strict=True))
        assert seconds[12:] == [None] * (len(videos) - 12)


def test_each_night_learns_from_the_lists_of_earlier_ones(ranked_nights: Path, job: Path) -> None:
    printed = {date: (ranked_nights / f"printed-{date}.txt").read_text() for date in (FIRST, DATE)}
    first, of = night(job, FIRST), night(job)
    assert "learned without the features of the generator" in printed[FIRST] and "learned without" not in printed[DATE]
    assert spec_of(first) & set(GENERATOR_NUMBERS) == set()
    assert spec_of(of) == {*GENERATOR_NUMBERS, *NUMBERS, *OUTCOME_NUMBERS, *QUERY_NUMBERS}
    counts = of.require("ranking").counts
    shown = pl.read_parquet(f"{job.parent}/impressions/*.parquet")
    held_out = shown.filter(of.holdout.contains(shown["user_id"]), pl.col("time") >= of.dates.holdout_start)
    assert counts["covered"] == shown.filter(pl.col("time") >= first.dates.end).height - held_out.height
    ranked = of.outputs(RankingOutputs).ranked
    assert ranked and list(ranked.generators or ()) == [FIRST.isoformat()]
    assert counts["holdout"]["figures"]["impressions"] == held_out.height
    assert counts["users"] == lists(of).height and counts["candidates"] == 12 * counts["users"]


def test_a_complete_night_stays_so_whatever_becomes_of_the_nights_it_asked(ranked_nights: Path, tmp_path: Path) -> None:
    of = night(copy(ranked_nights, tmp_path))
    assert ranking.plan(of).is_done(of)
    shutil.rmtree(of.root.night(FIRST))
    assert ranking_nights.newest(of) == {}
    assert list(ranking_nights.generators(of)) == [FIRST.isoformat()] and ranking.plan(of).is_done(of)


def learned(of: Night) -> tuple[int, int]:
    """Return the numbers of new and of replayed impressions that the ranker learned from in an epoch."""
    counts = of.require("ranking").counts
    epochs = json.loads(Path(of.folder("ranking"), "training/info.json").read_text())["settings"]["epochs"]
    return counts["new_examples"], counts["examples"] // epochs - counts["new_examples"]


def test_a_warm_night_learns_what_is_new_and_as_much_again(job: Path) -> None:
    """Of the second night, new are its day, and the day before of the users who were held out then."""
    first, of = night(job, FIRST), night(job)
    shown = pl.read_parquet(f"{job.parent}/impressions/*.parquet")
    learnable = {
        date: shown.filter(~(one.holdout.contains(shown["user_id"]) & (shown["time"] >= one.dates.holdout_start)))
        for date, one in ((FIRST, first), (DATE, of))
    }
    before = learnable[FIRST].filter(pl.col("time") < first.dates.end).height
    new = learnable[DATE].height - before
    assert learned(first) == (before, 0) and learned(of)[0] == new == of.require("ranking").counts["impressions"]
    assert learned(of)[1] == before, "of few impressions, all are learned again"
    assert of.require("ranking").counts["start"]["from"] == FIRST.isoformat()
    ranked = [one.outputs(RankingOutputs).ranked for one in (first, of)]
    chains = [one.chain for one in ranked if one and one.chain]
    assert [one.began for one in chains] == [FIRST.isoformat()] * 2 and chains[0].earlier is None
    assert list(chains[1].records) == [FIRST.isoformat(), DATE.isoformat()]
    assert sum(chains[1].records[DATE.isoformat()].days.values()) == new


def test_a_small_share_is_replayed_from_few_files(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, first = night(job), night(job, FIRST)
    monkeypatch.setattr(ranking, "replayed_share", lambda *, new, available: 0.25)
    written = ranking.WrittenRecords(files=[], days={})
    with local_workdir.open_workdir(str(tmp_path)) as workdir:
        replay = ranking._replay(of, ranking._written_spec(of), written, ranking_chain.open_chain(of), workdir)
    every = [Path(first.folder("ranking"), entry.name) for entry in first.require("ranking").named("examples/train/")]
    assert replay is not None and len(replay.paths) == math.ceil(0.25 * len(every)) < len(every)
    assert {Path(path).name for path in replay.paths} < {path.name for path in every}
    night_of_records = (FIRST - dt.date(1970, 1, 1)).days
    assert replay.shares == {night_of_records: pytest.approx(0.25 * len(every) / len(replay.paths))}
    assert list(replay.days) == [night_of_records]


def test_the_ids_of_the_chain_stay(job: Path) -> None:
    first, of = night(job, FIRST), night(job)
    for name in ("videos", "channels", "tokens"):
        earlier, now = (pl.read_parquet(f"{one.folder('ranking')}/vocabulary/{name}.parquet") for one in (first, of))
        assert now["token"][: earlier.height].to_list() == earlier["token"].to_list()
        assert now["token"].n_unique() == now.height and (now["count"][: earlier.height] >= earlier["count"]).all()
    for name, values in ranking.spec_of_night(first).categories.items():
        assert ranking.spec_of_night(of).categories[name][: len(values)] == values


def test_records_of_the_chain_stay_and_the_lists_are_served(job: Path) -> None:
    of = night(job)
    for one in (night(job, FIRST), of):
        records = [path.parent.name for path in Path(one.folder("ranking")).rglob("*.tfrecord.gz")]
        assert set(records) == {"train"}, "keep_examples is off, and a later night replays what was learned"
    served = published_json(of.root)
    assert served["stage"] == "ranking" and served["users"] == ranked_lists(of).height
    assert dry_run.outlooks(of, ["ranking"])[0].state == "complete"


def test_the_night_says_whether_ranking_helped(job: Path) -> None:
    of = night(job)
    found = night_metrics.read(Path(of.folder("evaluation"), evaluation.METRICS).read_bytes())
    assert found is not None and found.ranking is not None and found.holdout is not None
    assert found.ranking.cut == 10 and found.ranking.wanted_seconds > 0
    assert found.ranking.users == found.holdout.users
    page = Path(of.root.report(DATE)).read_text()
    assert "per-user loss" in page


def test_lookup_shows_the_expected_seconds_and_the_reasons(job: Path) -> None:
    of = night(job)
    user = ranked_lists(of)["user_id"][0]
    found = lookup.lookup(of.job, user, 14, why=True)
    assert [item.seconds is not None for item in found.items] == [True] * 12 + [False] * 2
    assert all(len(item.why) == MOST and item.why[0].times > 0 for item in found.items[:12])
    assert found.items[12].why == []
    text, first = lookup.to_text(found), found.items[0]
    assert f"{first.seconds:.0f} s of {first.video_seconds:.0f} s" in text and "\nwhy: " in text
    plain = lookup.lookup(of.job, user, 14)
    assert [item.seconds for item in plain.items] == [item.seconds for item in found.items]
    assert "why" not in lookup.to_text(plain) and json.loads(json.dumps(found.items[0].why[0].feature))


def with_ranking(of: Night, **settings: object) -> Night:
    return replace(of, job=of.job.model_copy(update={"ranking": of.job.ranking.model_copy(update=settings)}))


def test_another_cut_leaves_the_ranker_as_it_is_if_the_weight_is_set(job: Path) -> None:
    of = night(job)
    assert evaluation.plan(of).is_done(of) and not evaluation.plan(with_ranking(of, cut=3)).is_done(of)
    assert ranking.plan(of).fingerprint != ranking.plan(with_ranking(of, cut=3)).fingerprint
    fixed = with_ranking(of, order_weight=2.0)
    assert ranking.plan(fixed).fingerprint == ranking.plan(with_ranking(fixed, cut=3)).fingerprint
    assert ranking.plan(fixed).fingerprint != ranking.plan(with_ranking(of, order_weight=3.0)).fingerprint


def test_few_held_out_users_choose_no_weight_and_the_night_says_so(ranked_nights: Path, job: Path) -> None:
    of = night(job)
    ranked = of.outputs(RankingOutputs).ranked
    assert ranked is not None and ranked.order is not None
    assert (ranked.order.weight, ranked.order.curve) == (DEFAULT_WEIGHT, ())
    note = f"ranking.order_weight = {DEFAULT_WEIGHT} ({ranked.order.reason})"
    assert note in of.require("ranking").counts["notes"]
    assert "too few to choose by" in (ranked_nights / f"printed-{DATE}.txt").read_text()


def test_lists_are_ordered_by_seconds_and_the_neighbours_scores(job: Path) -> None:
    of = night(job)
    before = lists(of).select("video_ids", "scores").iter_rows()
    after = ranked_lists(of).select("video_ids", "scores", "expected_seconds").iter_rows()
    for (had, own), (videos, scores, seconds) in zip(before, after, strict=True):
        generator = dict(zip(had, np.minimum.accumulate(own), strict=True))
        for video, score, expected in zip(videos[:12], scores, seconds, strict=False):
            assert score == pytest.approx(math.log(expected) + DEFAULT_WEIGHT * generator[video], abs=1e-3)


def test_held_out_users_choose_a_weight(ranked_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.ranking.order.LEAST_USERS", 4)
    of = night(copy(ranked_nights, tmp_path))
    ranking.run(replace(of, force=("ranking",)))
    ranked = of.outputs(RankingOutputs).ranked
    assert ranked is not None and ranked.order is not None
    order, found = ranked.order, night_metrics.read(Path(of.folder("evaluation"), evaluation.METRICS).read_bytes())
    assert found is not None and found.holdout is not None and 4 <= order.users <= found.holdout.users
    assert [point.weight for point in order.curve] == list(GRID) and order.weight in GRID
    neighbours = order.curve[-1]
    assert neighbours.recall == pytest.approx(found.systems["neighbours"].figures["recall@10"])
    assert found.ranking is not None and found.ranking.neighbours is not None
    assert neighbours.watch_time == pytest.approx(found.ranking.neighbours.recall)


def test_without_ranking_the_neighbours_order_is_served(ranked_nights: Path, tmp_path: Path) -> None:
    of = night(copy(ranked_nights, tmp_path))
    off = replace(of, job=of.job.model_copy(update={"ranking": of.job.ranking.model_copy(update={"candidates": 0})}))
    assert not ranking.plan(off).is_done(off)
    ranking.run(off)
    done = off.require("ranking")
    assert done.counts["notes"] == ["ranking.candidates = 0: lists stay in the neighbours' order"]
    assert done.files == [] and sink_protocol.served_stage(off) == "neighbours" and ranking.of_held_out(off) is None
    served = publication_file.served(of.root)
    assert served is not None
    left = {str(path) for path in Path(of.folder("ranking")).rglob("*.parquet")}
    assert left == set(served.paths(of.root, "lists")), "only what is published is left"
    with pytest.raises(StageError, match="was not ranked"):
        feature_effects(off, lists(of)["user_id"][0])
