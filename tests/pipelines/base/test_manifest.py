from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.base import manifest
from pipelines.base.manifest import Manifest, ManifestError
from pipelines.night.outputs import TrainOutputs
from transforms.core import files


def attempt_of(folder: Path, attempt: str, content: bytes = b"rows", *, fixed: bool = False) -> Manifest:
    """What one attempt at a stage writes before its commit, and the manifest that would commit it."""
    entries = [files.write_bytes(str(folder), f"part-{attempt}.parquet", 3, content)]
    if fixed:
        entries.append(files.write_bytes(str(folder), "info.json", 1, content))
    return Manifest(stage="neighbours", date="2026-11-21", fingerprint="f", files=entries, attempt=attempt)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    done = replace(attempt_of(tmp_path, "aa"), counts={"users": 3, "info": {"rows": [1, 2]}}, seconds=1.5)
    manifest.commit(str(tmp_path), done)
    assert manifest.load(str(tmp_path)) == manifest.require(str(tmp_path), "neighbours") == done


def test_a_commit_removes_what_it_does_not_list(tmp_path: Path) -> None:
    stage = tmp_path / "neighbours"
    manifest.commit(str(stage), attempt_of(stage, "aa"))
    manifest.commit(str(stage), attempt_of(stage, "bb"))
    (tmp_path / "similar").mkdir()
    (tmp_path / "similar" / "orphan.parquet").write_bytes(b"")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "of-another-stage").write_bytes(b"")
    manifest.commit(str(stage), attempt_of(stage, "cc"))
    assert names(tmp_path) == ["index/of-another-stage", "neighbours/COMPLETED", "neighbours/part-cc.parquet"]


def test_a_sweep_leaves_alone_what_is_kept(tmp_path: Path) -> None:
    for name in ("checkpoints/run/1", "tower-aa/saved_model.pb"):
        files.replace_file(str(tmp_path / name), b"")
    manifest.sweep(str(tmp_path), None, keep="checkpoints")
    assert names(tmp_path) == ["checkpoints/run/1"]


def test_a_stage_that_never_completed_has_no_manifest(tmp_path: Path) -> None:
    assert manifest.load(str(tmp_path / "nowhere")) is None
    with pytest.raises(ManifestError, match=r"stage train is not complete in .*: run it first"):
        manifest.require(str(tmp_path), "train")


@pytest.mark.parametrize("content", [b"", b'{"format_version": 1, "sta', b"[]", b'{"format_version": 1}', b"\xff\xfe"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "COMPLETED").write_bytes(content)
    message = "COMPLETED cannot be read .* removes it and runs the stage again"
    with pytest.raises(ManifestError, match=message):
        manifest.load(str(tmp_path))
    assert manifest.discard_damaged(str(tmp_path), TrainOutputs) and not (tmp_path / "COMPLETED").exists()
    assert not manifest.discard_damaged(str(tmp_path), TrainOutputs)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    manifest.commit(str(tmp_path), attempt_of(tmp_path, "aa"))
    path = tmp_path / "COMPLETED"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(ManifestError, match="has format_version 99"):
        manifest.load(str(tmp_path))


def test_the_digest_is_of_the_content_whatever_the_attempt(tmp_path: Path) -> None:
    one, two = (replace(attempt_of(tmp_path, a), counts={"tower": f"tower-{a}", "steps": 5}) for a in ("a1b2", "c3d4"))
    assert one.digest == two.digest
    assert replace(two, counts={"tower": "tower-c3d4", "steps": 6}).digest != one.digest
    assert attempt_of(tmp_path, "e5f6", b"others").digest != attempt_of(tmp_path, "e5f6").digest


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys() -> None:
    assert manifest.fingerprint({"a": 1, "b": [2]}) == manifest.fingerprint({"b": [2], "a": 1})
    assert manifest.fingerprint({"a": 1, "b": [2]}) != manifest.fingerprint({"a": 1, "b": [3]})


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    assert manifest.fingerprint("examples", 1, {"k": 200}) == "96fda352315f31c27b9cd2202d42353e"


def test_files_that_were_dropped_are_listed_and_no_longer_there(tmp_path: Path) -> None:
    """What is read from the manifest's digest stays as it was: stages that depend on it are not to be done again."""
    done = attempt_of(tmp_path, "aa", fixed=True)
    manifest.commit(str(tmp_path), done)
    manifest.commit(str(tmp_path), replace(done, dropped="part-"))
    found = manifest.require(str(tmp_path), "neighbours")
    assert found.files == done.files and found.digest == done.digest
    assert [entry.name for entry in found.present] == ["info.json"] and names(tmp_path) == ["COMPLETED", "info.json"]


def test_a_stage_whose_files_were_all_dropped_is_on_record_and_not_complete(tmp_path: Path) -> None:
    done = replace(attempt_of(tmp_path, "aa"), counts={"users": 3})
    manifest.commit(str(tmp_path), replace(done, dropped=""))
    assert names(tmp_path) == ["COMPLETED"] and manifest.load(str(tmp_path)) is None
    assert manifest.record(str(tmp_path)) == replace(done, dropped="")
    with pytest.raises(ManifestError, match=r"stage neighbours .* dropped, because the night is older"):
        manifest.require(str(tmp_path), "neighbours")


def test_a_manifest_from_before_settings_were_kept_is_read(tmp_path: Path) -> None:
    manifest.commit(str(tmp_path), attempt_of(tmp_path, "aa"))
    path = tmp_path / manifest.NAME
    content = json.loads(path.read_text())
    for name in ("inputs", "settings", "run", "dropped"):
        del content[name]
    path.write_text(json.dumps(content))
    assert manifest.load(str(tmp_path)) == attempt_of(tmp_path, "aa")


def test_files_are_on_disk_before_their_manifest(tmp_path: Path, synced: list[str]) -> None:
    folder = tmp_path / "nights" / "2026-11-21" / "neighbours"
    entries = [files.write_bytes(str(folder), name, 1, b"x") for name in ("a.parquet", "../similar/b.parquet")]
    synced.clear()
    manifest.commit(str(folder), Manifest(stage="neighbours", date="2026-11-21", fingerprint="f", files=entries))
    before = synced[: synced.index(f"-> {folder}/COMPLETED")]
    beside = folder.parent / "similar"
    data = {f"{folder}/a.parquet", f"{beside}/b.parquet", str(folder), str(beside), str(folder.parent), str(tmp_path)}
    assert data <= set(before) and synced[-1] == str(folder)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../../../secret",
        "../../other/x",
        "a/../../x",
        "../",
        "",
        "a//b",
        "./a",
        "..",
        "s3://b/k",
        3,
        None,
    ],
)
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path, name: Any) -> None:
    entry = {"name": name, "rows": 1, "bytes": 1, "digest": "d"}
    content = {"stage": "index", "date": "2026-11-21", "fingerprint": "f", "files": [entry], "format_version": 1}
    (tmp_path / "COMPLETED").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=r"COMPLETED cannot be read .*(outside the storage|is not a file entry)"):
        manifest.record(str(tmp_path))
    for good in ("a.parquet", "train/a.parquet", "../similar/a.parquet"):
        (tmp_path / "COMPLETED").write_text(json.dumps(content | {"files": [entry | {"name": good}]}))
        found = manifest.record(str(tmp_path))
        assert found is not None and found.files[0].name == good


@pytest.mark.parametrize("wrong", [{"rows": -1}, {"bytes": "7"}, {"digest": None}, {"rows": True}])
def test_an_entry_of_another_shape_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    entry = {"name": "a", "rows": 1, "bytes": 1, "digest": "d"} | wrong
    content = {"stage": "index", "date": "2026-11-21", "fingerprint": "f", "files": [entry], "format_version": 1}
    (tmp_path / "COMPLETED").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="COMPLETED cannot be read"):
        manifest.record(str(tmp_path))
