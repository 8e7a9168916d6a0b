from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import pytest
from nights import DATE, night
from stores import daily, day_of_watches, ingested, write_day

from pipelines import nightly, vocabulary
from pipelines.base import lock, manifest
from pipelines.base.manifest import Manifest
from pipelines.night.night import Night
from pipelines.night.stage import STAGES, Plan
from pipelines.runs import dry_run
from pipelines.runs.dry_run import Outlook

TWO = STAGES[:2]
NEVER = "it never ran"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A night whose first two stages are complete."""
    found = daily(tmp_path, "holdout_users = 0.05\n")
    vocabulary.run(ingested(found))
    return found


def look(of: Night, *stages: str) -> dict[str, tuple[str, str]]:
    return {one.stage: (one.state, one.why) for one in dry_run.outlooks(of, stages or TWO)}


def state_of(root: str) -> dict[str, tuple[int, bytes]]:
    """All files below a folder: when they changed, and what is in them."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(root).rglob("*") if path.is_file()}


def test_before_the_first_night_all_would_run(tmp_path: Path) -> None:
    of = night(daily(tmp_path))
    assert look(of, *STAGES) == dict.fromkeys(STAGES, ("would run", NEVER))
    assert not (tmp_path / "runs").exists()


def test_what_is_complete_says_so_and_nothing_is_touched(job: Path) -> None:
    of = night(job)
    before = state_of(of.root.path)
    assert look(of, *STAGES[:3]) == {
        "ingest": ("complete", ""),
        "vocabulary": ("complete", ""),
        "examples": ("would run", NEVER),
    }
    assert state_of(of.root.path) == before


def test_changed_logs_are_reported_and_later_stages_may_stay_complete(job: Path) -> None:
    write_day(job.parent, "2026-11-18", day_of_watches("2026-11-18", 9, mark="x"))
    assert look(night(job)) == {
        "ingest": ("would run", "2 raw files to ingest"),
        "vocabulary": ("may run", "depends on whether the output of ingest changes"),
    }


def test_changed_settings_are_reported_with_their_values(job: Path) -> None:
    more = "[examples]\nwindow_days = 4\nwatch_vocabulary = 3\nholdout_users = 0.5\n"
    job.write_text(job.read_text().replace("[examples]\nwindow_days = 4\nholdout_users = 0.05\n", more))
    message = "settings changed: examples.holdout_users 0.05 -> 0.5, examples.watch_vocabulary 1000000 -> 3"
    assert look(night(job))["vocabulary"] == ("would run", message)


def test_a_changed_catalogue_of_users_is_reported(job: Path) -> None:
    (job.parent / "users.csv").write_text("user_id,gender\n0u,m\n")
    assert look(night(job))["ingest"] == ("would run", "inputs changed: users")


def test_days_to_ingest_again_are_reported(job: Path) -> None:
    of = Night(night(job).job, DATE, reingest=(dt.date(2026, 11, 19),))
    assert look(of)["ingest"] == ("would run", "1 day to ingest again")


def test_a_stage_whose_inputs_are_missing_would_fail(tmp_path: Path) -> None:
    of = night(daily(tmp_path))
    assert look(of, "examples")["examples"][0] == "would fail"
    assert "stage ingest is not complete in" in look(of, "examples")["examples"][1]


def test_logs_that_are_missing_would_fail_and_the_rest_would_follow(tmp_path: Path) -> None:
    of = night(daily(tmp_path))
    (tmp_path / "w").rename(tmp_path / "elsewhere")
    found = look(of)
    assert found["ingest"][0] == "would fail" and "no log files found" in found["ingest"][1]
    assert found["vocabulary"] == ("would run", NEVER)


def test_what_was_dropped_would_be_made_again(job: Path) -> None:
    of = night(job)
    manifest.commit(of.folder("vocabulary"), replace(of.require("vocabulary"), dropped=""))
    message = "its output was dropped, because the night is older than storage.keep_nights"
    assert look(of, "vocabulary") == {"vocabulary": ("would run", message)}


def reasons(before: Manifest, plan: Plan) -> list[str]:
    return list(dry_run.reasons(before, plan))


def done(inputs: dict[str, str], settings: dict[str, object]) -> Manifest:
    return Manifest(stage="s", date="d", fingerprint="f", files=[], inputs=inputs, settings=settings)


def test_the_reasons_of_a_stage_are_its_inputs_and_its_settings() -> None:
    before = done({"window": "1", "model": "2", "gone": "3"}, {"date": "d", "index": {"recall": 0.95, "old": None}})
    plan = Plan("s", {"window": "1", "model": "9", "new": "4"}, {"date": "d", "index": {"recall": 0.9, "layers": [8]}})
    assert reasons(before, plan) == [
        "inputs changed: gone, model, new",
        "settings changed: index.layers (no such setting) -> [8], index.old null -> (no such setting), "
        "index.recall 0.95 -> 0.9",
    ]


def test_a_manifest_without_settings_cannot_say_which_changed() -> None:
    (reason,) = reasons(done({}, {}), Plan("s", {}, {"k": 1}))
    assert reason.endswith("its manifest is too old to contain them")


def test_a_sink_that_is_new_is_a_setting() -> None:
    before, now = done({"neighbours": "1"}, {}), {"storage": {"redis": {"prefix": "mine"}}}
    assert reasons(before, Plan("s", {"neighbours": "1"}, now)) == [
        'settings changed: storage.redis.prefix (no such setting) -> "mine"'
    ]


def test_another_version_of_the_stage_is_a_reason() -> None:
    before = done({"window": "1"}, {"k": 1})
    assert reasons(before, Plan("s", {"window": "1"}, {"k": 1})) == ["another version of watchnext ran it"]


def test_what_is_due_comes_before_all_else() -> None:
    assert reasons(done({"window": "1"}, {"k": 1}), Plan("s", {}, {}, "the sink is empty")) == ["the sink is empty"]


def test_the_command_prints_a_line_a_stage_and_takes_no_lock(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nightly.main([str(job), "--date", "2026-11-21", "--dry-run", "--only", "ingest"]) == 0
    assert capsys.readouterr().out == "ingest     complete\n"
    with lock.hold(night(job).root.lock):
        assert nightly.main([str(job), "--date", "2026-11-21", "--dry-run", "--from", "publish"]) == 0
        said = capsys.readouterr().out.splitlines()
    assert "is running on this root" in said[0] and said[0].endswith("its results may change this forecast")
    assert said[1].startswith("publish    would fail stage ")


def test_the_command_prints_json_for_programs(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(job), "--date", "2026-11-21", "--dry-run", "--log-format", "json"]
    assert nightly.main(given) == 0
    found = [Outlook(**json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    assert found == dry_run.outlooks(night(job), STAGES)


def test_several_nights_are_reported_in_order(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run.show(night(job), [DATE, DATE + dt.timedelta(days=1)], TWO[:1], as_json=False) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == ["night 2026-11-21", "ingest     complete", "night 2026-11-22"]
    assert said[3].startswith("ingest     would ")
