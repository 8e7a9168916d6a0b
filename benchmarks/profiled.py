"""Count the calls of each function: run a module under Python's profiler, in every thread.

    python -m benchmarks.profiled OUT.prof MODULE [arguments]     # like python -m MODULE, and writes OUT.prof

`cProfile` profiles only the thread in which it is started, but Beam's embedded runner starts threads.
"""

from __future__ import annotations

import cProfile
import pstats
import re
import runpy
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # differs between processes


def calls(path: Path) -> Counter[str]:
    """Return the number of calls of each function in a profile, C functions included, by place and name."""
    found: Counter[str] = Counter()
    for (file, line, name), row in pstats.Stats(str(path)).stats.items():  # type: ignore[attr-defined]
        found[f"{_place(file, line)}{_ADDRESS.sub('', name)}"] += row[1]
    return found


def _place(file: str, line: int) -> str:
    parts = Path(file).parts
    if file == "~":
        return ""
    if "site-packages" in parts:
        parts = parts[parts.index("site-packages") + 1 :]
    elif Path(file).is_relative_to(ROOT):
        parts = Path(file).relative_to(ROOT).parts
    return f"{'/'.join(parts[-3:])}:{line} "


def main(out: str, module: str, arguments: list[str]) -> None:
    profiles: list[cProfile.Profile] = []

    def begin(*_: Any) -> None:
        profiles.append(cProfile.Profile())
        profiles[-1].enable()  # replaces this function, which every new thread calls once

    threading.setprofile(begin)
    sys.argv = [module, *arguments]
    begin()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        threading.setprofile(None)
        profiles[0].disable()
        total = pstats.Stats(profiles[0])
        for profile in profiles[1:]:
            if profile.getstats():
                total.add(profile)
        total.dump_stats(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
