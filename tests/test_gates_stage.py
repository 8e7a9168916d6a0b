"""Stage publish before gates: what a failed one leaves as it was, what is written down, how a person overrules it."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import polars as pl
import pytest
from nights import DATE, night, published_night, write_job

from pipelines import gates, manifest, nightly, publish
from pipelines.errors import GateError
from pipelines.jobs import JobError
from pipelines.stages import Night, stage_main

NEXT = DATE + dt.timedelta(days=1)
LISTS = pl.DataFrame({"user_id": ["a", "b", "c"], "video_ids": [["v"], ["w"], ["v"]], "scores": [[1.0], [2.0], [3.0]]})
FEWER = LISTS.head(2)
LOST = r"gate users: 2 users would be served, 3 were the night before \(-33\.3%\), bound: at most 0\.2 fewer"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_job(tmp_path, 'watches = "w"')


def ready(job: Path, rows: pl.DataFrame, date: dt.date = NEXT) -> Night:
    return published_night(job, rows, date=date, publish=False)


def served(of: Night) -> dict[str, object]:
    return publish.read(of.root) or {}


def test_a_failed_gate_leaves_what_is_served_and_says_why(job: Path) -> None:
    before = served(published_night(job, LISTS))
    of = ready(job, FEWER)
    with pytest.raises(
        GateError, match=rf"^1 of 1 gates failed\. {LOST} .*--force-publish REASON; the night of 2026-1"
    ):
        publish.run(of)
    assert served(of) == before and manifest.load(of.folder("publish")) is None
    found = gates.read(of) or {}
    assert (found["status"], found["compared_with"], found["why"]) == ("failed", "2026-11-21", "")
    assert [(gate["name"], gate["ok"]) for gate in found["gates"]] == [("users", False)]


def test_the_exit_code_of_the_stage_is_that_of_gates(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published_night(job, LISTS)
    ready(job, FEWER)
    assert stage_main(publish, [str(job), "--date", NEXT.isoformat()]) == 3
    assert "watchnext: 1 of 1 gates failed. gate users: " in capsys.readouterr().err
    assert stage_main(publish, [str(job), "--date", NEXT.isoformat(), "--force-publish", "it is a holiday"]) == 0
    assert served(night(job))["date"] == NEXT.isoformat()


def test_a_night_is_published_for_a_reason_that_is_written_down(job: Path) -> None:
    published_night(job, LISTS)
    of = ready(job, FEWER)
    publish.run(Night(of.job, of.date, force_publish="half of them left"))
    held = {"status": "forced", "why": "half of them left"}
    assert (served(of)["date"], served(of)["gates"]) == ("2026-11-22", held)
    counts = of.require("publish").counts
    assert counts["gates"] == {**held, "failed": ["users"]}
    assert counts["notes"][0].startswith(
        "FORCED, in spite of what gates found (half of them left): gate users: 2 users"
    )


def test_a_reason_without_a_failed_gate_is_not_needed(job: Path) -> None:
    published_night(job, LISTS)
    of = ready(job, LISTS)
    publish.run(Night(of.job, of.date, force_publish="to be sure"))
    told = "nobody was held out (examples.holdout_days, holdout_users)"
    assert served(of)["gates"] == {"status": "ungated", "why": told}


def test_a_repaired_night_is_published_as_any_other(job: Path) -> None:
    published_night(job, LISTS)
    with pytest.raises(GateError, match=LOST):
        publish.run(ready(job, FEWER))
    of = ready(job, LISTS)
    publish.run(of)
    assert served(of)["date"] == "2026-11-22" and (gates.read(of) or {})["status"] == "ungated"


def test_a_gate_that_is_off_stops_nothing(job: Path) -> None:
    published_night(job, LISTS)
    job.write_text(job.read_text() + "[gates]\nmax_users_lost = 1\n")
    of = ready(job, FEWER)
    publish.run(of)
    assert served(of)["date"] == "2026-11-22" and not (gates.read(of) or {})["gates"]


def test_nothing_is_compared_with_a_night_that_was_taken_back(job: Path) -> None:
    of = published_night(job, LISTS, date=DATE - dt.timedelta(days=1))
    more = pl.concat([LISTS, LISTS.with_columns(user_id=pl.col("user_id") + "2")])
    published_night(job, more, date=DATE)
    assert gates.night_before(night(job, NEXT)) == night(job, DATE)
    publish.serve(of, withdrawn=[DATE.isoformat()])
    assert gates.night_before(night(job, NEXT)) == of
    publish.run(ready(job, LISTS))
    assert served(of)["date"] == "2026-11-22"


def test_a_backfill_is_held_against_the_night_before_it(job: Path) -> None:
    published_night(job, LISTS, date=DATE - dt.timedelta(days=1))
    published_night(job, LISTS, date=NEXT)
    with pytest.raises(GateError, match=LOST):
        publish.run(ready(job, FEWER, DATE))
    assert served(night(job))["date"] == NEXT.isoformat()


def made_of(of: Night, stage: str, inputs: dict[str, str], date: dt.date | None = None) -> None:
    done = manifest.Manifest(
        stage=stage, date=(date or of.date).isoformat(), fingerprint=stage, files=[], inputs=inputs,
        counts={"info": {"candidates": {"rows": 9, "recall": 1.0}}},
    )  # fmt: skip
    manifest.commit(of.folder(stage), done)


def test_stages_of_another_model_are_named(job: Path) -> None:
    of = ready(job, LISTS)
    made_of(of, "train", {})
    model = of.require("train").digest
    made_of(of, "index", {"model": model})
    made_of(of, "evaluation", {"train": model, "index": of.require("index").digest})
    assert gates.check(of).gates[0].ok
    made_of(of, "index", {"model": "another"}, DATE)
    told = (
        "gate same night: stage index was done with another model than the night's; "
        f"{of.folder('index')} is of the night of 2026-11-21, bound: all of one training"
    )
    with pytest.raises(GateError, match=re.escape(told)):
        publish.run(of)
    made_of(of, "index", {"model": model})
    made_of(of, "evaluation", {"train": model, "index": "another"})
    with pytest.raises(GateError, match="gate same night: stage evaluation was done with another index than the night"):
        publish.run(of)
    assert not served(of)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--only", "train"], "--force-publish is for stage publish of one night"),
        (["--catch-up"], "--force-publish is for stage publish of one night"),
    ],
)
def test_a_reason_is_of_one_night_and_its_publication(
    job: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        nightly.main([str(job), "--force-publish", "because", *more])
    assert told in capsys.readouterr().err


def test_a_reason_is_not_empty(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        nightly.main([str(job), "--force-publish", " "])
    assert "a reason is needed: it is written to published.json" in capsys.readouterr().err


def test_bounds_must_be_in_order(job: Path) -> None:
    job.write_text(job.read_text() + "[gates]\nmin_volume = 3\n")
    with pytest.raises(JobError, match=r"min_volume must not be above max_volume \(2\), but is 3"):
        night(job)
