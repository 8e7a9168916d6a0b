"""Where a training works: the folder itself on a local disk, a copy of one elsewhere (here, of another local one)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.night import local_workdir
from transforms.core import files


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that counts as one of another file system, so everything goes through copies."""
    folder = tmp_path / "storage"
    monkeypatch.setattr(files, "is_local", lambda path: not str(path).startswith(str(folder)))
    monkeypatch.setattr(files, "list_files", lambda path: sorted(str(p) for p in Path(path).rglob("*") if p.is_file()))
    return str(folder)


def put(folder: str | Path, **contents: str) -> None:
    for name, content in contents.items():
        path = Path(folder) / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def found(folder: str | Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_a_local_folder_is_worked_in_and_nothing_is_copied(tmp_path: Path) -> None:
    put(tmp_path / "examples", a="1")
    put(tmp_path / "model", info="i", tower__x="t")
    with local_workdir.open_workdir(str(tmp_path / "model")) as workdir:
        assert workdir.local == str(tmp_path / "model")
        assert workdir.download(str(tmp_path / "examples"), ["a"]) == str(tmp_path / "examples")
        workdir.upload_checkpoints()
        entries = workdir.upload_results(["info"], ["tower"])
    assert [(entry.name, entry.bytes) for entry in entries] == [("info", 1), ("tower/x", 1)]
    assert found(tmp_path) == {"examples/a": "1", "model/info": "i", "model/tower/x": "t"}


def test_of_a_folder_elsewhere_the_files_asked_for_are_brought(remote: str) -> None:
    put(f"{remote}/examples", a="1", below__b="2", c="3")
    with local_workdir.open_workdir(f"{remote}/model") as workdir:
        given = workdir.download(f"{remote}/examples", ["a", "below/b"])
        assert Path(given).name == "examples"
        assert found(given) == {"a": "1", "below/b": "2"}
    assert not Path(given).exists()


def test_two_folders_of_one_name_are_brought_side_by_side(remote: str) -> None:
    put(f"{remote}/monday/model", a="1")
    put(f"{remote}/tuesday/model", a="2")
    with local_workdir.open_workdir(f"{remote}/wednesday/model") as workdir:
        given = [workdir.download(f"{remote}/{day}/model", ["a"]) for day in ("monday", "tuesday")]
        assert [found(folder) for folder in given] == [{"a": "1"}, {"a": "2"}]


def test_checkpoints_are_kept_as_they_come_and_brought_to_the_next_attempt(remote: str) -> None:
    with local_workdir.open_workdir(f"{remote}/model") as workdir:
        put(workdir.local, **{"checkpoints__f__checkpoint": "names 1", "checkpoints__f__1.data": "one", "other": "x"})
        workdir.upload_checkpoints()
        assert found(f"{remote}/model") == {"checkpoints/f/1.data": "one", "checkpoints/f/checkpoint": "names 1"}
        (Path(workdir.local) / "checkpoints/f/1.data").unlink()
        put(workdir.local, **{"checkpoints__f__checkpoint": "names 2", "checkpoints__f__2.data": "two"})
        put(workdir.local, tensorboard__curve="c")
        workdir.upload_checkpoints()
    kept = {"checkpoints/f/2.data": "two", "checkpoints/f/checkpoint": "names 2", "tensorboard/curve": "c"}
    assert found(f"{remote}/model") == kept
    with local_workdir.open_workdir(f"{remote}/model") as workdir:
        assert found(f"{workdir.local}/checkpoints") == {"f/2.data": "two", "f/checkpoint": "names 2"}


def test_what_names_the_newest_checkpoint_comes_last(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order, upload = list[str](), files.upload

    def recorded(local: Path, folder: str, name: str) -> None:
        order.append(name)
        upload(local, folder, name)

    monkeypatch.setattr(files, "upload", recorded)
    with local_workdir.open_workdir(f"{remote}/model") as workdir:
        put(workdir.local, **{"checkpoints__checkpoint": "names 1", "checkpoints__z.data": "one"})
        workdir.upload_checkpoints()
        workdir.upload_checkpoints()
    assert order == ["checkpoints/z.data", "checkpoints/checkpoint"]


def test_what_a_training_leaves_elsewhere_is_put_in_its_place(remote: str) -> None:
    with local_workdir.open_workdir(f"{remote}/model") as workdir:
        put(workdir.local, info="i", tower__x="t", scratch="s")
        entries = workdir.upload_results(["info"], ["tower"])
    assert [(entry.name, entry.bytes) for entry in entries] == [("info", 1), ("tower/x", 1)]
    assert found(f"{remote}/model") == {"info": "i", "tower/x": "t"}
