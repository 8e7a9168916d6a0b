from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from breadth import fewer
from hypothesis import given, settings
from hypothesis import strategies as st
from nights import DATE, night, write_job

from pipelines import examples, ingest, vocabulary
from trainer.config import ModelSettings
from trainer.examples import ExampleFiles, Vocabulary, read_folder, read_label_counts, read_vocabularies
from trainer.export import export_tower
from trainer.model import UserTower
from trainer.raw import RawFeatures, raw_unsupported_reason
from transforms.contracts.example_spec import FeatureSpec
from transforms.core.tensorflow_import import tf
from transforms.examples.tokens import tokens

VIDEOS, TOKENS = ["tea", "jäzz", "a video"], ["green", "green tea", "tea"]
SPEC = FeatureSpec(
    videos=3, tokens=3, watch_history=4, search_history=2, categories={"country": ["SE"]}, numbers=["age"]
)


def named(values: Sequence[str]) -> Vocabulary:
    return Vocabulary(names=pa.array(values), counts=np.ones(len(values), np.int64))


NAMES = {"videos": named(VIDEOS), "tokens": named(TOKENS), "country": named(["SE"])}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ExampleFiles:
    """Return examples whose graph gives "SE" the id 1."""

    class Graph(tf.Module):
        @tf.function(
            input_signature=[{"country": tf.TensorSpec([None], tf.string), "example_age": tf.TensorSpec([None])}]
        )
        def transform_fn(self, inputs: dict[str, Any]) -> dict[str, Any]:
            return {"country": tf.cast(inputs["country"] == "SE", tf.int64), "example_age": inputs["example_age"] + 0.5}

    folder = str(tmp_path_factory.mktemp("graph"))
    tf.saved_model.save(Graph(), folder)
    return ExampleFiles(train=(), holdout=(), spec=SPEC, label_counts="", graph=folder)


@pytest.fixture(scope="module")
def read_raw(files: ExampleFiles) -> Any:
    return tf.function(RawFeatures(files, NAMES), reduce_retracing=True, autograph=False)


def strings(rows: Sequence[Sequence[str]], *, front: int) -> Any:
    """Return rows of equal length, padded with `front` times "" in front and the rest behind."""
    length = max(len(row) for row in rows) + front
    return tf.constant([[""] * front + list(row) + [""] * (length - front - len(row)) for row in rows], tf.string)


def context(users: int) -> dict[str, Any]:
    return {
        "country": tf.constant(["SE", "", "FR"][:users]),
        "birth_year": tf.constant([1990, 0, 1850][:users], tf.int64),
        "year": tf.constant([2026] * users, tf.int64),
    }


words = st.lists(st.sampled_from([*VIDEOS, *TOKENS, "unheard of"]), max_size=7)


@settings(max_examples=fewer(30), deadline=None)
@given(
    watches=st.lists(words, min_size=3, max_size=3),
    asked=st.lists(words, min_size=3, max_size=3),
    front=st.integers(0, 2),
)
def test_windows_equal_those_of_a_record(
    read_raw: Any, watches: list[list[str]], asked: list[list[str]], front: int
) -> None:
    batch = read_raw({"watches": strings(watches, front=front), "tokens": strings(asked, front=front), **context(3)})
    for watched, ids in zip(watches, batch["watches"].numpy().tolist(), strict=True):
        known = [VIDEOS.index(name) + 1 if name in VIDEOS else 0 for name in watched]
        assert ids == ([0] * 4 + known)[-4:]
    for searched, ids in zip(asked, batch["tokens"].numpy().tolist(), strict=True):
        assert ids == ([0] * 2 + [TOKENS.index(name) + 1 for name in searched if name in TOKENS])[-2:]


def test_the_graph_encodes_context_and_the_example_age_is_0(read_raw: Any) -> None:
    batch = read_raw({"watches": strings([["tea"]] * 3, front=0), "tokens": strings([[]] * 3, front=1), **context(3)})
    assert batch["country"].numpy().tolist() == [1, 0, 0]
    assert batch["example_age"].numpy().tolist() == [0, 0, 0]
    assert batch["age"].numpy().tolist() == [np.float32(0.36), -1, 1]
    assert {batch[name].dtype for name in ("watches", "tokens", "country")} == {tf.int32}


@pytest.mark.parametrize(
    ("changed", "spec", "without", "message"),
    [
        ({"graph": None}, {}, "", "without the graph"),
        ({}, {"shared_rows": 5}, "", "share rows by a digest"),
        ({}, {}, "tokens", "without the names of the search tokens"),
        ({}, {"numbers": ["age", "height"]}, "", "age is the only number that raw features provide, not height"),
        ({}, {}, "", None),
    ],
)
def test_the_reason_for_no_raw_features_is_returned(
    files: ExampleFiles, changed: dict[str, Any], spec: dict[str, Any], without: str, message: str | None
) -> None:
    changed_files = replace(files, spec=replace(SPEC, **spec), **changed)
    vocabularies = {name: vocabulary for name, vocabulary in NAMES.items() if name != without}
    reason = raw_unsupported_reason(changed_files, vocabularies)
    assert reason is None if message is None else message in str(reason)


def test_names_too_large_for_a_graph_are_a_reason(files: ExampleFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.raw.MAX_NAME_BYTES", 30)
    assert "a graph holds no more than 30" in str(raw_unsupported_reason(files, NAMES))


WATCHES = [
    {"user_id": "ann", "time": "2026-11-18T10:00:00Z", "video_id": "tea", "completed": True, "country": "SE"},
    {"user_id": "ann", "time": "2026-11-18T11:00:00Z", "video_id": "jazz", "completed": False, "country": "DE"},
    {"user_id": "ann", "time": "2026-11-19T10:00:00Z", "video_id": "jazz", "completed": True, "country": "DE"},
    {"user_id": "bob", "time": "2026-11-19T12:00:00Z", "video_id": "tea", "completed": True, "country": "SE"},
    {"user_id": "bob", "time": "2026-11-19T13:00:00Z", "video_id": "rare", "completed": True, "country": None},
    {"user_id": "eve", "time": "2026-11-19T13:00:00Z", "video_id": "jazz", "completed": False, "country": "DE"},
]
SEARCHES = [
    {"user_id": "ann", "time": "2026-11-18T09:00:00Z", "query": "Green TEA"},
    {"user_id": "bob", "time": "2026-11-20T13:00:00Z", "query": "green"},
]
USERS = [{"user_id": "ann", "gender": "f", "birth_year": 1986}, {"user_id": "bob", "gender": None, "birth_year": None}]
RAW: dict[str, dict[str, Any]] = {  # each user at the end of the window
    "ann": {"watches": ["tea", "jazz"], "tokens": tokens("Green TEA"), "country": "DE", "gender": "f", "birth": 1986},
    "bob": {"watches": ["tea", "rare"], "tokens": tokens("green"), "country": "SE", "gender": "", "birth": 0},
    "eve": {"watches": [], "tokens": [], "country": "DE", "gender": "", "birth": 0},
}


PARTIAL: dict[str, tuple[list[str], list[bool]]] = {  # the same with watches that were not completed
    "ann": (["tea", "jazz", "jazz"], [True, False, True]),
    "bob": (["tea", "rare"], [True, True]),
    "eve": (["jazz"], [False]),
}


def written_examples(folder: Path, *, partial_watches: bool) -> str:
    """Write the examples of these logs and return their folder."""
    for name, rows in (("watches", WATCHES), ("searches", SEARCHES), ("users", USERS)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    logs = "\n".join(f'{table} = "{table}.jsonl"' for table in ("watches", "searches", "users"))
    settings = (
        f"[examples]\nwindow_days = 5\nholdout_days = 0\nwatch_vocabulary = 2\npartial_watches = {partial_watches}"
    )
    job = write_job(folder, logs, settings.lower() + "\n")
    of = night(job)
    for stage in (ingest, vocabulary, examples):
        stage.run(of)
    return of.folder("examples")


@pytest.mark.parametrize("partial_watches", [False, True])
def test_raw_features_have_the_vector_of_the_serving_record(tmp_path: Path, partial_watches: bool) -> None:
    """Run the real stages on logs, and compare both signatures of an exported tower."""
    folder = written_examples(tmp_path, partial_watches=partial_watches)
    given = read_folder(folder)
    names = read_vocabularies(given, read_label_counts(given))
    assert raw_unsupported_reason(given, names) is None and given.dates["newest"].startswith("2026-11-19T13")
    tower = UserTower(given.spec, ModelSettings(dimension=8, hidden=[16], history="recency"), seed=1)
    export_tower(tower, str(tmp_path / "tower"), raw=RawFeatures(given, names))
    served = tf.saved_model.load(str(tmp_path / "tower"))
    records = [r for path in Path(folder).glob("serving/*.gz") for r in tf.data.TFRecordDataset(str(path), "GZIP")]
    encoded = served.signatures["examples"](examples=tf.stack(records))
    users = [user.decode() for user in encoded["user_id"].numpy()]
    assert sorted(users) == sorted(RAW)
    of = [RAW[user] for user in users]
    raw = {name: strings([user[name] for user in of], front=1) for name in ("watches", "tokens")}
    if partial_watches:
        raw["watches"] = strings([PARTIAL[user][0] for user in users], front=1)
        flags = [[True, *PARTIAL[user][1], True, True] for user in users]
        raw["completed"] = tf.constant([row[: raw["watches"].shape[1]] for row in flags], tf.bool)
    raw |= {name: tf.constant([user[name] for user in of]) for name in ("country", "gender")}
    raw |= {"birth_year": tf.constant([user["birth"] for user in of], tf.int64)}
    raw |= {"year": tf.fill([3], tf.constant(DATE.year, tf.int64))}
    vectors = served.signatures["raw"](**raw)["vector"].numpy()
    np.testing.assert_allclose(vectors, encoded["vector"], rtol=1e-5, atol=1e-6)
    assert len(np.unique(vectors.round(4), axis=0)) == 3
