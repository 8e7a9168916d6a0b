"""An ingest that meets a full or failing disk at any of its writes leaves the old store or the new, never a part."""

from __future__ import annotations

import datetime as dt
import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Done, stages_in_process, watchnext
from damage import Injected, failing_write
from nights import DATE, night
from stores import DAYS, daily, day_of_watches, newest, write_day

from transforms.core import files

FORGET = '[privacy]\nforget = "forget.csv"\n'


def full_disk(path: str) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", path)


def input_output(path: str) -> OSError:
    return OSError(errno.EIO, "Input/output error", path)


ERRORS: dict[str, Callable[[str], OSError]] = {"full disk": full_disk, "failing disk": input_output}


def second_night(folder: Path) -> Path:
    """A first night's store, a day that was sent again, a new day, and a user to forget; and the job."""
    job = daily(folder, FORGET, days=DAYS[:3])
    (folder / "forget.csv").write_text("user_id\n")
    assert watchnext("nightly", job, "--date", DATE - dt.timedelta(days=1), "--only", "ingest").code == 0
    write_day(folder, DAYS[3], day_of_watches(DAYS[3]))
    write_day(folder, DAYS[0], day_of_watches(DAYS[0], mark="again"))
    (folder / "forget.csv").write_text("user_id\n3u\n")
    return job


def copy(folder: Path, to: Path) -> Path:
    """The job file of a copy of a job's folder. Times of change stay, so that no raw file looks new."""
    return Path(shutil.copytree(folder, to)) / "job.toml"


def ingest(job: Path) -> Done:
    return watchnext("nightly", job, "--date", DATE, "--only", "ingest", "--reingest", DAYS[0])


@pytest.mark.parametrize("part", range(4))
def test_a_failed_write_leaves_the_old_store_or_the_new(tmp_path: Path, injected: Injected, part: int) -> None:
    with stages_in_process():
        ready = second_night(tmp_path / "ready").parent
        undisturbed = copy(ready, tmp_path / "undisturbed")
        assert ingest(undisturbed).code == 0
        expected, at, left = newest(night(undisturbed)).digest, part + 1, [0]
        while left[0] <= 0 and at < 100:
            job, error = copy(ready, tmp_path / str(at)), list(ERRORS)[at // 4 % len(ERRORS)]
            with failing_write(at, ERRORS[error]) as left:
                done = ingest(job)
            if left[0] <= 0:
                injected(error)
                assert not done.has_traceback, (at, done.message)
                Path(night(job).root.lock).unlink(missing_ok=True)  # its process is gone
                _is_whole(job)
            assert ingest(job).code == 0
            assert newest(night(job)).digest == expected, at
            at += 4
        assert at > 12, "there were fewer writes than an ingest has"


def _is_whole(job: Path) -> None:
    """Whatever the newest snapshot lists exists with its digest."""
    of = night(job)
    for file in newest(of).files:
        assert files.file_entry(of.root.store, file.file.name).digest == file.file.digest
