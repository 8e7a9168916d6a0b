"""Stage ingest is stopped at a write or finds the disk full: the store stays as it was."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from damage import failing_write
from nights import DATE, night, run_python
from stores import DAYS, daily, day_of_watches, ingested, newest, write_day

from pipelines.base import snapshot_store
from transforms.core import files


class StopError(Exception):
    """A crash, at the call it is raised in."""


@pytest.mark.parametrize("at", [5, 50])  # tests/faults/test_ingest_stops.py stops at every write
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


LIMITED = """
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pipelines import ingest
from pipelines.night.stage import stage_main
raise SystemExit(stage_main(ingest, sys.argv[1:]))
"""


def test_an_ingest_on_a_full_disk_fails_and_stores_no_part_of_a_day(tmp_path: Path) -> None:
    """A limit on the size of files replaces a full disk: the same calls raise the same error."""
    job = daily(tmp_path, days=[])
    for day in DAYS:
        write_day(tmp_path, day, day_of_watches(day, 18))
    done = run_python("-c", LIMITED.format(limit=1500), job, "--date", DATE)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "File too large" in done.stderr, done.stderr
    of = night(job)
    assert snapshot_store.latest(of.root.snapshots) is None and not os.path.exists(f"{of.folder('ingest')}/COMPLETED")
    assert newest(ingested(job)).digest == newest(ingested(daily(tmp_path / "undisturbed"))).digest
