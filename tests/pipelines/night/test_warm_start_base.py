"""Which night a night goes on from, and stage train's nights one after another."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from nights import DATE, TINY, commit, night, write_job
from trainer_records import random_records, write_folder

from pipelines import train as train_stage
from pipelines.base import manifest, paths
from pipelines.night import warm_start_base
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import TrainOutputs, WarmStartBase
from pipelines.night.warm_start_base import EarlierModel
from transforms.core import files

LOGS = 'watches = "watches.parquet"'


def job_in(folder: Path, training: str = "") -> Path:
    return write_job(folder, LOGS, TINY.replace("[training]", f"[training]\n{training}"))


def days_before(days: int) -> dt.date:
    return DATE - dt.timedelta(days=days)


def trained(job: Path, days: int, **counts: Any) -> EarlierModel:
    """A night so many days before DATE whose training is complete."""
    of = night(job, days_before(days))
    return EarlierModel(of.date.isoformat(), commit(of, "train", counts=counts).digest)


def withdraw(job: Path, *dates: dt.date) -> None:
    root = night(job).root
    files.replace_file(root.withdrawn, json.dumps([date.isoformat() for date in dates]).encode())


def test_the_newest_night_before_it_that_was_trained_and_not_withdrawn(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    assert warm_start_base.of_night(night(job)) is None
    oldest, older, newer = (trained(job, days, n=days) for days in (5, 2, 1))
    trained(job, 0)
    trained(job, -1)
    (tmp_path / "runs/nights/not a date").mkdir()
    (tmp_path / f"runs/nights/{days_before(1)}/model" / manifest.NAME).unlink()  # never came to its end
    assert newer != older == warm_start_base.of_night(night(job))
    withdraw(job, days_before(2), days_before(1))
    assert oldest == warm_start_base.of_night(night(job))
    assert warm_start_base.of_night(night(job, days_before(5))) is None
    cold = job_in(tmp_path, "warm_start = false")
    assert warm_start_base.of_night(night(cold)) is None


@pytest.mark.parametrize("content", ["{", '["yesterday"]', "[1]", "7"])
def test_a_list_of_withdrawn_nights_that_cannot_be_read_stops_the_night(tmp_path: Path, content: str) -> None:
    job = job_in(tmp_path)
    files.replace_file(night(job).root.withdrawn, content.encode())
    with pytest.raises(StageError, match=r"withdrawn\.json is not a JSON list of dates \("):
        warm_start_base.of_night(night(job))


def test_what_was_fixed_stays_until_it_cannot_be_used(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    of = night(job)
    first = trained(job, 3, n=1)
    warm_start_base.fix(of)
    second = trained(job, 1, n=2)
    warm_start_base.fix(of)
    assert warm_start_base.of_night(of) == first
    withdraw(job, days_before(3))
    assert warm_start_base.of_night(of) == first  # a night that is complete stays as it is ...
    warm_start_base.fix(of)
    assert warm_start_base.of_night(of) == second  # ... but no training begins from it
    Path(night(job, days_before(1)).folder("train"), manifest.NAME).unlink()
    assert warm_start_base.of_night(of) == second
    warm_start_base.fix(of)
    assert warm_start_base.of_night(of) is None
    trained(job, 2)
    assert warm_start_base.of_night(of) is None  # fixed, too


def test_an_earlier_model_that_was_trained_again_is_another(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    before = trained(job, 1, n=1)
    warm_start_base.fix(night(job))
    again = trained(job, 1, n=2)
    assert before != again == warm_start_base.of_night(night(job))


# ---- the stage, on small examples


def give_examples(job: Path, days: int, *, seed: int) -> Night:
    """A night whose examples are complete."""
    of = night(job, days_before(days))
    folder = Path(of.folder("examples"))
    holdout = {"h": random_records(5, seed=9, pointers=1)}
    write_folder(folder, train={"a": random_records(30, seed=seed)}, holdout=holdout)
    (folder / "COMPLETED").unlink()
    newest = f"{days_before(days + 1)}T23:00:00+00:00"
    commit(of, "examples", files.list_entries(str(folder), ""), counts={"newest": newest})
    return of


def state_of(of: Night) -> str:
    return paths.join(of.folder("train"), of.outputs(TrainOutputs).state)


@pytest.mark.slow
def test_nights_go_on_from_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_in(tmp_path)
    first, second = give_examples(job, 2, seed=1), give_examples(job, 0, seed=2)
    train_stage.run(first)
    counts = first.require("train").counts
    assert counts["start"] == {"from": None, "why": "", "rows": {}} and first.outputs(
        TrainOutputs
    ).warm_start == WarmStartBase(date=None)
    # The first note names the values of settings that are "auto".
    assert counts["notes"][1:] == [] and files.exists(paths.join(state_of(first), "state.json"))

    # Killed before its end; another night comes in between; taken up again it goes on from the first all the same.
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("trainer.task.train", killed)
        train_stage.run(second)
    between = give_examples(job, 1, seed=3)
    train_stage.run(between)
    train_stage.run(second)
    counts, warm_start = second.require("train").counts, second.outputs(TrainOutputs).warm_start
    assert warm_start and counts["start"]["from"] == warm_start.date == first.date.isoformat()
    assert counts["start"]["rows"]["videos"] == {"known": 30, "names": 30}
    assert between.require("train").counts["start"]["from"] == first.date.isoformat()
    assert not list(Path(second.folder("train")).rglob("earlier.json"))

    # Complete: a second run does nothing, whatever becomes of the nights before.
    withdraw(job, first.date)
    before = Path(second.folder("train"), manifest.NAME).read_bytes()
    assert train_stage.plan(second).is_done(second)
    train_stage.run(second)
    assert Path(second.folder("train"), manifest.NAME).read_bytes() == before

    # With other settings it is done again, from a night that may be gone on from; of another shape, from nothing.
    job.write_text(job.read_text().replace("dimension = 8", "dimension = 4"))
    other = night(job)
    assert not train_stage.plan(other).is_done(other)
    train_stage.run(other)
    counts = other.require("train").counts
    why = f"cold start: dimension is 4, but was 8 in the model of {between.date}"
    assert counts["start"] == {"from": None, "why": why, "rows": {}} and counts["notes"][1:] == [why]
    warm_start = other.outputs(TrainOutputs).warm_start
    assert warm_start and warm_start.date == between.date.isoformat()
    assert train_stage.plan(other).is_done(other)
