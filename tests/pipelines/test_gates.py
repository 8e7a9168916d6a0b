"""Stage publish before gates: what a failed one leaves as it was, what is written down, how a person overrules it."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import watchnext
from nights import DATE, commit, gate_results, night, published_json, published_night, with_figures

from pipelines import gates, nightly, publish
from pipelines.base import manifest
from pipelines.base.manifest import ManifestError, Outputs
from pipelines.config.gate_settings import Gates
from pipelines.night import night_results
from pipelines.night.errors import GateError, StageError
from pipelines.night.night import Night
from pipelines.night.outputs import BuiltIndex, EvaluationOutputs, IndexOutputs, RankingOutputs, TrainOutputs
from pipelines.night.stage import stage_main
from pipelines.reports import nights_page, report
from pipelines.serving import publication
from transforms.ranking.measured_calibration import CalibrationClass, MeasuredCalibration

NEXT = DATE + dt.timedelta(days=1)
LISTS = pl.DataFrame({"user_id": ["a", "b", "c"], "video_ids": [["v"], ["w"], ["v"]], "scores": [[1.0], [2.0], [3.0]]})
FEWER = LISTS.head(2)
LOST = r"gate users: 2 users would be served, 3 were the night before \(-33\.3%\), bound: at most 0\.2 fewer"

NOBODY = "nobody was held out (examples.holdout_days, holdout_users)"
MEASURED = ["most popular", "item to item", "recall", "approximate search"]  # gates on figures of held-out users

TOO_FEW = "too few held-out users (90) to tell"


def ready(job: Path, rows: pl.DataFrame, date: dt.date = NEXT) -> Night:
    return published_night(job, rows, date=date, publish=False)


def served(of: Night) -> dict[str, Any]:
    return published_json(of.root)


def test_a_failed_gate_leaves_what_is_served_and_says_why(job: Path) -> None:
    before = served(published_night(job, LISTS))
    of = ready(job, FEWER)
    message = rf"^1 of 5 gates failed, 4 could not be computed\. {LOST} .*--force-publish REASON; the night of 2026-1"
    with pytest.raises(GateError, match=message):
        publish.run(of)
    assert served(of) == before and manifest.load(of.folder("publish")) is None
    found = gate_results(of)
    assert (found.status, found.compared_with, found.why) == ("failed", "2026-11-21", "")
    assert [(gate.name, gate.ok) for gate in found.gates] == [(name, None) for name in MEASURED] + [("users", False)]
    assert {gate.reason for gate in found.in_state("not computed")} == {NOBODY} and not found.unexpected


def test_the_exit_code_of_the_stage_is_that_of_gates(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published_night(job, LISTS)
    ready(job, FEWER)
    assert stage_main(publish, [str(job), "--date", NEXT.isoformat()]) == 3
    assert "watchnext: 1 of 5 gates failed, 4 could not be computed. gate users: " in capsys.readouterr().err
    assert stage_main(publish, [str(job), "--date", NEXT.isoformat(), "--force-publish", "it is a holiday"]) == 0
    assert served(night(job))["date"] == NEXT.isoformat()


def test_a_night_is_published_for_a_reason_that_is_written_down(job: Path) -> None:
    published_night(job, LISTS)
    of = ready(job, FEWER)
    publish.run(Night(of.job, of.date, force_publish="half of them left"))
    held = {"status": "forced", "why": "half of them left", "not_computed": dict.fromkeys(MEASURED, NOBODY)}
    assert (served(of)["date"], served(of)["gates"]) == ("2026-11-22", held)
    counts = of.require("publish").figures
    assert counts["gates"] == {**held, "failed": ["users"]}
    assert counts["notes"][0].startswith("FORCED, in spite of what gates found (half of them left): gate users: 2")


def test_a_reason_without_a_failed_gate_is_not_needed(job: Path) -> None:
    published_night(job, LISTS)
    of = ready(job, LISTS)
    publish.run(Night(of.job, of.date, force_publish="to be sure"))
    not_computed = dict.fromkeys(MEASURED, NOBODY)
    assert served(of)["gates"] == {"status": "ungated", "why": NOBODY, "not_computed": not_computed}


def test_a_repaired_night_is_published_as_any_other(job: Path) -> None:
    published_night(job, LISTS)
    with pytest.raises(GateError, match=LOST):
        publish.run(ready(job, FEWER))
    of = ready(job, LISTS)
    publish.run(of)
    assert served(of)["date"] == "2026-11-22" and gate_results(of).status == "ungated"


def test_a_gate_that_is_off_stops_nothing(job: Path) -> None:
    published_night(job, LISTS)
    job.write_text(job.read_text() + "[gates]\nmax_users_lost = 1\n")
    of = ready(job, FEWER)
    publish.run(of)
    assert served(of)["date"] == "2026-11-22" and [gate.name for gate in gate_results(of).gates] == MEASURED


def test_nothing_is_compared_with_a_night_that_was_withdrawn(job: Path) -> None:
    of = published_night(job, LISTS, date=DATE - dt.timedelta(days=1))
    more = pl.concat([LISTS, LISTS.with_columns(user_id=pl.col("user_id") + "2")])
    published_night(job, more, date=DATE)
    assert gates.night_before(night(job, NEXT)) == night(job, DATE)
    publication.serve(of, withdrawn=[DATE.isoformat()])
    assert gates.night_before(night(job, NEXT)) == of
    publish.run(ready(job, LISTS))
    assert served(of)["date"] == "2026-11-22"


def test_a_backfill_is_held_against_the_night_before_it(job: Path) -> None:
    published_night(job, LISTS, date=DATE - dt.timedelta(days=1))
    published_night(job, LISTS, date=NEXT)
    with pytest.raises(GateError, match=LOST):
        publish.run(ready(job, FEWER, DATE))
    assert served(night(job))["date"] == NEXT.isoformat()


def published_with_figures(job: Path, k: int, recalls: dict[int, float]) -> Night:
    of = with_figures(ready(job, LISTS, DATE), k, recalls)
    publish.run(of)
    return of


def test_a_first_night_is_published_and_says_what_was_not_compared(job: Path) -> None:
    of = published_with_figures(job, 10, {10: 0.4})
    found = gate_results(of)
    assert (found.status, found.why) == ("ungated", gates.FIRST_NIGHT) and not found.unexpected
    assert found.counts == {"passed": 2, "failed": 0, "not computed": 3}
    reasons = f"recall, users: {gates.FIRST_NIGHT}; approximate search: search is exact"
    assert gates.summary_line(of) == f"gates: 2 passed, 3 not computed ({reasons})"
    assert of.require("publish").counts["notes"] == [f"UNGATED: {gates.FIRST_NIGHT}"]
    assert nightly._closing(of, ["publish"]).endswith(f"report.html; gates: 2 passed, 3 not computed ({reasons})")
    assert served(of)["gates"]["not_computed"].keys() == {"recall", "approximate search", "users"}


def change_metrics(of: Night, change: Callable[[Any], Any]) -> None:
    path = Path(night_results.metrics_path(of))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def with_difference(of: Night, value: float, low: float, high: float) -> Night:
    """The night, whose lists have this much more recall than item-to-item lists."""
    of = with_figures(of, 10, {10: 0.4})
    difference = {"value": value, "low": low, "high": high}
    change_metrics(of, lambda found: found | {"beside": found["beside"] | {"item to item": difference}})
    return of


def test_lists_that_are_worse_than_item_to_item_are_not_published(job: Path) -> None:
    of = with_difference(ready(job, LISTS), -0.05, -0.09, -0.01)
    with pytest.raises(GateError, match=r"^1 of 5 gates failed.*gate item to item: recall@10 .* co_watches = true"):
        publish.run(of)
    assert not served(of) and [gate.name for gate in gate_results(of).in_state("failed")] == ["item to item"]
    off = replace(of, job=of.job.model_copy(update={"gates": Gates(item_to_item=False)}))
    publish.run(off)
    assert "item to item" not in [gate.name for gate in gate_results(off).gates] and served(off)


def test_a_night_with_too_few_held_out_users_says_so(job: Path) -> None:
    of = with_difference(ready(job, LISTS), -0.05, -0.11, 0.01)
    publish.run(of)
    found = {gate.name: gate for gate in gate_results(of).gates}
    assert (found["item to item"].state, found["item to item"].note) == ("passed", TOO_FEW)
    assert f": {TOO_FEW}: the 95 % interval reaches 0.06" in found["item to item"].message
    assert (found["most popular"].state, found["most popular"].note) == ("passed", "")
    assert f"; item to item: {TOO_FEW})" in gates.summary_line(of)
    page = Path(of.root.report(of.date)).read_text()
    assert ">cannot tell</td><td><strong>item to item</strong>: recall@10 minus that of " in page
    assert f"it is not known whether this is more ({TOO_FEW}) than in item-to-item lists (" in page
    assert '<td class="number">-0.050<span class="interval">-0.11 to 0.010</span></td>' in page
    assert "significantly better" in page  # than the most popular videos


def with_impressions_logged(of: Night) -> Night:
    return replace(of, job=of.job.model_copy(update={"logs": of.job.logs.model_copy(update={"impressions": "i"})}))


def test_ranked_lists_that_lose_recall_are_not_published(job: Path) -> None:
    """The ranked lists have as many of the videos as the neighbours, but fewer of them in front."""
    figures: dict[str, Any] = {"k": 20, "recalls": {10: 0.4, 20: 0.5}}
    of = with_impressions_logged(with_figures(ready(job, LISTS), **figures, ranked={10: 0.3, 20: 0.5}))
    message = r"gate ranking recall: recall@10 in the neighbours' order is 0\.4000 and with ranking 0\.3000"
    with pytest.raises(GateError, match=message):
        publish.run(of)
    assert [gate.name for gate in gate_results(of).in_state("failed")] == ["ranking recall"] and not served(of)
    off = replace(of, job=of.job.model_copy(update={"gates": Gates(max_ranking_loss=1)}))
    publish.run(off)
    assert served(off) and "ranking recall" not in [gate.name for gate in gate_results(off).gates]


def test_ranked_lists_may_lose_a_little_recall(job: Path) -> None:
    of = with_figures(ready(job, LISTS), 20, {10: 0.4, 20: 0.5}, ranked={10: 0.37, 20: 0.5})
    publish.run(with_impressions_logged(of))
    gate = next(gate for gate in gate_results(of).gates if gate.name == "ranking recall")
    assert gate.state == "passed" and gate.value == pytest.approx(0.03 / 0.4)
    assert served(of)


@pytest.mark.parametrize(
    ("ranked", "expected"), [({}, True), ({"ranking": {"cut": 10, "users": 90, "wanted_seconds": 0}}, False)]
)
def test_without_figures_of_ranked_lists_their_recall_is_not_compared(
    job: Path, ranked: dict[str, Any], expected: bool
) -> None:
    """No list was ranked; or an older version measured only the neighbours."""
    of = with_figures(ready(job, LISTS), 10, {10: 0.4})
    change_metrics(of, lambda found: found | ranked)
    publish.run(with_impressions_logged(of))
    gate = next(gate for gate in gate_results(of).gates if gate.name == "ranking recall")
    assert (gate.state, gate.expected) == ("not computed", expected)


def test_expected_seconds_that_are_far_off_are_not_published(job: Path) -> None:
    of = with_impressions_logged(with_figures(ready(job, LISTS), 10, {10: 0.4}))
    interval = (1.38, 1.46)
    total = CalibrationClass(
        impressions=9_000, clicks=900, predicted_seconds=42.0, watched_seconds=29.5, interval=interval
    )
    measured = MeasuredCalibration(users=90, fitted=True, total=total, classes=(total,))
    outputs = RankingOutputs(ranked=None, calibration=measured).model_dump(mode="json")
    commit(of, "ranking", outputs=outputs)
    with pytest.raises(GateError, match=r"gate calibration: 42\.00 seconds are expected of 9,000 held-out"):
        publish.run(of)
    names = ["calibration", "calibration by decile"]
    assert [gate.name for gate in gate_results(of).in_state("failed")] == names and not served(of)
    off = replace(of, job=of.job.model_copy(update={"gates": Gates(max_calibration_error=0, max_decile_error=0)}))
    publish.run(off)
    assert served(off) and not {*names} & {gate.name for gate in gate_results(off).gates}


def test_ranked_lists_are_compared_with_the_ranked_lists_before(job: Path) -> None:
    """Lists of 10 after lists of 20: recall@10, which depends on the order, is that of the lists that were served."""
    off = Gates(max_ranking_loss=1)
    before = with_figures(ready(job, LISTS, DATE), 20, {10: 0.1, 20: 0.5}, ranked={10: 0.4, 20: 0.5})
    publish.run(before)
    of = with_figures(ready(job, LISTS), 10, {10: 0.4}, ranked={10: 0.2})
    with pytest.raises(GateError, match=r"gate recall: recall@10 is 0\.2000, and was 0\.4000 the night before"):
        publish.run(replace(of, job=of.job.model_copy(update={"gates": off})))


@pytest.mark.parametrize("part", ["beside", "systems"])
def test_a_night_without_figures_of_item_to_item_is_not_compared_with_them(job: Path, part: str) -> None:
    of = with_figures(ready(job, LISTS), 10, {10: 0.4})
    change_metrics(of, lambda found: found | {part: {n: v for n, v in found[part].items() if n != "item to item"}})
    publish.run(of)
    (gate,) = gate_results(of).unexpected
    assert (gate.name, gate.reason) == ("item to item", "metrics.json has no difference of recall@10")


@pytest.mark.parametrize(("recall", "state"), [(0.4, "passed"), (0.1, "failed")])
def test_nights_with_lists_of_unequal_lengths_are_compared_at_a_k_of_both(job: Path, recall: float, state: str) -> None:
    published_with_figures(job, 50, {10: 0.4, 50: 0.6})
    of = with_figures(ready(job, LISTS), 20, {10: recall, 20: 0.5})
    if state == "failed":
        with pytest.raises(GateError, match=r"gate recall: recall@10 is 0\.1000, and was 0\.4000 the night before"):
            publish.run(of)
    else:
        publish.run(of)
    found = gate_results(of)
    assert next(gate.state for gate in found.gates if gate.name == "recall") == state
    assert found.status == state and served(of)["date"] == str(NEXT if state == "passed" else DATE)


def cut_short(text: str) -> str:
    return text[:-50]


UNEXPECTED: list[tuple[str, Callable[[str], str] | None, str]] = [  # what becomes of metrics.json
    ("missing", None, r"metrics\.json is missing"),
    ("cut short", cut_short, r"metrics\.json cannot be read \("),
    (
        "without figures",
        lambda text: text.replace('"figures"', '"figuers"'),
        r"metrics\.json cannot be read \(systems\.neighbours\.figures: field required",
    ),
    (
        "NaN",
        lambda text: re.sub(r'"replicates": {[^}]*}', '"replicates": {"recall@10": [NaN, null]}', text),
        "unequal numbers of bootstrap replicates",
    ),
    (
        "another k",
        lambda text: text.replace("recall@10", "recall@5"),
        r"no recall@10 with replicates in common, nor recall at another k \(was k changed\?\)",
    ),
]


def spoil_metrics(of: Night, change: Callable[[str], str] | None) -> None:
    path = Path(night_results.metrics_path(of))
    path.unlink() if change is None else path.write_text(change(path.read_text()))


@pytest.mark.parametrize(("change", "why"), [case[1:] for case in UNEXPECTED], ids=[case[0] for case in UNEXPECTED])
def test_a_gate_that_cannot_be_computed_is_reported(job: Path, change: Callable[[str], str] | None, why: str) -> None:
    spoil_metrics(published_with_figures(job, 10, {10: 0.4}), change)
    of = with_figures(ready(job, LISTS), 10, {10: 0.4})
    publish.run(of)
    found = gate_results(of)
    assert found.status == "ungated" and re.match(f"recall could not be computed: .*{why}", found.why)
    assert [(gate.name, gate.state) for gate in found.unexpected] == [("recall", "not computed")]
    counts = of.require("publish").figures
    assert re.match(f"WARNING: gate recall: not computed: .*{why}", counts["notes"][0])
    assert counts["gates"]["status"] == served(of)["gates"]["status"] == "ungated"
    assert report.status_of(of, found).level == "warn"
    manifest.revoke(of.folder("publish"))
    stops = replace(of, job=of.job.model_copy(update={"gates": Gates(stop_if_not_computed=True)}))
    with pytest.raises(GateError, match=f"^2 of 5 gates could not be computed.*{why}"):
        publish.run(stops)
    publish.run(replace(stops, force_publish="figures were lost"))
    assert gate_results(of).status == "forced"
    assert re.search(f"FORCED.*figures were lost.*{why}", of.require("publish").counts["notes"][0])


def test_failed_gates_and_gates_that_could_not_be_computed_are_counted_separately(job: Path) -> None:
    spoil_metrics(published_with_figures(job, 10, {10: 0.4}), None)
    job.write_text(job.read_text() + "[gates]\nstop_if_not_computed = true\n")
    of = with_figures(ready(job, FEWER), 10, {10: 0.4})
    with pytest.raises(GateError, match=rf"^1 of 5 gates failed, 2 could not be .*{LOST}.*metrics\.json is missing"):
        publish.run(of)


def test_figures_of_the_night_itself_that_cannot_be_read_stop_it(job: Path) -> None:
    of = with_figures(ready(job, LISTS), 10, {10: 0.4})
    spoil_metrics(of, cut_short)
    with pytest.raises(StageError, match=r"metrics\.json cannot be read .* run the night again from evaluation"):
        publish.run(of)
    assert "Night of 2026-11-22" in Path(of.root.report(of.date)).read_text()
    assert not served(of)


def test_gates_of_an_older_version_are_read_and_faults_name_their_field(job: Path) -> None:
    of = published_night(job, LISTS)
    path = Path(of.root.gates(of.date))
    old = {"format_version": 1, "date": "2026-11-21", "status": "ungated", "why": "w", "compared_with": None}
    path.write_text(json.dumps(old | {"gates": [{"name": "n", "value": 1, "bound": "b", "ok": None, "message": "m"}]}))
    assert gate_results(of).in_state("not computed")[0].message == "m" and gate_results(of).status == "ungated"
    path.write_text(json.dumps(old | {"gates": [{"name": "n", "value": 1, "bound": "b", "ok": 7, "message": "m"}]}))
    with pytest.raises(ManifestError, match=r"gates\.json cannot be read \(gates\.0\.state: input should be"):
        gate_results(of)
    path.write_text(json.dumps({name: value for name, value in old.items() if name != "why"} | {"gates": [], "x": 1}))
    with pytest.raises(ManifestError, match=r"why: field required; x: extra inputs are not permitted"):
        gate_results(of)
    assert nights_page.write(of) == "" and "why: field required" in Path(of.root.index).read_text()


OUTPUTS: dict[str, Outputs] = {
    "train": TrainOutputs(tower="tower-aa", state="state-aa"),
    "index": IndexOutputs(candidates=BuiltIndex(kind="exact", folders=(), shard_rows=(9,), recall=1.0)),
    "evaluation": EvaluationOutputs(figures={}),
}


def made_of(of: Night, stage: str, inputs: dict[str, str], date: dt.date | None = None) -> None:
    outputs = OUTPUTS[stage].model_dump(mode="json")
    commit(of, stage, date=str(date or of.date), inputs=inputs, outputs=outputs)


def test_stages_of_another_model_are_named(job: Path) -> None:
    of = ready(job, LISTS)
    made_of(of, "train", {})
    model = of.require("train").digest
    made_of(of, "index", {"model": model})
    made_of(of, "evaluation", {"train": model, "index": of.require("index").digest})
    assert gates.check(of).gates[0].state == "passed"
    made_of(of, "index", {"model": "another"}, DATE)
    message = (
        "gate same night: stage index was done with another model than the night's; "
        f"{of.folder('index')} is of the night of 2026-11-21, bound: all from one training"
    )
    with pytest.raises(GateError, match=re.escape(message)):
        publish.run(of)
    made_of(of, "index", {"model": model})
    made_of(of, "evaluation", {"train": model, "index": "another"})
    with pytest.raises(GateError, match="gate same night: stage evaluation was done with another index than the night"):
        publish.run(of)
    assert not served(of)


@pytest.mark.parametrize(
    ("reason", "more", "message"),
    [
        ("because", ["--only", "train"], "--force-publish requires stage publish"),
        ("because", ["--catch-up"], "--force-publish requires stage publish"),
        (" ", [], "a reason is needed: it is written to published.json"),
    ],
)
def test_a_reason_is_of_one_night_and_its_publication(job: Path, reason: str, more: list[str], message: str) -> None:
    done = watchnext("nightly", job, "--force-publish", reason, *more)
    assert done.code == 2 and message in done.message
