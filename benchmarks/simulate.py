"""Measure watch events per second of `watchnext simulate`, for 1,000,000 events, including files and truth.

python -m benchmarks.simulate
"""

from __future__ import annotations

import resource
import tempfile
import time
from datetime import date
from pathlib import Path

from pipelines.simulate import simulate
from transforms.simulation.world import SimulationSettings

USERS, VIDEOS, DAYS = 12_600, 5_000, 21  # about four watches per user and day


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        settings = SimulationSettings(users=USERS, videos=VIDEOS, days=DAYS, last_day=date(2026, 11, 20))
        counts = simulate(Path(folder) / "logs", settings)
        seconds = time.perf_counter() - began
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
        print(
            f"{counts['watches']:,} watches, {counts['searches']:,} searches, {counts['impressions']:,} impressions in "
            f"{seconds:.1f} s: {counts['watches'] / seconds:,.0f} watches/s, peak memory {peak_mib:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
