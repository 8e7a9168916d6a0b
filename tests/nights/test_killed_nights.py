"""What must not hurt the store: a kill at any moment, a stop at any write, a full disk."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import subprocess
from pathlib import Path

import pytest
from damage import failing_write
from nights import DATE, night, run_python, start_python, wait_for
from stores import DAYS, below, counts, daily, day_of_watches, ingested, newest, write_day

from pipelines import ingest
from pipelines.base import snapshot_store
from pipelines.night.night import Night
from transforms.core import files

KILLS = 20


class StopError(Exception):
    """A crash, at the call it is raised in."""


@pytest.mark.parametrize(
    "at", [1, 5, 18, 50, *(pytest.param(at, marks=pytest.mark.slow) for at in (2, 3, 8, 13, 24, 30, 37, 44))]
)
def test_an_ingest_stopped_at_any_write_leaves_the_old_store_or_the_new(tmp_path: Path, at: int) -> None:
    job = daily(tmp_path, '[privacy]\nforget = "forget.csv"\n', days=DAYS[:3])
    (tmp_path / "forget.csv").write_text("user_id\n")
    before = newest(ingested(job, DATE - dt.timedelta(days=1)))
    write_day(tmp_path, DAYS[3], day_of_watches(DAYS[3]))
    write_day(tmp_path, DAYS[0], day_of_watches(DAYS[0], mark="again"))
    stopped = False
    with failing_write(at, StopError) as left:
        try:
            ingested(job, DATE, DAYS[0])
        except Exception as error:
            stopped = "StopError" in repr(error) or isinstance(error.__cause__, StopError)
    assert stopped == (left[0] <= 0)
    undisturbed = daily(tmp_path / "undisturbed", '[privacy]\nforget = "forget.csv"\n')
    (tmp_path / "undisturbed" / "forget.csv").write_text("user_id\n")
    write_day(tmp_path / "undisturbed", DAYS[0], day_of_watches(DAYS[0], mark="again"))
    after, found = newest(ingested(undisturbed)), newest(night(job))
    assert found.digest in (before.digest, after.digest)
    for file in found.files:  # whatever the snapshot lists is there, whole
        assert files.file_entry(night(job).root.store, file.file.name).digest == file.file.digest
    assert newest(ingested(job, DATE, DAYS[0])).digest == after.digest


def killed_at(of: Night, job: Path, chance: random.Random, *, writing: bool) -> int:
    """Kill an ingest at a random moment after it began, or after it wrote to the store; its exit code."""
    before = below(of)
    with start_python("-m", "pipelines.ingest", job, "--date", DATE) as process:
        wait_for(lambda: Path(of.root.lock).exists() or process.poll() is not None)
        if writing:
            wait_for(lambda: below(of) - before or process.poll() is not None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.0, 0.3 if writing else 1.5))
    return process.returncode


@pytest.mark.slow
def test_an_ingest_killed_twenty_times_comes_to_the_store_of_an_undisturbed_one(tmp_path: Path) -> None:
    chance = random.Random(11)
    job = daily(tmp_path, logs='watches = "w/{date}.parquet"\nsearches = "s/{date}.parquet"\nbatch_bytes = 1')
    undisturbed = ingested(daily(tmp_path / "undisturbed"))
    killed, written = 0, 0
    of = night(job)
    for kill in range(KILLS):
        code = killed_at(of, job, chance, writing=kill % 2 == 1)
        killed += code < 0
        written += bool(below(of)) and snapshot_store.latest(of.root.snapshots) is None
    ingest.run(of)
    assert newest(of).digest == newest(undisturbed).digest
    assert {f"{of.root.store}/{file.file.name}" for file in newest(of).files} == below(of)
    assert killed > 5 and written > 2, "no kill came while the store was written: the test would show nothing"
    for table in ("watches", "searches"):
        assert counts(of)["tables"][table] == counts(undisturbed)["tables"][table]  # type: ignore[index]


LIMITED = """
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pipelines import ingest
from pipelines.night.stage import stage_main
raise SystemExit(stage_main(ingest, sys.argv[1:]))
"""


def test_a_disk_that_takes_no_more_is_told_and_no_part_of_a_day_is_taken(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the same error from the same calls."""
    job = daily(tmp_path, days=[])
    for day in DAYS:
        write_day(tmp_path, day, day_of_watches(day, 18))
    done = run_python("-c", LIMITED.format(limit=1500), job, "--date", DATE)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "File too large" in done.stderr, done.stderr
    of = night(job)
    assert snapshot_store.latest(of.root.snapshots) is None and not os.path.exists(f"{of.folder('ingest')}/COMPLETED")
    assert newest(ingested(job)).digest == newest(ingested(daily(tmp_path / "undisturbed"))).digest
