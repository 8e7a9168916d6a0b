"""Files on a local and on a remote file system: atomic writes, listings and manifest entries."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from memory_files import MemoryFileSystem

from transforms.core import files

FRAME = pl.DataFrame({"user_id": ["a", "b", None], "n": [[1], [], None]})


@pytest.fixture(params=["local", "remote"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that does not exist yet, on either kind of file system."""
    MemoryFileSystem.content.clear()
    return str(tmp_path / "new") if request.param == "local" else "memory://bucket/new"


def test_written_frame_is_read_back_and_its_entry_is_correct(folder: str) -> None:
    entry = files.write_parquet(FRAME, folder, "day/a.parquet")
    content = files.read_bytes(files.join(folder, "day/a.parquet"))
    assert entry == files.FileEntry(
        name="day/a.parquet", rows=3, bytes=len(content), digest=xxhash.xxh3_128_hexdigest(content)
    )
    assert files.read_parquet(files.join(folder, "day/a.parquet")).equals(FRAME)
    assert files.read_parquet(files.join(folder, "day/a.parquet"), ["n"]).columns == ["n"]


def test_same_frame_gives_same_bytes(folder: str) -> None:
    first, second = (files.write_parquet(FRAME, folder, name) for name in ("a", "b"))
    assert (first.bytes, first.digest) == (second.bytes, second.digest)


def test_replaced_file_has_the_new_content_and_leaves_no_other_file(folder: str) -> None:
    for text in (b"old and long", b"new"):
        entry = files.write_bytes(folder, "CURRENT", 1, text)
        assert files.read_bytes(files.join(folder, "CURRENT")) == text
    assert entry == files.FileEntry(name="CURRENT", rows=1, bytes=3, digest=xxhash.xxh3_128_hexdigest(b"new"))
    assert files.list_files(folder) == [files.join(folder, "CURRENT")]
    replaced = files.replace_parquet(FRAME, folder, "CURRENT")
    assert replaced.rows == 3
    assert files.read_parquet(files.join(folder, "CURRENT")).equals(FRAME)


def test_a_text_is_only_replaced_if_it_changes(folder: str, synced: list[str]) -> None:
    path = files.join(folder, "page")
    files.rewrite_text(path, lambda text: text + "!")
    assert not files.exists(path)
    files.replace_file(path, "Zoë".encode())
    synced.clear()
    files.rewrite_text(path, lambda text: text)
    assert synced == []
    files.rewrite_text(path, lambda text: text + "!")
    assert files.read_bytes(path).decode() == "Zoë!"


def test_files_are_listed_described_and_removed(folder: str) -> None:
    assert files.list_files(folder) == []
    for name in ("b/2", "b/1", "a/3"):
        files.replace_file(files.join(folder, name), name.encode())
    paths = [files.join(folder, name) for name in ("a/3", "b/1", "b/2")]
    assert files.list_files(folder) == paths
    assert [entry.name for entry in files.list_entries(folder, "b")] == ["b/1", "b/2"]
    assert files.file_entry(folder, "a/3") == files.FileEntry(
        name="a/3", rows=0, bytes=3, digest=xxhash.xxh3_128_hexdigest(b"a/3")
    )
    files.remove_files([*paths[:2], files.join(folder, "never was")])
    assert files.list_files(folder) == paths[2:]
    assert [files.exists(path) for path in paths] == [False, False, True]


def test_removing_files_removes_folders_that_become_empty(tmp_path: Path) -> None:
    for name in ("a/1", "b/1", "b/2"):
        files.replace_file(str(tmp_path / name), b"")
    files.remove_files([str(tmp_path / "a/1"), str(tmp_path / "b/1")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


@pytest.mark.parametrize("name", ["a [1]", "a?", "a*"])
def test_paths_are_not_patterns(folder: str, name: str) -> None:
    others = [files.join(folder, other, "x") for other in ("a 1", "ab")]
    path = files.join(folder, name, "x")
    for one in (path, *others):
        files.replace_file(one, b"x")
    assert files.exists(path) and files.list_files(files.join(folder, name)) == [path]
    files.remove_files([path])
    assert not files.exists(path) and files.list_files(folder) == others


def test_local_copy_contains_no_pattern_characters(tmp_path: Path) -> None:
    path = tmp_path / "a [1]?" / "model"
    path.mkdir(parents=True)
    copy = Path(files.local_copy(str(path)))
    assert not set("[]?*") & set(str(copy))
    (copy / "x").write_bytes(b"x")
    assert (path / "x").read_bytes() == b"x"
    assert files.local_copy(str(tmp_path)) == str(tmp_path)


def test_uploaded_files_are_copied_back(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    assert files.upload(source, folder, "model/sub/part").bytes == 7
    files.upload(source, folder, "model/top")
    copy = Path(files.local_copy(files.join(folder, "model")))
    assert copy.name == "model"
    assert {str(p.relative_to(copy)): p.read_bytes() for p in copy.rglob("*") if p.is_file()} == {
        "sub/part": b"content",
        "top": b"content",
    }
    one = Path(files.local_copy(files.join(folder, "model/top")))
    assert (one.name, one.read_bytes()) == ("top", b"content")


def test_failed_replacement_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "CURRENT"
    files.replace_file(str(path), b"old")

    def fails(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        files.replace_file(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@given(st.lists(st.sampled_from(["a", "b"]), max_size=3), st.integers(0, 3))
def test_join_resolves_leading_parent_references(down: list[str], up: int) -> None:
    folder = "/" + "/".join(f"f{i}" for i in range(5))
    expected = "/" + "/".join([*(f"f{i}" for i in range(5 - up)), *down, "x"])
    assert files.join(folder, "../" * up + "/".join([*down, "x"])) == expected
    assert files.join("memory://b" + folder, "../" * up + "/".join([*down, "x"])) == "memory://b" + expected


def test_join_with_no_name_is_the_folder() -> None:
    assert files.join("/a/b") == "/a/b"
    assert files.join("/a/b/", "../c") == "/a/c"


def test_replaced_file_and_new_folders_are_synced_in_order(tmp_path: Path, synced: list[str]) -> None:
    path = tmp_path / "a" / "b" / "file"
    files.replace_file(str(path), b"new")
    assert synced == [str(tmp_path / "a"), str(tmp_path), f"{path}.{os.getpid()}.tmp", f"-> {path}", str(path.parent)]


def test_files_and_their_parent_folders_are_synced_and_missing_files_skipped(tmp_path: Path, synced: list[str]) -> None:
    for name in ("top/a/one", "top/b/c/two"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    names = ["top/a/one", "top/b/c/two", "top/b/gone"]
    files.sync([str(tmp_path / name) for name in names], str(tmp_path / "top"))
    expected = ["top", "top/a", "top/a/one", "top/b", "top/b/c", "top/b/c/two"]
    assert sorted(synced) == [str(tmp_path / name) for name in expected]
    assert max(map(synced.index, [str(tmp_path / name) for name in names[:2]])) < 2, "files are synced before folders"


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO])
def test_missing_folder_fsync_is_tolerated_and_other_errors_are_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fsync(number: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fsync)
    with nullcontext() if error == errno.EINVAL else pytest.raises(OSError, match="Input/output error"):
        files.replace_file(str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("size", [0, 3, 4, 40, -20])
def test_incomplete_parquet_file_is_reported(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.parquet"
    files.write_parquet(pl.DataFrame({"n": range(100)}), str(tmp_path), "a.parquet")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        files.DamagedFileError, match=rf"^{path} is not a complete Parquet file \(.+\): watchnext doctor"
    ):
        files.read_parquet(str(path))
    files.write_parquet(pl.DataFrame({"n": range(100)}), str(tmp_path), "b.parquet")
    with pytest.raises(files.DamagedFileError, match="1 more files is not a complete Parquet file"):
        files.read_parquets([str(tmp_path / "b.parquet"), str(path)], ["n"])


@pytest.mark.parametrize("remote", [False, True])
def test_a_column_that_a_file_does_not_have_is_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    schema = pl.Schema({"n": pl.Int64(), "more": pl.Int32()})
    files.write_parquet(pl.DataFrame({"n": [1], "other": [0]}), str(tmp_path), "a.parquet")
    files.write_parquet(pl.DataFrame({"n": [2], "more": [3]}, schema=schema), str(tmp_path), "b.parquet")
    if remote:
        monkeypatch.setattr(files, "is_local", lambda _: False)
    paths = [str(tmp_path / name) for name in ("a.parquet", "b.parquet", "a.parquet")]
    found = files.read_parquets(paths, ["more", "n"], schema)
    assert found.rows() == [(None, 1), (3, 2), (None, 1)] and found.schema == {"more": pl.Int32, "n": pl.Int64}
    if not remote:
        with pytest.raises(pl.exceptions.PolarsError):
            files.read_parquets(paths, ["more", "n"])


USERS = pl.DataFrame({"user_id": ["b", "a", None, "ä\0"], "n": [[1], [2, 3], [4], []], "more": [1.0, None, 3.0, 4.0]})


def test_rows_with_a_key_are_found(folder: str) -> None:
    files.write_parquet(USERS, folder, "a.parquet")
    path = files.join(folder, "a.parquet")
    for user, n, more in USERS.filter(pl.col("user_id").is_not_null()).iter_rows():
        found = files.find_in_parquet(path, "user_id", user, ["more", "n"])
        assert found.rows() == [(more, n)] and found.schema == {"more": pl.Float64, "n": pl.List(pl.Int64)}
    assert files.find_in_parquet(path, "user_id", "a", ["user_id", "n"]).rows() == [("a", [2, 3])]
    assert files.find_in_parquet(path, "user_id", "c", ["n"]).equals(USERS.clear().select("n"))
    files.write_parquet(pl.concat([USERS, USERS.clear(), USERS]), folder, "b.parquet")
    twice = files.find_in_parquet(files.join(folder, "b.parquet"), "user_id", "a", ["n"])
    assert twice.rows() == [([2, 3],), ([2, 3],)]


def test_a_row_of_another_key_is_never_returned_from_a_file_that_is_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, scan = str(tmp_path / "a.parquet"), pl.scan_parquet
    files.write_parquet(USERS, str(tmp_path), "a.parquet")

    def replaced_after_the_keys(*arguments: object, **options: object) -> SimpleNamespace:
        def select(columns: str | list[str]) -> SimpleNamespace | pl.LazyFrame:
            found = scan(path).select(columns)
            if columns != "user_id":
                return found
            keys = found.collect()
            files.replace_parquet(USERS.reverse(), str(tmp_path), "a.parquet")
            return SimpleNamespace(collect=lambda: keys)

        return SimpleNamespace(select=select)

    monkeypatch.setattr(pl, "scan_parquet", replaced_after_the_keys)
    assert files.find_in_parquet(path, "user_id", "a", ["n"]).rows() == [([2, 3],)]


@pytest.mark.parametrize("size", [0, 3, 40])
def test_rows_of_an_incomplete_parquet_file_are_reported(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.parquet"
    files.write_parquet(USERS, str(tmp_path), "a.parquet")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(files.DamagedFileError, match="is not a complete Parquet file"):
        files.find_in_parquet(str(path), "user_id", "a", ["n"])


@pytest.mark.parametrize("schema", [None, USERS.schema])
def test_rows_that_do_not_meet_a_condition_are_not_read(folder: str, schema: pl.Schema | None) -> None:
    files.write_parquet(USERS, folder, "a.parquet")
    files.write_parquet(USERS.reverse(), folder, "b.parquet")
    paths = [files.join(folder, name) for name in ("a.parquet", "b.parquet")]
    found = files.read_parquets(paths, ["more", "user_id"], schema, pl.col("user_id") == "b")
    assert found.rows() == [(1.0, "b"), (1.0, "b")]
