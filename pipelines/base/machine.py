"""Memory and disk space of this machine, and the resources that a process used."""

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

    limit_bytes: int  # that processes may use: the machine's memory, or the limit of the container
    free_bytes: int  # available now without swapping
    limited_by: str  # "machine" or "cgroup"


@dataclass(frozen=True, kw_only=True)
class ResourceUse:
    """Resources that this process and its ended child processes used so far."""

    processor_seconds: float
    peak_bytes: int  # peak memory of the largest of these processes
    read_bytes: int = 0  # by system calls, also from the page cache; 0 where /proc does not tell
    written_bytes: int = 0


def resource_use() -> ResourceUse:
    """Return the resources used on this machine; processes on other machines are not counted."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return ResourceUse(
        processor_seconds=sum(usage.ru_utime + usage.ru_stime for usage in usages),
        peak_bytes=1024 * max(usage.ru_maxrss for usage in usages),
        **_bytes_moved(Path("/proc/self/io")),
    )


def _bytes_moved(path: Path) -> dict[str, int]:
    """Return the bytes that this process and its ended child processes read and wrote; {} where the kernel does not
    count them or may not be asked."""
    try:
        table = dict(re.findall(r"^(\w+): (\d+)$", path.read_text(), re.MULTILINE))
    except OSError:
        return {}
    return {"read_bytes": int(table["rchar"]), "written_bytes": int(table["wchar"])} if "rchar" in table else {}


def memory(root: Path = Path("/")) -> Memory:
    """Return the memory of this machine, or of the control group (container, systemd unit, batch job) of this process.

    root: the folder that contains `proc` and `sys`. Raises OSError if there is no /proc, that is, not on Linux.
    """
    table = dict(re.findall(r"^(\w+):\s+(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE))
    total, free = (int(table[name]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limits = [limit for path in _limit_files(root) if (limit := _number(path)) is not None and limit < total]
    if not limits:
        return Memory(limit_bytes=total, free_bytes=free, limited_by="machine")
    return Memory(limit_bytes=min(limits), free_bytes=min(free, min(limits)), limited_by="cgroup")


def _limit_files(root: Path) -> list[Path]:
    """Return the files that may hold a limit of this process's control group or one of its parents (cgroup v1, v2)."""
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
    """Return the number in a file; None if the file says that there is no limit, or does not exist."""
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdecimal() else None


def free_space(path: str) -> int:
    """Return the free bytes of the file system of a local path, which need not exist yet."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def fullest_folder(root: str) -> str:
    """Return `root` or the folder for temporary files, whichever local file system has less free space."""
    scratch = tempfile.gettempdir()
    return root if "://" not in root and free_space(root) <= free_space(scratch) else scratch


def format_bytes(size: float) -> str:
    """Format a number of bytes as GiB or MiB."""
    return f"{size / GIB:,.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:,.0f} MiB"
