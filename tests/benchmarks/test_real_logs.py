"""The logs that benchmarks import are row by row those that their figures were measured on.

`WATCHNEXT_PUBLIC_DATA` names a folder with `data/`, where the public files are, and `tools/`, the converters that wrote
the logs before; by default the folder `shared` next to this checkout. Without them the tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from nights import REPOSITORY
from polars.testing import assert_frame_equal

from benchmarks.real_logs import NIGHTS, job_text, with_setting, write_logs

PUBLIC = Path(os.environ.get("WATCHNEXT_PUBLIC_DATA", REPOSITORY.parent / "shared"))
LOGS = {
    "kuairand": ("kuairand_logs.py", [], "kuairand-pure"),
    "movietweetings": ("movietweetings_logs.py", [], "movietweetings-100k"),
    "Toys_and_Games": ("sequences_logs.py", ["Toys_and_Games"], "sequences/Toys_and_Games.txt"),
    "LastFM": ("sequences_logs.py", ["LastFM"], "sequences/LastFM.txt"),
}


def read(folder: Path) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(folder.glob("*.parquet")))


def test_every_night_has_a_row() -> None:
    assert LOGS.keys() == NIGHTS.keys()


@pytest.mark.parametrize("validation", [False, True], ids=["test", "validation"])
@pytest.mark.parametrize("name", LOGS)
def test_rows_are_those_of_the_converters(name: str, validation: bool, tmp_path: Path) -> None:
    script, arguments, path = LOGS[name]
    converter, data = PUBLIC / "tools" / script, PUBLIC / "data" / path
    if not (converter.exists() and data.exists()):
        pytest.skip(f"there is no {script} or {path} in {PUBLIC}")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    flags = ["--validation"] if validation and name != "kuairand" else []
    command = [sys.executable, str(converter), *arguments, str(theirs), *flags]
    subprocess.run(command, check=True, capture_output=True)
    truth = write_logs(data, name, ours, validation=validation)
    for table in ("videos", "users"):
        assert (ours / f"{table}.parquet").exists() == (theirs / f"{table}.parquet").exists()
    tables = [path.name for path in sorted(theirs.glob("*.parquet"))]
    pairs = [(read(ours / "watches"), read(theirs / "watches"))]
    pairs += [(pl.read_parquet(ours / table), pl.read_parquet(theirs / table)) for table in tables]
    assert truth.name in tables
    for own, expected in pairs:
        assert_frame_equal(own.select(expected.columns), expected, check_row_order=False)
        assert set(own.columns) == set(expected.columns)


def test_settings_replace_those_of_the_job() -> None:
    text = with_setting(job_text("LastFM"), "neighbours.k", "7")
    assert "k = 7\n" in text and "k = 50" not in text
    assert "[model]\nhistory = " in with_setting(text, "model.history", '"mean"')
