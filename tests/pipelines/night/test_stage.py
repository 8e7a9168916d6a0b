from __future__ import annotations

import datetime as dt
import os
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nights import DATE, night, start_python, write_job

from pipelines.base import machine, manifest
from pipelines.night import stage as stages
from pipelines.night.night import Night
from pipelines.night.outputs import NeighboursOutputs
from pipelines.night.stage import Plan, StageResult, complete
from transforms.core import files


def simple(folder: Path, more: str = "") -> Night:
    return night(write_job(folder, 'watches = "w"', more))


def plan(settings: Any = 1, stage: str = "vocabulary") -> Plan:
    return Plan(stage, {"window": "digest"}, settings)


def writes(*names: str, content: bytes = b"rows") -> stages.Work:
    """The work of a stage that leaves files; `{attempt}` in a name is the attempt's mark."""

    def work(night: Night, folder: str, attempt: str) -> StageResult:
        given = [name.format(attempt=attempt) for name in names]
        entries = [files.write_bytes(folder, name, 1, content) for name in given]
        return StageResult(entries, NeighboursOutputs(users=1), {"rows": 1})

    return work


def crashes_after(work: stages.Work) -> stages.Work:
    def crash(night: Night, folder: str, attempt: str) -> StageResult:
        work(night, folder, attempt)
        raise KeyboardInterrupt

    return crash


def refuses(night: Night, folder: str, attempt: str) -> StageResult:
    raise AssertionError("this stage was done before")


def names(of: Night, stage: str = "vocabulary") -> list[str]:
    folder = Path(of.folder(stage))
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_stage_is_done_once_for_the_same_inputs_and_settings(tmp_path: Path) -> None:
    of = simple(tmp_path)
    assert not plan().is_done(of)
    first = complete(of, plan(), writes("a-{attempt}.parquet"))
    assert plan().is_done(of) and not plan(2).is_done(of)
    assert complete(of, plan(), refuses) == first
    second = complete(of, plan(2), writes("b-{attempt}.parquet"))
    assert names(of) == ["COMPLETED", f"b-{second.attempt}.parquet"]


def test_a_crash_leaves_what_stood_and_the_next_run_removes_the_rest(tmp_path: Path) -> None:
    of = simple(tmp_path)
    first = complete(of, plan(), writes("a-{attempt}.parquet"))
    with pytest.raises(KeyboardInterrupt):
        complete(of, plan(2), crashes_after(writes("a-{attempt}.parquet")))
    assert len(names(of)) == 3 and manifest.load(of.folder("vocabulary")) == first
    assert complete(of, plan(), refuses) == first
    assert names(of) == ["COMPLETED", f"a-{first.attempt}.parquet"]


def test_files_with_fixed_names_are_never_taken_for_those_of_another_attempt(tmp_path: Path) -> None:
    of = simple(tmp_path)
    complete(of, plan(), writes("videos.parquet", content=b"old"))
    with pytest.raises(KeyboardInterrupt):
        complete(of, plan(2), crashes_after(writes("videos.parquet", content=b"new")))
    assert not plan().is_done(of)
    again = complete(of, plan(), writes("videos.parquet", content=b"old"))
    assert files.file_entry(of.folder("vocabulary"), "videos.parquet").digest == again.files[0].digest


@pytest.mark.parametrize("damaged", ["missing", "shorter", "longer", "manifest"])
def test_a_stage_whose_files_are_not_whole_is_not_complete(tmp_path: Path, damaged: str) -> None:
    of = simple(tmp_path)
    first = complete(of, plan(), writes("a-{attempt}.parquet", "../vocabulary2/b-{attempt}", content=b"12"))
    path = Path(of.folder("vocabulary"), f"a-{first.attempt}.parquet")
    if damaged == "missing":
        path.unlink()
        why = f"{path} is missing"
    elif damaged == "manifest":
        Path(of.folder("vocabulary"), "COMPLETED").write_text('{"format_version": 1, "sta')
    else:
        path.write_bytes(b"1" if damaged == "shorter" else b"123")
        why = f"{path} has {path.stat().st_size} bytes, but stage vocabulary wrote 2"
    assert not plan().is_done(of)
    if damaged != "manifest":
        assert plan().rerun_reason(of, first) == why
    again = complete(of, plan(), writes("a-{attempt}.parquet", content=b"12"))
    assert again.attempt != first.attempt and plan().is_done(of)


def test_a_stage_is_run_again_for_a_flipped_byte_when_it_is_named_and_when_it_is_forced(tmp_path: Path) -> None:
    of = simple(tmp_path)
    first = complete(of, plan(), writes("a-{attempt}.parquet", content=b"12"))
    path = Path(of.folder("vocabulary"), f"a-{first.attempt}.parquet")
    path.write_bytes(b"13")
    assert plan().is_done(of), "a plain run compares sizes alone"
    assert not plan().is_done(replace(of, verify="vocabulary")) and plan().is_done(replace(of, verify="examples"))
    forced = replace(of, force=("vocabulary",))
    assert complete(forced, plan(), writes("a-{attempt}.parquet", content=b"12")).attempt != first.attempt
    assert plan().is_done(replace(of, verify="vocabulary")) and not plan().is_done(forced)


def test_what_a_stage_keeps_for_its_next_attempt_outlives_a_crash_and_not_the_commit(tmp_path: Path) -> None:
    of, work = simple(tmp_path), writes("checkpoints/7/1", "tower-{attempt}")
    with pytest.raises(KeyboardInterrupt):
        complete(of, plan(), crashes_after(work), keep="checkpoints")
    kept = []

    def look(night: Night, folder: str, attempt: str) -> StageResult:
        kept.extend(names(of))
        return writes("tower-{attempt}")(night, folder, attempt)

    done = complete(of, plan(), look, keep="checkpoints")
    assert kept == ["checkpoints/7/1"] and names(of) == ["COMPLETED", f"tower-{done.attempt}"]


def test_the_times_of_a_night_begin_at_midnight_of_the_job_s_zone(tmp_path: Path) -> None:
    of = simple(tmp_path, 'time_zone = "Europe/Berlin"\n[examples]\nwindow_days = 28\nholdout_days = 2\n')
    utc = {name: getattr(of.dates, name).isoformat() for name in ("start", "holdout_start", "end", "future")}
    assert utc == {
        "start": "2026-10-23T22:00:00+00:00",  # still summer time
        "holdout_start": "2026-11-18T23:00:00+00:00",
        "end": "2026-11-20T23:00:00+00:00",
        "future": "2026-11-21T23:00:00+00:00",
    }


def test_without_a_holdout_nothing_is_held_out(tmp_path: Path) -> None:
    of = simple(tmp_path, "[examples]\nholdout_days = 0\nholdout_users = 0.05\n")
    assert of.holdout.start == of.dates.end == dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


def test_held_out_users_are_unknown_before_they_are_counted(tmp_path: Path) -> None:
    with pytest.raises(manifest.ManifestError, match="stage vocabulary is not complete"):
        _ = simple(tmp_path, "").holdout
    assert simple(tmp_path, "[examples]\nholdout_users = 0.3\n").holdout.share == 0.3


def test_a_stage_s_command_holds_the_lock_while_it_runs(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    held = []
    module = types.SimpleNamespace(__doc__="Stage 0.", run=lambda of: held.append(os.path.exists(of.root.lock)))
    assert stages.stage_main(module, [str(job), "--date", "2026-11-21"]) == 0
    assert held == [True] and not (tmp_path / "runs" / "LOCK").exists()


def test_a_full_disk_is_one_line_of_any_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """TensorFlow's errors are no OSErrors."""
    from transforms.core.tensorflow_import import tf

    def run(_: Night) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "model/part-0.data; No space left on device [Op:SaveV2]")

    job = write_job(tmp_path, 'watches = "w"', f'[storage]\nroot = "{tmp_path}/runs"\n')
    module = types.SimpleNamespace(__doc__="Stage 4.", __file__="train.py", run=run)
    assert stages.stage_main(module, [str(job), "--date", "2026-11-21"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    folder = machine.fullest_folder(f"{tmp_path}/runs")
    assert line.startswith(f"watchnext: stage train: no space left on device below {folder}: ")


def test_a_manifest_keeps_inputs_settings_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stages.RUN_VARIABLE, "run-7")
    of = simple(tmp_path)
    given = plan({"date": DATE, "examples": {"seed": 1}})
    done = complete(of, given, writes("a-{attempt}.parquet"))
    assert (done.inputs, done.settings, done.run) == (
        {"window": "digest"},
        {"date": "2026-11-21", "examples": {"seed": 1}},
        "run-7",
    )
    assert manifest.load(of.folder("vocabulary")) == done and given.is_done(of)


def test_a_manifest_tells_what_the_work_took(tmp_path: Path) -> None:
    of, write = simple(tmp_path), writes("a-{attempt}.parquet")

    def busily(night: Night, folder: str, attempt: str) -> StageResult:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        return write(night, folder, attempt)

    done = complete(of, plan({}), busily)
    assert 0.2 <= done.processor_seconds < 0.2 + time.process_time() and done.peak_bytes > 2**24
    assert done.written_bytes > 0


def test_what_is_due_is_done_whatever_was_done_before_and_only_once(tmp_path: Path) -> None:
    of = simple(tmp_path)
    first = complete(of, plan(), writes("a-{attempt}.parquet"))
    due = replace(plan(), due="the sink is empty")
    assert not due.is_done(of) and due.fingerprint == plan().fingerprint
    assert complete(of, due, writes("a-{attempt}.parquet")).attempt != first.attempt
    assert plan().is_done(of)


WAITING = """
import os, sys, threading, types
from pipelines.night import stage as stages
def run(night):
    threading.Thread(target=threading.Event().wait).start()  # as Beam's, which nobody ends
    print("at work", os.path.exists(night.root.lock), flush=True)
    threading.Event().wait()
stages.stage_main(types.SimpleNamespace(__doc__="Stage 0.", run=run), sys.argv[1:])
"""


def test_a_terminated_stage_releases_the_lock_and_leaves_no_thread(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'watches = "w"')
    with start_python("-c", WAITING, job, "--date", DATE) as process:
        assert process.stdout is not None and process.stdout.readline() == "at work True\n"
        process.terminate()
        message = process.communicate(timeout=60)[1]
    assert (process.returncode, message) == (143, "watchnext: stopped by SIGTERM; nothing was published\n")
    assert not (tmp_path / "runs" / "LOCK").exists()
