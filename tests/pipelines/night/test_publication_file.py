"""What is published: `published.json`, the lists of files it names, and the way back if one of them is lost."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from damage import flip_bit
from nights import DATE, night, published_json, published_night, write_job

from pipelines import lookup, nightly, publish, rollback
from pipelines.base import manifest, paths, published_lists
from pipelines.base.published_lists import PublishedLists, PublishedListsError, Reference
from pipelines.night import publication_file
from pipelines.night.errors import StageError
from pipelines.night.night import Night
from pipelines.runs import night_series, run_log
from pipelines.serving import publication
from transforms.core import files
from transforms.core.digests import bucket_of

BEFORE, NEXT = DATE - dt.timedelta(days=1), DATE + dt.timedelta(days=1)
DAMAGE = ["", "{", "null", "{}", "[]", '"x"', "\0", '{"format_version": 1, "date": "x", "buckets": 8, "users": 1}']


def lists(date: dt.date) -> pl.DataFrame:
    """Lists that tell which night they are of."""
    users = ["ann", "bob"]
    scores = pl.Series([[1.0]] * 2, dtype=pl.List(pl.Float32))
    return pl.DataFrame({"user_id": users, "video_ids": [[f"{date}-{user}"] for user in users], "scores": scores})


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job with two published nights."""
    job = write_job(tmp_path, 'watches = "w"')
    for date in (BEFORE, DATE):
        published_night(job, lists(date), date=date)
    return job


def damage(of: Night, content: str | None) -> None:
    path = Path(of.root.published)
    path.unlink() if content is None else path.write_text(content)


def shown(of: Night, user: str = "ann", **asked: Any) -> list[str]:
    return [item.video_id for item in lookup.lookup(of.job, user, 5, **asked).items]


def entry(of: Night) -> dict[str, Any]:
    found = published_json(of.root)
    del found["published_at"]
    return found


@pytest.mark.parametrize("content", [None, *DAMAGE])
def test_any_night_restores_published_json(job: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    of = night(job)
    before = entry(of)
    damage(of, content)
    assert publish.plan(of).due.endswith("published.json is lost")
    assert lookup.main([str(job), "ann"]) == 1
    message = capsys.readouterr().err
    assert "watchnext nightly" in message and "--date 2026-11-21" in message and len(message.splitlines()) == 1
    with run_log.open_log("text") as log:
        nightly.run(night(job, BEFORE), str(job), (), log)
    assert "was lost: the night of 2026-11-21, the newest published one, is served again" in capsys.readouterr().err
    assert entry(of) == before and publish.plan(of).is_done(of)
    assert shown(of) == ["2026-11-21-ann"]


def test_what_is_restored_is_never_a_night_that_was_withdrawn(job: Path) -> None:
    of = night(job)
    rollback.rollback(of, None)
    damage(of, "{}")
    publication.recover(night(job, NEXT))
    assert shown(of) == ["2026-11-20-ann"] and publication_file.withdrawn(of.root) == {"2026-11-21"}


@pytest.mark.parametrize("content", [None, *DAMAGE])
def test_a_rollback_needs_no_published_json(job: Path, content: str | None) -> None:
    of = night(job)
    damage(of, content)
    for path in Path(of.folder("neighbours")).glob("*.parquet"):
        path.write_bytes(b"cut")  # nor that the newest night is whole
    assert rollback.rollback(of, BEFORE).startswith("the night of 2026-11-20 is served again; withdrawn: 2026-11-21")
    assert shown(of) == ["2026-11-20-ann"]


def test_a_later_night_is_published_though_what_is_lost_cannot_be_restored(job: Path) -> None:
    of = night(job)
    damage(of, "{}")
    for path in Path(of.folder("neighbours")).glob("*.parquet"):
        path.write_bytes(b"cut")
    with pytest.raises(StageError, match=r"is not the file that stage neighbours wrote: run the night again"):
        publication.recover(of)
    with pytest.raises(StageError, match=r"is not the file that stage neighbours wrote"):  # not moved backwards either
        publish.run(published_night(job, lists(BEFORE), date=BEFORE, publish=False))
    assert shown(published_night(job, lists(NEXT), date=NEXT)) == ["2026-11-22-ann"]


def test_missed_nights_are_counted_from_the_newest_publication_if_it_is_lost(job: Path) -> None:
    damage(night(job), None)
    assert night_series.missed_dates(night(job, NEXT + dt.timedelta(days=1))) == [NEXT]


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_lists_of_files_that_are_lost_are_made_again_by_a_run_of_the_night(job: Path, content: str | None) -> None:
    of = night(job)
    before = entry(of)
    path = Path(of.root.path) / before["lists"]["file"]
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(StageError, match=r"names lists of the night of 2026-11-21 that cannot be read .* nightly"):
        shown(of)
    assert publish.plan(of).due
    publish.run(of)
    assert shown(of) == ["2026-11-21-ann"] and entry(of)["lists"] == before["lists"]


def test_two_publications_are_named(job: Path) -> None:
    of = night(job)
    served = published_json(of.root)
    first, second = (Reference(**place["lists"]) for place in (served["before"], served))
    assert [published_lists.read(of.root, one).date for one in (first, second)] == [BEFORE, DATE]
    assert served["before"]["date"] == "2026-11-20"
    publication.serve(of)
    assert published_json(of.root)["before"] == served["before"], "the same twice is the same once"


def test_another_night_is_looked_up(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published_night(job, lists(NEXT), date=NEXT, publish=False)
    heads = {
        BEFORE: "user ann, published 2026-11-20, not served now: the first 1 of 1",
        DATE: "user ann, published 2026-11-21: the first 1 of 1",
        NEXT: "user ann, night 2026-11-22, never published: the first 1 of 1",
    }
    for date, head in heads.items():
        assert lookup.main([str(job), "ann", "--date", str(date)]) == 0
        assert capsys.readouterr().out.splitlines() == [head, "", f"  1  1.0000  {date}-ann"]
    assert lookup.main([str(job), "ann", "--date", "2026-11-25"]) == 1
    message = capsys.readouterr().err
    assert "no complete lists of the night of 2026-11-25" in message and "2026-11-20, 2026-11-21" in message
    assert lookup.main([str(job), "ann", "--date", str(BEFORE), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "published"
    with pytest.raises(SystemExit):
        lookup.main([str(job), "ann", "--date", str(BEFORE), "--from", "redis"])


def test_a_night_that_ran_again_is_looked_up_as_it_was_published(job: Path) -> None:
    published_night(job, lists(NEXT), date=NEXT)
    made = night(job)
    published = [entry.name for entry in made.require("neighbours").files]
    rewritten(made, "bb", lists(DATE).with_columns(video_ids=pl.Series([["x"], ["y"]])))
    assert shown(made, date=DATE) == ["2026-11-21-ann"]
    assert all(files.exists(files.join(made.folder("neighbours"), name)) for name in published)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "nights/../../x", "a/../../../x", "gs://b/x", "", "c:\\x"])
def test_a_name_that_leaves_the_root_is_refused(job: Path, name: str) -> None:
    of = night(job)
    path = Path(of.root.path) / entry(of)["lists"]["file"]
    content = json.loads(path.read_text())
    content["defaults"] = [content["lists"][0] | {"name": name}]
    path.write_text(json.dumps(content))
    with pytest.raises(PublishedListsError, match="lies outside the root"):
        published_lists.load(str(path))
    served = published_json(of.root)
    Path(of.root.published).write_text(json.dumps(served | {"lists": {"file": name, "digest": "x"}}))
    with pytest.raises(StageError, match=r"published\.json cannot be read"):
        publication_file.read(of.root)


def test_lists_that_are_not_whole_are_not_published(job: Path) -> None:
    of = published_night(job, lists(NEXT), date=NEXT, publish=False)
    listed = of.require("neighbours")
    fewer = [entry for entry in listed.files if not entry.name.startswith("00003")]
    for entries, counts in ((fewer, listed.counts), (listed.files, {"users": 3})):
        manifest.commit(of.folder("neighbours"), replace(listed, files=entries, counts=counts))
        with pytest.raises(StageError, match=r"the lists of .* are not whole .*: run the night again from neighbours"):
            publish.run(of)
    assert shown(of) == ["2026-11-21-ann"]


def test_a_damaged_list_of_files_keeps_all_files(job: Path) -> None:
    """Nobody knows what it names, so nothing is removed beside it."""
    of = night(job)
    (path,) = published_lists.paths_of_night(of.root, DATE)
    Path(path).write_text("{")
    manifest.commit(of.folder("neighbours"), replace(of.require("neighbours"), files=[]))
    assert len(list(Path(of.folder("neighbours")).glob("*.parquet"))) == 8


def test_the_list_of_files_survives_its_way_to_json(job: Path) -> None:
    (path,) = published_lists.paths_of_night(night(job).root, DATE)
    found = published_lists.load(path)
    assert isinstance(found, PublishedLists) and found.to_bytes() == Path(path).read_bytes()


def rewritten(of: Night, attempt: str, rows: pl.DataFrame) -> None:
    """Stage neighbours as it is complete after another run."""
    listed = of.require("neighbours")
    parts = [rows.filter(pl.Series([bucket_of(user, 8) == n for user in rows["user_id"]])) for n in range(8)]
    names = [paths.shard(n, 8, attempt, "parquet") for n in range(8)]
    folder = of.folder("neighbours")
    entries = [files.write_parquet(part, folder, name) for part, name in zip(parts, names, strict=True)]
    manifest.commit(of.folder("neighbours"), replace(listed, files=entries, attempt=attempt))


def flip(of: Night) -> None:
    """Change one byte of each list of a night that is published."""
    found = publication_file.accepted(of.root, of.date)
    assert found is not None
    for path in found.paths(of.root, "lists"):
        flip_bit(Path(path))


def test_damaged_lists_that_were_written_again_alike_are_published_again(job: Path) -> None:
    of = night(job)
    rewritten(of, "bb", lists(DATE))
    publish.run(of)
    flip(of)
    rewritten(of, "cc", lists(DATE))
    assert publish.plan(of).due == "its lists were written again"
    publish.run(of)
    assert shown(of) == ["2026-11-21-ann"] and publish.plan(of).is_done(of)


@pytest.mark.parametrize("alike", [True, False])
def test_a_rollback_to_a_night_whose_lists_were_damaged_works_once_it_ran_again(job: Path, alike: bool) -> None:
    of = night(job, BEFORE)
    flip(of)
    with pytest.raises(StageError, match="run the night again from neighbours"):
        rollback.rollback(of, BEFORE)
    rows = lists(BEFORE) if alike else lists(BEFORE).with_columns(video_ids=pl.Series([["x"], ["y"]]))
    rewritten(of, "bb", rows)
    publish.run(of)
    assert shown(of) == ["2026-11-21-ann"]
    rollback.rollback(of, BEFORE)
    assert shown(of) == (["2026-11-20-ann"] if alike else ["x"])


def test_a_rollback_serves_what_was_published_and_not_what_a_backfill_made_since(job: Path) -> None:
    of = night(job, BEFORE)
    rewritten(of, "bb", lists(BEFORE).with_columns(video_ids=pl.Series([["x"], ["y"]])))
    publish.run(of)
    assert not of.require("publish").figures["published"]
    rollback.rollback(of, None)
    assert shown(of) == ["2026-11-20-ann"]


def test_unknown_fields_of_another_version_are_kept(job: Path) -> None:
    of = night(job)
    content = json.loads(Path(of.root.published).read_text()) | {"colour": "red", "gates": {"status": "new", "x": 1}}
    del content["published_at"]
    Path(of.root.published).write_text(json.dumps(content))
    found = publication_file.read(of.root)
    assert found is not None and found.content() == content and found.users == content["users"]
    assert found.model_copy(update={"users": 7}).content() == content | {"users": 7}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"users": "7"}, "users: "),
        ({"date": "x"}, "date: "),
        ({"lists": {"file": "a"}}, "lists.digest: field required"),
    ],
)
def test_the_field_at_fault_is_named(job: Path, change: dict[str, Any], fault: str) -> None:
    of = night(job)
    content = json.loads(Path(of.root.published).read_text())
    Path(of.root.published).write_text(json.dumps(content | change))
    with pytest.raises(StageError, match=rf"published\.json cannot be read \({fault}"):
        publication_file.read(of.root)
    del content["users"]
    Path(of.root.published).write_text(json.dumps(content))
    with pytest.raises(StageError, match="it has no users"):
        publication_file.read(of.root, whole=True)


def test_a_damaged_file_of_a_root_without_nights_is_to_be_removed(tmp_path: Path) -> None:
    of = night(write_job(tmp_path, 'watches = "w"'))
    files.replace_file(of.root.published, b"{")
    with pytest.raises(StageError, match=r"published.json cannot be read .*: remove it, then run watchnext"):
        publication_file.read(of.root)
