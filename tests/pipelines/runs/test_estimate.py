from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from damage import limit_free_space
from nights import night, simulated, watch_rows, write_job

from pipelines.base.machine import GIB
from pipelines.config.jobs import Job
from pipelines.logs.log_size import LogSize
from pipelines.night.errors import StageError
from pipelines.night.stage import STAGES
from pipelines.runs import estimate
from pipelines.runs.estimate import Cost, resolve_settings

# `watchnext simulate` with its defaults, and with 20,000 users and videos: what the stages counted.
SMALL = LogSize(
    watches=167_241,
    searches=34_325,
    impressions=0,
    new_events=201_566,
    batch_bytes=2_296_669,
    event_bytes=14,
    users=1_991,
    holdout_users=1_170,
    videos=951,
    tokens=5_199,
    completed=79_762,
    token_occurrences=109_532,
    labels=31_349,
    buckets=8,
)
LARGE = LogSize(
    watches=1_587_048,
    searches=325_862,
    impressions=0,
    new_events=1_912_910,
    batch_bytes=22_488_768,
    event_bytes=13.5,
    users=19_928,
    holdout_users=11_700,
    videos=18_090,
    tokens=17_292,
    completed=884_464,
    token_occurrences=1_040_759,
    labels=320_447,
    buckets=8,
)
SIMULATED = {
    "model": {"dimension": 64, "hidden": [256], "negatives": 1_000},
    "training": {"epochs": 8},
    "examples": {"holdout_users": 0.2},
    "neighbours": {"k": 100},
}
# Of the nights of these, by stage: GiB of its process at its highest, and bytes of what it left.
MEASURED = [
    (SMALL, "ingest", 0.369, 3_362_329),
    (SMALL, "vocabulary", 0.325, 31_026),
    (SMALL, "examples", 0.958, 1_159_596),
    (SMALL, "train", 0.963, 5_331_724),
    (SMALL, "index", 0.286, 493_921),
    (SMALL, "neighbours", 0.888, 1_662_557),
    (SMALL, "evaluation", 0.893, 137_596),
    (LARGE, "ingest", 0.612, 27_583_475),
    (LARGE, "vocabulary", 0.414, 146_848),
    (LARGE, "examples", 1.205, 12_276_659),
    (LARGE, "train", 1.204, 30_570_167),
    (LARGE, "index", 0.325, 9_302_278),
    (LARGE, "neighbours", 1.122, 17_546_091),
    (LARGE, "evaluation", 0.967, 1_120_116),
]
# `python -m benchmarks.examples OUT`, and the same with four times the events (docs/log.md).
BENCHMARK = replace(
    LARGE,
    watches=9_999_976,
    searches=999_992,
    new_events=10_999_968,
    batch_bytes=177_519_160,
    users=500_000,
    buckets=16,
)


def job_of(**tables: Any) -> Job:
    return Job.model_validate({"logs": {"watches": "w"}, **tables})


def by_stage(job: Job, size: LogSize, threads: int = 2) -> dict[str, Cost]:
    return {cost.stage: cost for cost in estimate.costs(job, size, threads=threads)}


def test_every_stage_has_its_cost_in_order() -> None:
    assert [cost.stage for cost in estimate.costs(job_of(), SMALL, threads=1)] == list(STAGES)


def test_ranking_costs_by_its_impressions_and_candidates() -> None:
    without = by_stage(job_of(), SMALL)["ranking"]
    assert without.disk_bytes == 0 and without.seconds < 5
    shown = replace(LARGE, impressions=3_000_000)
    some = by_stage(job_of(), shown)["ranking"]
    assert by_stage(job_of(ranking={"candidates": 0}), shown)["ranking"] == by_stage(job_of(), LARGE)["ranking"]
    for more in (
        job_of(ranking={"candidates": 200}),
        job_of(ranking={"epochs": 30}),
        job_of(ranking={"hidden": "1024"}),
    ):
        assert by_stage(more, shown)["ranking"].seconds > some.seconds
    assert by_stage(job_of(), replace(shown, impressions=6_000_000))["ranking"].scratch_bytes == 2 * some.scratch_bytes


@pytest.mark.parametrize(("size", "stage", "gib", "left"), MEASURED, ids=lambda value: getattr(value, "users", value))
def test_memory_and_disk_are_estimated_to_a_factor_of_two(size: LogSize, stage: str, gib: float, left: int) -> None:
    cost = by_stage(job_of(**SIMULATED), size)[stage]
    assert gib / 2 < cost.memory_bytes / GIB < 2 * gib
    assert left / 2.5 < cost.disk_bytes < 2.5 * left


@pytest.mark.parametrize(("stage", "seconds"), [("ingest", 20.7), ("vocabulary", 7.4), ("examples", 26.1)])
def test_times_of_the_examples_benchmark_are_met_to_a_factor_of_two(stage: str, seconds: float) -> None:
    cost = by_stage(job_of(), BENCHMARK)[stage]
    assert seconds / 2 < cost.seconds < 2 * seconds
    assert cost.memory_bytes < 2 * 2.1 * GIB


def test_four_times_the_events_are_met_too() -> None:
    counts = {name: 4 * getattr(BENCHMARK, name) for name in ("watches", "searches", "new_events")}
    found = by_stage(job_of(), replace(BENCHMARK, **counts, batch_bytes=256_000_000, buckets=64))
    stages = [found[stage] for stage in ("ingest", "vocabulary", "examples")]
    assert 201.3 / 2 < sum(cost.seconds for cost in stages) < 201.3 * 2
    assert 3.0 / 2 < max(cost.memory_bytes for cost in stages) / GIB < 3.0 * 2


@pytest.mark.parametrize(
    ("dimension", "hidden", "examples_a_second"),
    [(64, [1024, 512], 17_110), (256, [1024, 512], 8_460), (64, [256], 34_227)],
)
def test_the_speed_of_training_is_met_to_a_quarter(dimension: int, hidden: list[int], examples_a_second: int) -> None:
    model = {"preset": "paper", "dimension": dimension, "hidden": hidden}
    job = job_of(model=model, training={"epochs": 1})
    none, some = (by_stage(job, replace(SMALL, labels=labels))["train"].seconds for labels in (0, 1_000_000))
    assert 1_000_000 / (some - none) == pytest.approx(examples_a_second, rel=0.25)


def test_a_night_of_real_logs_is_met_to_a_factor_of_two() -> None:
    kuairand = replace(
        SMALL,
        watches=817_187,
        searches=0,
        new_events=817_187,
        users=26_469,
        holdout_users=0,
        videos=6_456,
        tokens=0,
        completed=310_000,
        labels=310_000,
        token_occurrences=0,
    )
    settings = {"model": {"dimension": 64, "hidden": [256], "history": "recency"}, "training": {"epochs": 8}}
    found = estimate.costs(job_of(**settings, examples={"per_user": 0, "holdout_days": 0}), kuairand, threads=2)
    assert 129 / 2 < sum(cost.seconds for cost in found) < 129 * 2


def test_a_large_catalogue_is_known_by_its_tables_and_its_index() -> None:
    million = replace(LARGE, videos=1_000_000, tokens=1_000_000, users=1_000_000)
    found = by_stage(job_of(model={"preset": "paper"}), million)
    table = 1_000_000 * 256 * 4
    assert found["train"].memory_bytes > 3 * 1.4 * table and found["train"].disk_bytes > 5 * table
    assert found["train"].scratch_bytes > 6 * table  # two checkpoints
    assert found["neighbours"].memory_bytes > 1.25 * table
    assert 2 * 43 < found["index"].seconds < 10 * 43
    assert 1_000_000 / 5_976 < found["neighbours"].seconds < 10 * 1_000_000 / 5_976


def test_watches_that_were_not_completed_take_rows_and_room_in_records() -> None:
    without, used = (by_stage(job_of(examples={"partial_watches": used}), LARGE) for used in (False, True))
    row = LARGE.videos * (resolve_settings(job_of(), LARGE).model.dimension + 1) * 4
    assert used["train"].memory_bytes > without["train"].memory_bytes + row
    partial = LARGE.watches - LARGE.completed
    assert used["examples"].disk_bytes == pytest.approx(without["examples"].disk_bytes + 2 * 2 * partial, rel=0.01)
    assert by_stage(job_of(), LARGE)["examples"] == used["examples"]  # 44 % of the watches: "auto" uses them


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"training": {"epochs": 1}}, {"training": {"epochs": 2}}),
        ({"model": {"history": "mean"}}, {"model": {"history": "attention"}}),
        ({"model": {"loss": "sampled_softmax"}}, {"model": {"loss": "softmax"}}),
        ({"training": {"max_steps": 10}}, {"training": {"epochs": 5}}),
    ],
)
def test_what_makes_training_longer(less: dict[str, Any], more: dict[str, Any]) -> None:
    first, second = (by_stage(job_of(**tables), LARGE)["train"].seconds for tables in (less, more))
    assert first < second


def test_the_room_for_stages_is_what_they_leave_and_the_most_one_uses_meanwhile() -> None:
    def cost(left: int, meanwhile: int) -> Cost:
        return Cost(stage="train", seconds=1, memory_bytes=1, disk_bytes=left, scratch_bytes=meanwhile)

    assert estimate.space_needed([]) == 0
    assert estimate.space_needed([cost(5, 0), cost(3, 10), cost(2, 1)]) == 18
    assert estimate.space_needed([cost(5, 9), cost(3, 1)]) == 14


def test_settings_that_are_auto_are_resolved_for_the_size() -> None:
    resolved = resolve_settings(job_of(), SMALL)
    by_hand = job_of(model=resolved.model.model_dump(), training=resolved.training.model_dump())
    paper = job_of(model={"preset": "paper"})
    assert by_stage(job_of(), SMALL) == by_stage(by_hand, SMALL) != by_stage(paper, SMALL)


def test_an_evaluation_costs_by_its_held_out_users() -> None:
    def disk(users: int, **examples: Any) -> int:
        return by_stage(job_of(examples=examples), replace(LARGE, holdout_users=users))["evaluation"].disk_bytes

    assert disk(0) == 0 < disk(1_000) == disk(1_000, holdout_users=0.5)
    assert disk(4_000) == disk(10_000) == disk(20_000) > disk(1_000)  # 2,000 of them
    assert disk(10**6) == disk(10**6, holdout_users=0.05)


def test_core_hours_are_those_of_beam_s_stages_on_two_cores() -> None:
    found = [Cost(stage=stage, seconds=1_800, memory_bytes=0, disk_bytes=0) for stage in ("ingest", "train", "index")]
    assert estimate.core_hours(found) == 2.0


def test_a_night_that_will_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = night(simulated(tmp_path))
    limit_free_space(monkeypatch, 100_000)
    said = r"the night of 2026-11-21 is estimated to need \d+ MiB of disk space, most of it in stage \w+, but 0 MiB"
    with pytest.raises(StageError, match=said) as caught:
        estimate.check_space(of)
    assert "check_space = false ([storage])" in str(caught.value)
    estimate.check_space(of, ["publish"])  # leaves next to nothing
    limit_free_space(monkeypatch, 10**9)
    estimate.check_space(of)


def test_the_check_of_space_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch_rows().write_parquet(tmp_path / "w.parquet")
    limit_free_space(monkeypatch, 0)
    with pytest.raises(StageError, match="estimated to need"):
        estimate.check_space(night(write_job(tmp_path, 'watches = "w.parquet"')))
    estimate.check_space(night(write_job(tmp_path, 'watches = "w.parquet"', "[storage]\ncheck_space = false\n")))


def test_logs_that_cannot_be_read_are_left_to_ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_free_space(monkeypatch, 0)
    job = night(write_job(tmp_path, 'watches = "w.parquet"'))
    estimate.check_space(job)  # there are none
    watch_rows().write_parquet(tmp_path / "w.parquet")
    with pytest.raises(StageError):
        estimate.check_space(job)
    (tmp_path / "w.parquet").write_bytes(b"no parquet")
    estimate.check_space(job)
