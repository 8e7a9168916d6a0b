"""A job file that is damaged, or has a wrong value in any of its settings, is refused by name or read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, get_args

import pytest
from commands import watchnext
from damage import Injected
from pydantic import BaseModel

from pipelines.config.jobs import Job, JobError, load_job, table_of

JOB = """\
[logs]
watches = "watches/{date}.parquet"
searches = "searches/{date}.parquet"
videos = "videos.parquet"
time_zone = "Europe/Berlin"
[logs.columns]
user_id = "viewer"
[logs.columns.watches]
time = "at"
[examples]
window_days = 14
user_categories = ["plan"]
[model]
dimension = 64
hidden = [256]
[index]
only = "age_days < 30 and language = 'en'"
[storage]
root = "nightly"
[storage.redis]
url = "redis://localhost:6379/0"
[privacy]
forget = "forget.csv"
"""
WRONG = ('""', "-1", "[]", "{}", '"x"', "nan", "true", "1e400", "99999999999999999999", '["x", 1]', "2026-11-21")


def settings() -> list[str]:
    """Every setting by its table, `table.name`."""
    found = []
    for table, field in Job.model_fields.items():
        kind = table_of(field)
        assert kind is not None
        found += [f"{table}.{name}" for name in kind.model_fields]
        found += [f"{table}.{name}.{one}" for name, inner in kind.model_fields.items() for one in _inner(inner)]
    return found


def _inner(field: Any) -> list[str]:
    kinds = get_args(field.annotation) or (field.annotation,)
    kind = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
    return list(kind.model_fields) if kind else []


def refused_or_read(path: Path) -> str | None:
    """The message of the JobError, or None. Any other exception fails the test."""
    try:
        load_job(str(path))
    except JobError as error:
        return str(error)
    return None


def test_a_wrong_value_of_any_setting_is_refused_by_name_or_read(tmp_path: Path, injected: Injected) -> None:
    chance, path = random.Random(5), tmp_path / "job.toml"
    for setting, value in ((one, value) for one in settings() for value in chance.sample(WRONG, 4)):
        *table, name = setting.split(".")
        watches = "" if setting == "logs.watches" else '[logs]\nwatches = "w"\n'
        head = "" if table == ["logs"] and watches else f"[{'.'.join(table)}]\n"
        path.write_text(f"{watches}{head}{name} = {value}\n")
        message = refused_or_read(path)
        assert message is None or ".".join(table) in message, (setting, value, message)
        injected("setting")


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_job_file_is_refused_or_read(tmp_path: Path, injected: Injected, seed: int) -> None:
    chance, path, content = random.Random(seed), tmp_path / "job.toml", JOB.encode()
    for _ in range(15):
        at = chance.randrange(len(content))
        damaged = chance.choice(
            [
                content[:at],
                content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :],
                content[:at] + content[chance.randrange(at, len(content)) :],
                content[:at] + chance.randbytes(3) + content[at:],
            ]
        )
        path.write_bytes(damaged)
        refused_or_read(path)
        injected("job file")


@pytest.mark.parametrize("command", ["nightly", "lookup", "rollback", "backfill", "doctor"])
def test_commands_refuse_a_wrong_setting_with_exit_code_2(tmp_path: Path, injected: Injected, command: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[logs]\nwatches = "w"\n[neighbours]\nk = -1\n')
    more = {"lookup": ["u1"], "backfill": ["--from", "2026-11-20", "--to", "2026-11-21"]}.get(command, [])
    done = watchnext(command, path, *more)
    assert not done.has_traceback and "neighbours.k = -1" in done.message, done.message
    assert done.code == (1 if command == "doctor" else 2)  # doctor's exit code counts findings
    assert [file.name for file in tmp_path.iterdir()] == ["job.toml"]
    injected("setting")
