"""What this machine has: memory a process may use, and free space below a path. And what a process took of it."""

from __future__ import annotations

import re
import resource
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of memory."""

    limit_bytes: int  # what processes may use: the machine's, or what its container is allowed
    free_bytes: int  # available now without pushing others out
    limited_by: str  # "machine" or "cgroup"


@dataclass(frozen=True, kw_only=True)
class ResourceUse:
    """What this process, and those it started that have ended, took until now."""

    processor_seconds: float
    peak_bytes: int  # of memory, at the highest, of the largest of them


def resource_use() -> ResourceUse:
    """Nothing is known of processes on other machines."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return ResourceUse(
        processor_seconds=sum(of.ru_utime + of.ru_stime for of in found),
        peak_bytes=1024 * max(of.ru_maxrss for of in found),
    )


def memory(root: Path = Path("/")) -> Memory:
    """The memory of this machine, or of the control group (container, systemd unit, batch job) this process is in.

    root: where `proc` and `sys` are. Raises OSError where there is no /proc, that is, not on Linux.
    """
    table = dict(re.findall(r"^(\w+):\s+(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE))
    total, free = (int(table[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limits = [limit for path in _limit_files(root) if (limit := _number(path)) is not None and limit < total]
    if not limits:
        return Memory(limit_bytes=total, free_bytes=free, limited_by="machine")
    return Memory(limit_bytes=min(limits), free_bytes=min(free, min(limits)), limited_by="cgroup")


def _limit_files(root: Path) -> list[Path]:
    """Files that may hold a limit: of the group this process is in and of all groups around it, in versions 1 and 2."""
    groups, found = root / "proc/self/cgroup", []
    lines = groups.read_text().splitlines() if groups.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        inside = Path(path.lstrip("/"))
        found += [base / group / name for group in (inside, *inside.parents)]
    return found


def _number(path: Path) -> int | None:
    """The number in a file; None where it says that there is no limit, or is not there."""
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdecimal() else None


def free_space(path: str) -> int:
    """Bytes free on the file system that a local path is on, or will be."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def fullest_folder(root: str) -> str:
    """The local folder, `root` or the one for temporary files, whose file system has the least space left."""
    scratch = tempfile.gettempdir()
    return root if "://" not in root and free_space(root) <= free_space(scratch) else scratch


def format_bytes(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / GIB:,.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:,.0f} MiB"
