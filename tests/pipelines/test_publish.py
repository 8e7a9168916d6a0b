from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from breadth import ALL
from nights import DATE, night, published_json, published_night, write_job

from pipelines import gates, nightly, publish
from pipelines.base import manifest, paths, published_lists
from pipelines.base.manifest import ManifestError
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.night.outputs import GateSummary, PublishOutputs
from pipelines.night.sink_protocol import NightFiles
from pipelines.runs import run_log
from pipelines.serving import publication
from transforms.core import files
from transforms.core.digests import bucket_of
from transforms.sinks import SinkError

pytestmark = pytest.mark.usefixtures("without_plots")

LISTS = pl.DataFrame({"user_id": ["a", "b", "c"], "video_ids": [["v"], ["w"], ["v"]], "scores": [[1.0], [2.0], [3.0]]})
DEFAULTS = pl.DataFrame({"country": [None], "video_ids": [["v"]], "scores": [[1.0]]})


def ready(job: Path, date: dt.date = DATE) -> Night:
    """A night whose lists are written and whose report is done."""
    return published_night(job, LISTS, date=date, publish=False)


def test_a_night_is_published_with_what_a_reader_needs(job: Path) -> None:
    of = ready(job)
    publish.run(of)
    served = published_json(of.root)
    assert dt.datetime.fromisoformat(served.pop("published_at")).tzinfo == dt.UTC
    digest = of.require("neighbours").digest
    nobody, first = "nobody was held out (examples.holdout_days, holdout_users)", gates.FIRST_NIGHT
    reasons = {
        "most popular": nobody,
        "item to item": nobody,
        "recall": nobody,
        "approximate search": nobody,
        "users": first,
    }
    ungated = {"status": "ungated", "why": nobody, "not_computed": reasons}
    assert served == {
        "format_version": 2, "date": "2026-11-21", "stage": "neighbours", "neighbours": digest, "users": 3,
        "buckets": 8, "gates": ungated, "lists": served["lists"],
    }  # fmt: skip
    notes = [f"UNGATED: {nobody}"]
    named = served["lists"]["file"]
    outputs = PublishOutputs(published=True, lists=named, published_lists=named, gates=GateSummary(**ungated))
    assert publish.plan(of).is_done(of) and of.outputs(PublishOutputs) == outputs
    assert of.require("publish").counts == {"notes": notes}


def test_a_backfill_never_moves_what_is_served_backwards(job: Path) -> None:
    publish.run(ready(job))
    before = Path(night(job).root.published).read_text()
    earlier = ready(job, DATE - dt.timedelta(days=1))
    publish.run(earlier)
    assert Path(earlier.root.published).read_text() == before
    counts = earlier.require("publish").figures
    assert (counts["published"], counts["later"]) == (False, "2026-11-21")
    later = ready(job, DATE + dt.timedelta(days=1))
    publish.run(later)
    assert json.loads(Path(later.root.published).read_text())["date"] == "2026-11-22"


@pytest.mark.parametrize("folder", ["neighbours", "user_vectors", "similar", "defaults"])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_lists_that_are_not_whole_are_not_published(job: Path, damage: str, folder: str) -> None:
    of = published_night(job, LISTS, defaults=DEFAULTS, publish=False)
    path = next(Path(of.root.night(DATE)).glob(f"{folder}/*.parquet"))
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StageError, match=rf"{path.name} is not the file that stage neighbours wrote: run"):
        publish.run(of)
    assert not published_json(of.root) and manifest.load(of.folder("publish")) is None


def test_other_lists_are_published_anew(job: Path) -> None:
    of = ready(job)
    publish.run(of)
    listed = of.require("neighbours")
    manifest.commit(of.folder("neighbours"), replace(listed, counts={"users": 3, "more": 1}))
    assert not publish.plan(of).is_done(of)
    publish.run(of)
    assert published_json(of.root)["neighbours"] == of.require("neighbours").digest != listed.digest


def test_a_night_without_lists_is_not_published(job: Path) -> None:
    with pytest.raises(ManifestError, match="stage neighbours is not complete"):
        publish.run(night(job))


NEXT = DATE + dt.timedelta(days=1)
OTHERS = LISTS.with_columns(video_ids=pl.Series([["x"], ["y"], []]))


class KillError(BaseException):
    """The process is gone: nothing after it is done."""


@dataclass
class Place:
    """What a sink holds, whatever becomes of the process that writes to it."""

    versions: dict[str, list[str]] = field(default_factory=dict)  # version -> its users
    serves: str | None = None
    expired: set[str] = field(default_factory=set)


@dataclass
class FakeSink:
    """A sink in memory. `before(call)` runs before each of its calls, and may raise."""

    name: str
    place: Place
    before: Callable[[str], None] = lambda call: None

    def ready(self) -> None:
        self.before(f"{self.name} ready")

    def version(self, files: NightFiles) -> str:
        return f"{files.date}-{files.attempt[:4]}"

    def load(self, files: NightFiles) -> dict[str, Any]:
        version = self.version(files)
        users = sorted(user for path in files.lists for user in pl.read_parquet(path)["user_id"])
        if self.place.versions.get(version) != users:
            assert version != self.place.serves, "what is served was written to"
            self.place.versions[version] = users[:1]
            self.before(f"{self.name} load")
            self.place.versions[version] = users
            self.place.expired.discard(version)
        return {"keys": len(users)}

    def switch(self, version: str | None) -> None:
        self.before(f"{self.name} switch")
        self.place.serves = version

    def drop(self, version: str) -> None:
        self.before(f"{self.name} drop")
        if version != self.place.serves:
            self.place.versions.pop(version, None)

    def settle(self, keep: Set[str]) -> None:
        self.before(f"{self.name} settle")
        self.place.expired |= self.place.versions.keys() - keep

    def forget(self, user_ids: pl.Series) -> None:
        for version, users in self.place.versions.items():
            self.place.versions[version] = [user for user in users if user not in set(user_ids)]


@dataclass
class Faults:
    """Two sinks and the writing of small files, each call of which can be the one that fails."""

    places: dict[str, Place] = field(default_factory=lambda: {"one": Place(), "two": Place()})
    at: int | str = -1  # the number of the call, or which call, that fails
    error: BaseException = field(default_factory=KillError)
    calls: list[str] = field(default_factory=list)

    def call(self, name: str) -> None:
        self.calls.append(name)
        if self.at in (len(self.calls) - 1, name):
            raise self.error

    def heal(self) -> None:
        self.at, self.calls = -1, []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def sinks(night: Night) -> list[FakeSink]:
            return [FakeSink(name, place, self.call) for name, place in self.places.items()]

        def stopping(name: str) -> None:
            real = getattr(files, name)

            def call(first: Any, *rest: Any) -> Any:
                self.call(f"{name} {first if isinstance(first, str) else ''.join(first)}".replace("/", " / "))
                return real(first, *rest)

            monkeypatch.setattr(files, name, call)

        monkeypatch.setattr(publication, "configured_sinks", sinks)
        stopping("replace_file")
        stopping("remove_files")

    def check(self, root: paths.Root) -> None:
        """What every sink serves is whole, and one of two nights; where nothing is under way, it is what is
        published."""
        served = published_json(root)
        for name, place in self.places.items():
            assert place.serves is None or place.versions[place.serves] == USERS
            if not files.exists(root.publishing):
                assert place.serves == served.get("sinks", {}).get(name, {}).get("serves")
                whole = {version for version, users in place.versions.items() if users == USERS}
                assert whole == place.versions.keys(), "a half was left"

    def kill(self, call: str, of: Night) -> None:
        """Publish a night and kill the process at a call of the sinks; then heal."""
        self.at = call
        with pytest.raises(KillError):
            publish.run(of)
        self.heal()


USERS = ["a", "b", "c"]


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    found = Faults()
    found.install(monkeypatch)
    return found


def versions(of: Night) -> dict[str, str]:
    return {name: served["serves"] for name, served in published_json(of.root)["sinks"].items()}


def test_every_sink_is_loaded_before_any_is_switched(job: Path, faults: Faults) -> None:
    of = ready(job)
    publish.run(of)
    ours = [call for call in faults.calls if call.split()[0] in faults.places]
    assert ours == [f"{sink} {call}" for call in ("ready", "load", "switch", "settle") for sink in ("one", "two")]
    assert of.require("publish").counts["sinks"] == {"one": {"keys": 3}, "two": {"keys": 3}}
    assert versions(of) == {name: place.serves for name, place in faults.places.items()}
    assert not files.exists(of.root.publishing)
    faults.check(of.root)


def test_the_night_before_stays_and_older_ones_expire(job: Path, faults: Faults) -> None:
    found = []
    for days in range(4):
        of = ready(job, DATE + dt.timedelta(days=days))
        publish.run(of)
        found.append(versions(of)["one"])
    assert faults.places["one"].expired == set(found[:2])
    entry = published_json(of.root)["sinks"]["two"]
    assert entry == {"serves": found[3], "before": found[2]}


def test_a_night_published_again_keeps_the_one_before_it(job: Path, faults: Faults) -> None:
    publish.run(ready(job))
    of = ready(job, NEXT)
    publish.run(of)
    before = published_json(of.root)["sinks"]
    publication.serve(of)
    assert published_json(of.root)["sinks"] == before
    assert before["one"]["before"] != before["one"]["serves"] and not faults.places["one"].expired


@pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(True, NEXT, marks=pytest.mark.slow),
        pytest.param(False, NEXT + dt.timedelta(days=1), marks=pytest.mark.slow),
        (False, DATE - dt.timedelta(days=3)),
    ],
    ids=["first night, again", "later night", "backfill"],
)
def test_a_kill_leaves_the_old_night_or_the_new(tmp_path: Path, faults: Faults, first: bool, again: dt.date) -> None:
    """Killed at each call of a publication in turn, then at each call of the start after it; then left alone."""
    at, came = 0, True
    while came:
        faults.places.update(one=Place(), two=Place())
        faults.heal()
        job = write_job(tmp_path / str(at), 'watches = "w"')
        if not first:
            publish.run(ready(job))
        for date in {NEXT, again}:
            root = ready(job, date).root
        came = False
        for date, stop in ((NEXT, at), (again, at // 2), (again, -1), (NEXT, -1)):
            faults.heal()
            faults.at = stop
            try:
                publish.run(night(job, date))
            except KillError:
                came |= stop == at
            faults.check(root)
        served = published_json(root)
        assert served["date"] == str(max(NEXT, again)) and not files.exists(root.publishing)
        for name, place in faults.places.items():
            assert place.serves == served["sinks"][name]["serves"]
        at += 1 if ALL else 3
    assert at > 15, "there were fewer calls than a publication has"


@pytest.mark.parametrize("at", ["two ready", "one load", "two load"])
def test_nothing_changes_where_a_sink_cannot_be_loaded(job: Path, faults: Faults, at: str) -> None:
    publish.run(ready(job))
    before = {name: (place.serves, dict(place.versions)) for name, place in faults.places.items()}
    entry = published_json(night(job).root)
    of = ready(job, NEXT)
    faults.at, faults.error = at, SinkError("the place is full: empty it")
    with pytest.raises(StageError, match=r"^the place is full: empty it; the night of 2026-11-21 is served meanwhile$"):
        publish.run(of)
    assert {name: (place.serves, place.versions) for name, place in faults.places.items()} == before
    assert published_json(of.root) == entry and not files.exists(of.root.publishing)
    faults.heal()
    publish.run(of)
    faults.check(of.root)
    assert versions(of)["one"].startswith("2026-11-22")


def test_a_sink_that_is_gone_is_cleaned_at_the_next_start(job: Path, faults: Faults) -> None:
    of = ready(job)
    real = faults.call

    def gone(name: str) -> None:
        if name in ("two load", "two drop"):
            raise SinkError("two is gone")
        real(name)

    faults.call = gone  # type: ignore[method-assign]
    with pytest.raises(StageError, match="two is gone; no night is served meanwhile"):
        publish.run(of)
    assert files.exists(of.root.publishing) and faults.places["two"].versions
    faults.call = real  # type: ignore[method-assign]
    assert publication.recover(night(job, NEXT)) == "the interrupted publication of the night of 2026-11-21 was undone"
    assert publication.recover(night(job, NEXT)) == ""
    assert not files.exists(of.root.publishing)
    assert faults.places == {"one": Place(), "two": Place()}


def test_what_was_loaded_everywhere_is_finished_by_a_start_on_another_night(job: Path, faults: Faults) -> None:
    publish.run(ready(job))
    of = ready(job, NEXT)
    faults.at, faults.error = "two switch", SinkError("two is gone")
    with pytest.raises(StageError, match="two is gone; the night of 2026-11-21 is served meanwhile"):
        publish.run(of)
    assert published_json(of.root)["date"] == "2026-11-21" and publish.plan(of).due
    faults.heal()
    message = publication.recover(night(job, NEXT + dt.timedelta(days=1)))
    assert message == "the interrupted publication of the night of 2026-11-22 was completed"
    assert published_json(of.root)["date"] == "2026-11-22"
    faults.check(of.root)


def test_a_sink_that_lost_what_it_held_is_loaded_again_before_the_switch(job: Path, faults: Faults) -> None:
    of = ready(job)
    faults.kill("one switch", of)
    faults.places["two"].versions.clear()
    publication.recover(of)
    assert "two load" in faults.calls and published_json(of.root)["date"] == "2026-11-21"
    faults.check(of.root)


def test_a_start_undoes_a_publication_and_restores_a_lost_published_json(job: Path, faults: Faults) -> None:
    publish.run(ready(job))
    of = ready(job, NEXT)
    faults.kill("two load", of)
    Path(of.root.published).unlink()
    undone, restored = publication.recover(of).split("; ")
    assert undone == "the interrupted publication of the night of 2026-11-22 was undone"
    assert "published.json was lost: the night of 2026-11-21" in restored
    faults.check(of.root)


@pytest.mark.parametrize("change", ["attempt", "gone", "lists", "settings"])
def test_a_publication_is_undone_only_if_what_it_serves_is_not_the_same(job: Path, faults: Faults, change: str) -> None:
    publish.run(ready(job))
    before = {name: place.serves for name, place in faults.places.items()}
    of = ready(job, NEXT)
    faults.kill("two switch", of)
    assert faults.places["one"].serves != before["one"]
    if change == "attempt":
        manifest.commit(of.folder("neighbours"), replace(of.require("neighbours"), attempt="cc"))
    elif change == "gone":
        manifest.revoke(of.folder("neighbours"))
    elif change == "lists":
        files.remove_files(published_lists.paths_of_night(of.root, of.date))
    else:
        faults.places["three"] = Place()
    publication.recover(of)
    if change in ("attempt", "gone"):  # the stage ran again since: the lists of the publication are there all the same
        faults.check(of.root)
        assert published_json(of.root)["date"] == "2026-11-22"
        return
    assert {name: faults.places[name].serves for name in before} == before
    assert published_json(of.root)["date"] == "2026-11-21"
    assert all(len(faults.places[name].versions) == 1 for name in before)


def test_withdrawn_nights_are_listed_and_a_night_that_is_served_is_not(job: Path, faults: Faults) -> None:
    of = ready(job)
    publish.run(of)
    publish.run(ready(job, NEXT))
    publication.serve(of, withdrawn=["2026-11-22", "2026-11-23"])
    assert json.loads(Path(of.root.withdrawn).read_text()) == ["2026-11-22", "2026-11-23"]
    assert published_json(of.root)["date"] == "2026-11-21"
    publication.serve(night(job, NEXT))
    assert json.loads(Path(of.root.withdrawn).read_text()) == ["2026-11-23"]


def test_forgotten_users_leave_the_sinks_and_the_count(job: Path, faults: Faults) -> None:
    of = ready(job)
    publish.run(of)
    (path,) = published_lists.paths_of_night(of.root, of.date)
    lists = published_lists.load(path)
    entry = lists.lists[bucket_of("b", 8)]
    fewer = lists.with_entries({entry.name: replace(entry, rows=entry.rows - 1)})
    fresh = fewer.model_copy(update={"neighbours": "new"})
    files.replace_file(path, fresh.to_bytes())
    publication.forget(night(job, NEXT), pl.Series(["b"]))
    served = published_json(of.root)
    assert (served["users"], served["date"], served["neighbours"]) == (2, "2026-11-21", "new") and "sinks" in served
    assert served["lists"]["digest"] == files.file_entry(of.folder("publish"), path.rsplit("/", 1)[1]).digest
    assert faults.places["one"].versions == {versions(of)["one"]: ["a", "c"]}


@pytest.mark.parametrize("damage", ['{"entry": {}, "what": 1}', "", "null", "[]", '{"entry": {"date": "x"}}', "\0"])
@pytest.mark.parametrize("at", ["two load", "two switch", "one settle"])
def test_a_damaged_intent_leaves_what_is_published(job: Path, faults: Faults, damage: str, at: str) -> None:
    publish.run(ready(job))
    of = ready(job, NEXT)
    faults.kill(at, of)
    Path(of.root.publishing).write_text(damage)
    assert "publishing.json cannot be read" in publication.recover(of)
    assert not files.exists(of.root.publishing)
    served = published_json(of.root)
    for name, place in faults.places.items():
        assert place.serves is not None and place.serves == served["sinks"][name]["serves"]
        assert place.versions[place.serves] == USERS
    publish.run(of)
    assert published_json(of.root)["date"] == "2026-11-22"


def test_an_unexpected_error_is_raised_as_it_is(job: Path, faults: Faults) -> None:
    faults.at, faults.error = "one switch", ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError) as caught:
        publish.run(ready(job))
    assert caught.value is faults.error and caught.value.__cause__ is not caught.value


def test_a_nightly_first_finishes_a_publication(job: Path, faults: Faults, capsys: pytest.CaptureFixture[str]) -> None:
    of = ready(job)
    faults.at, faults.error = "two switch", SinkError("two is gone")
    with pytest.raises(StageError):
        publish.run(of)
    with run_log.open_log("text") as log:
        nightly.run(night(job, NEXT), str(job), (), log)
        assert "two is gone; no night is served meanwhile" in capsys.readouterr().err
        faults.heal()
        nightly.run(night(job, NEXT), str(job), (), log)
    assert published_json(of.root)["date"] == "2026-11-21"
    faults.check(of.root)
