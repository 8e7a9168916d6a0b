from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.base import machine
from pipelines.base.machine import GIB, Memory

MEMINFO = f"MemTotal:       {16 * 2**20} kB\nMemFree:        {2**20} kB\nMemAvailable:   {12 * 2**20} kB\n"


def root_of(folder: Path, cgroup: str = "", limits: dict[str, str] | None = None) -> Path:
    """A /proc and /sys of a machine of 16 GiB."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/meminfo").write_text(MEMINFO)
    (folder / "proc/self/cgroup").write_text(cgroup)
    for path, limit in (limits or {}).items():
        file = folder / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    return folder


def test_without_a_limit_it_is_the_machine_s(tmp_path: Path) -> None:
    whole = Memory(limit_bytes=16 * GIB, free_bytes=12 * GIB, limited_by="machine")
    assert machine.memory(root_of(tmp_path / "a")) == whole
    assert machine.memory(root_of(tmp_path / "b", "0::/user\n", {"user/memory.max": "max"})) == whole
    enormous = {"memory/memory.limit_in_bytes": "9223372036854771712"}  # what version 1 says for none
    assert machine.memory(root_of(tmp_path / "c", "4:memory:/\n", enormous)) == whole


@pytest.mark.parametrize(
    ("cgroup", "limits"),
    [
        ("0::/\n", {"memory.max": f"{4 * GIB}"}),
        ("0::/slice/unit\n", {"slice/unit/memory.max": "max", "slice/memory.max": f"{4 * GIB}"}),
        ("0::/slice/unit\n", {"slice/unit/memory.max": f"{4 * GIB}", "slice/memory.max": f"{8 * GIB}"}),
        ("5:cpu:/x\n4:memory,hugetlb:/box\n", {"memory/box/memory.limit_in_bytes": f"{4 * GIB}"}),
    ],
)
def test_the_smallest_limit_of_the_groups_around_counts(cgroup: str, limits: dict[str, str], tmp_path: Path) -> None:
    found = machine.memory(root_of(tmp_path, cgroup, limits))
    assert found == Memory(limit_bytes=4 * GIB, free_bytes=4 * GIB, limited_by="cgroup")


def test_this_machine_has_memory_and_some_is_free() -> None:
    found = machine.memory()
    assert 0 < found.free_bytes <= found.limit_bytes


def test_what_a_process_took_grows_with_its_work_and_has_that_of_its_children() -> None:
    before = machine.resource_use()
    held = bytearray(64 * 2**20)
    code = f"held = bytearray({machine.resource_use().peak_bytes + 256 * 2**20}); sum(range(3_000_000))"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = machine.resource_use()
    assert after.processor_seconds > before.processor_seconds and len(held) < after.peak_bytes
    assert after.peak_bytes > before.peak_bytes + 200 * 2**20


def test_bytes_that_a_process_and_its_children_moved_are_counted(tmp_path: Path) -> None:
    before = machine.resource_use()
    (tmp_path / "file").write_bytes(bytes(2**20))
    code = f"import pathlib; pathlib.Path({str(tmp_path / 'file')!r}).read_bytes()"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = machine.resource_use()
    assert after.written_bytes - before.written_bytes >= 2**20 <= after.read_bytes - before.read_bytes


def test_free_space_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert machine.free_space(str(tmp_path / "not" / "there")) == pytest.approx(free, rel=0.1)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 MiB"), (50 * 2**20, "50 MiB"), (GIB, "1.0 GiB"), (2_000 * GIB, "2,000.0 GiB")]
)
def test_bytes_as_people_read_them(size: int, text: str) -> None:
    assert machine.format_bytes(size) == text


@pytest.mark.parametrize(("root_bytes", "expected"), [(10, "/data/runs"), (20, "/data/runs"), (30, "/scratch")])
def test_the_fullest_folder_of_a_root(monkeypatch: pytest.MonkeyPatch, root_bytes: int, expected: str) -> None:
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: "/scratch")
    monkeypatch.setattr(machine, "free_space", {"/data/runs": root_bytes, "/scratch": 20}.get)
    assert machine.fullest_folder("/data/runs") == expected
    assert machine.fullest_folder("s3://bucket/runs") == "/scratch"
