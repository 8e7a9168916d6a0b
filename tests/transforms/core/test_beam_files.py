from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nights import REPOSITORY

from transforms.core import beam_files, files


@pytest.mark.parametrize("path", ["a", "/a/b", "a:b", "a//b", " /a", "1s3://b", "C:/a"])
def test_paths_without_a_scheme_are_local(path: str) -> None:
    assert beam_files.is_local(path)


def test_remote_paths_are_not_local_and_unknown_schemes_are_errors() -> None:
    assert not beam_files.is_local("gs://bucket/a")
    with pytest.raises(ValueError, match="nowhere"):
        beam_files.is_local("nowhere://a")


@pytest.mark.parametrize("name", ["b", "b/c.json", "../b", "../../b/c", "/x/b"])
@pytest.mark.parametrize("folder", ["/a/b", "/a/b/", "a", "/"])
def test_local_paths_are_joined_and_split_as_by_beam(name: str, folder: str) -> None:
    from apache_beam.io.filesystems import FileSystems

    assert files.parent(folder) == FileSystems.split(folder.rstrip("/"))[0]
    if not name.startswith(".."):
        assert files.join(folder, name) == FileSystems.join(folder, name)


def test_local_files_are_read_and_removed_without_beam(tmp_path: Path) -> None:
    path = tmp_path / "a[1]*.json"
    script = (
        "import sys\nfrom transforms.core import conditional_files, files\n"
        f"path = {str(path)!r}\nfiles.replace_file(path, b'1')\n"
        "assert files.exists(path) and files.read_bytes(path) == b'1'\n"
        "assert files.list_files(files.parent(path)) == [path]\n"
        "assert conditional_files.read(path).content == b'1'\n"
        "files.remove_files([path, path + 'x'])\nassert not files.exists(path)\nprint('apache_beam' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "") and not os.path.exists(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.read_bytes(str(tmp_path / "none"))
