"""A ranker is trained from a folder, and mistakes are reported in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ranking_records import BARE, SPEC, random_records, write_graph, write_records

from trainer.ranker.task import main, read_ranking_folder
from transforms.core.tensorflow_import import tf


def folder_of(path: Path) -> Path:
    write_graph(path / "graph")
    shutil.copytree(path / "graph" / "fn", path / "records" / "transform_fn")
    write_records(path / "records" / "train", random_records(40, seed=1))
    (path / "records" / "spec.json").write_text(SPEC.to_json(), encoding="utf-8")
    return path / "records"


def test_the_command_line_trains_a_ranker_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records, output = folder_of(tmp_path), tmp_path / "ranker"
    (tmp_path / "settings.json").write_text('{"hidden": "none", "epochs": 2, "batch_size": 16}', encoding="utf-8")
    given = ["--records", str(records), "--output", str(output), "--settings", str(tmp_path / "settings.json")]
    assert main([*given, "--attempt", "one"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(tf.saved_model.load(result["ranker"]).signatures) == {"score", "explain", "records"}
    info = json.loads((output / "info.json").read_text(encoding="utf-8"))
    assert info["ranker"] == "ranker-one" and result["auto"] == {}
    assert (info["settings"]["hidden"], info["settings"]["epochs"]) == ([], 2)
    curve = json.loads((output / "history.json").read_text(encoding="utf-8"))["loss"]
    assert curve[-1]["examples"] == info["examples"] == result["examples"] > 0
    assert curve[-1]["loss"] == result["loss"]


def test_a_spec_without_numbers_needs_no_graph(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(BARE.to_json(), encoding="utf-8")
    paths = write_records(tmp_path / "train", random_records(4, seed=1, spec=BARE), files=2)
    files = read_ranking_folder(f"{tmp_path}/")
    assert (files.train, files.graph, files.spec) == (paths, None, BARE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "spec.json does not exist: --records must name a folder of ranking records"),
        ('{"hiden": "none"}', "Extra inputs are not permitted"),
        ("{", "Invalid JSON"),
        ("missing", "missing.json does not exist: --settings must name a JSON file"),
    ],
)
def test_mistakes_are_reported_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str | None, message: str
) -> None:
    given = ["--records", str(tmp_path), "--output", str(tmp_path / "out")]
    if settings is not None:
        path = tmp_path / ("missing.json" if settings == "missing" else "settings.json")
        if settings != "missing":
            path.write_text(settings, encoding="utf-8")
        given += ["--settings", str(path)]
    assert main(given) == 1
    assert message in capsys.readouterr().err
